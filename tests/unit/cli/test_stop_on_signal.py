"""Signals in a real process: the first stops the job in good order, the second leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# A job that runs until it is stopped (and, if "stubborn", not even then), in the place of the real one.
PROGRAM = """
import sys, threading, time, types
class Report:
    summary = {"job": "news", "state": "stopped", "recipients": 1, "pending": 1}
    exit_code, error = 3, None
class Job:
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
        print("stop", flush=True)
        if "stubborn" not in sys.argv:
            self.ended.set()
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
            preexec_fn=hear_sighup if hears and os.name == "posix" else None,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
