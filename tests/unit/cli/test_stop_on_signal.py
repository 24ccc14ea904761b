"""Signals in a real process: the first stops the job in good order, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# A job that runs until it is stopped (and, if "stubborn", not even then), in the place of the real one.
PROGRAM = """
import contextlib, pathlib, sys, threading, time, types
class Manifest:
    path, journal = pathlib.Path("news.json"), pathlib.Path("news.journal")
    recipients = types.SimpleNamespace(source="-", suppress=())
    events, relays = None, ()
class Report:
    summary = {"job": "news", "state": "stopped", "recipients": 1, "pending": 1}
    exit_code, error = 3, None
class Job:
    manifest = Manifest
    ended = threading.Event()
    @classmethod
    def load(cls, path, **named):
        if path == "slow.json":
            print("ready", flush=True)
            time.sleep(60)
        return cls()
    def run(self, on_event=None, **named):
        if on_event:
            on_event({"event": "started"})
        print("ready", flush=True)
        while not self.ended.wait(0.05):
            pass
        return Report()
    def stop(self):
        with contextlib.suppress(OSError):  # of a terminal that is gone
            print("stop", flush=True)
        if "stubborn" not in sys.argv:
            self.ended.set()
    def reload(self):
        print("reload", flush=True)
    def progress(self):
        return {}
module = types.ModuleType("bulkmail.job.job")
module.Job = Job
sys.modules["bulkmail.job.job"] = module
from bulkmail.cli import main
main([arg for arg in sys.argv[1:] if arg != "stubborn"])
"""


def hear_sighup() -> None:
    """A test run under nohup ignores SIGHUP, and its children would too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def start():
    started = []

    def start(*args: str, hears: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # no terminal
            preexec_fn=hear_sighup if hears and os.name == "posix" else None,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_the_job_in_good_order(start, number):
    process = start("send", "m.json")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out.startswith("stop\nnews: stopped")
    assert "in flight" in err and "--resume" in err and "Traceback" not in err


def test_the_second_signal_leaves_at_once_with_the_events_written(start, tmp_path):
    process = start("stubborn", "send", "m.json", "--events", str(tmp_path / "e"))
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stop\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out == "" and "Traceback" not in err
    assert (tmp_path / "e").read_bytes() == b'{"event":"started"}\n'


def test_a_signal_while_the_manifest_is_read_ends_it_there(start):
    process = start("send", "slow.json")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "")
    assert err == "bulkmail: stopped before anything was sent\n"


def test_a_hang_up_signal_without_a_terminal_reads_the_limits_again(start):
    process = start("send", "m.json")
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "reload\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.splitlines()[0]) == (3, "stop")
    assert "once more leaves at once" in err


def test_a_hang_up_signal_while_the_manifest_is_read_is_of_no_consequence(start):
    process = start("send", "slow.json")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (3, "", "bulkmail: stopped before anything was sent\n")


# -- with a real terminal


@pytest.fixture
def on_terminal():
    """on_terminal(argv): (pid, what is read and written at the terminal's other end). The child leads its session."""
    children = []

    def begin(*argv: str) -> tuple[int, int]:
        pty = pytest.importorskip("pty", reason="this system has no terminals of its own")
        pid, end = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.environ["PYTHONPATH"] = str(ROOT)
            os.execv(argv[0], list(argv))
        children.append(pid)
        return pid, end

    yield begin
    for pid in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def read_until(end: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([end], [], [], 20)[0], seen
        seen += os.read(end, 4096)
    return seen


def exit_status(pid: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise AssertionError("it does not end")


def test_a_terminal_that_is_closed_stops_the_job_in_good_order(on_terminal, tmp_path):
    pid, end = on_terminal(sys.executable, "-c", PROGRAM, "send", "m.json", "--events", str(tmp_path / "e"))
    read_until(end, b"ready\r\n")
    os.close(end)
    assert exit_status(pid) == 3
    assert (tmp_path / "e").read_bytes() == b'{"event":"started"}\n'


def test_a_hang_up_signal_on_a_terminal_that_is_there_reads_the_limits_again(on_terminal):
    pid, end = on_terminal(sys.executable, "-c", PROGRAM, "send", "m.json", "--no-progress")
    read_until(end, b"ready\r\n")
    os.kill(pid, signal.SIGHUP)
    read_until(end, b"reload\r\n")
    os.kill(pid, signal.SIGTERM)
    read_until(end, b"stop\r\n")
    assert exit_status(pid) == 3
    os.close(end)


def test_a_job_in_the_background_of_a_shell_whose_terminal_closes_stops_too(on_terminal, tmp_path):
    """The shell passes the signal on; by then the terminal is gone."""
    program, out = tmp_path / "p.py", tmp_path / "out"
    program.write_text(PROGRAM)
    _, end = on_terminal("/bin/bash", "--norc", "-i")
    os.write(end, f"{sys.executable} {program} send m.json </dev/null >{out} 2>&1 &\n".encode())

    def wait_for(word: str) -> str:
        deadline = time.monotonic() + 20
        while not out.exists() or word not in out.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return out.read_text()

    wait_for("ready")
    os.close(end)
    assert "reload" not in wait_for("news: stopped")


def test_nohup_keeps_a_closed_terminal_from_stopping_the_job(start, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the child, as nohup does
    try:
        process = start("send", "m.json", hears=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3 and out.count("stop\n") == 1
