"""`bulkmail pause`, `resume`, `stop`, `set` and SIGHUP on a job that runs, and that what they promise is kept."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import stat
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from integration.cli_program import SECONDS, bulkmail, command, environment, refused, start, write_job
from integration.sink_program import sink

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")


def wait_for(condition, process=None):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


class Running:
    """A job that runs in `folder`; the events that it has told."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.process = start("send", "news.json", "--json", "--events", "events", *options, cwd=folder)
        wait_for((folder / "news.journal.control").exists, self.process)

    def order(self, *args):
        done = bulkmail(args[0], "news.journal", *args[1:], cwd=self.folder)
        assert done.returncode == 0, done
        return done.stdout

    def status(self):
        return json.loads(bulkmail("status", "news.journal", "--json", cwd=self.folder).stdout)

    def events(self, *names):
        lines = (self.folder / "events").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] in names]

    def end(self):
        out, err = self.process.communicate(timeout=SECONDS)
        assert "Traceback" not in err
        return self.process.returncode, json.loads(out), err


@pytest.fixture
def begin(tmp_path):
    """begin(rows, *options, rate=, connections=, **keys) starts a job to a sink that stores."""
    jobs = []
    with sink(tmp_path) as box:

        def begin(rows, *options, query="", **keys):
            write_job(tmp_path, f"smtp://127.0.0.1:{box.port}{query}", rows, **keys)
            jobs.append(Running(tmp_path, *options))
            jobs[-1].box = box
            return jobs[-1]

        yield begin
        for job in jobs:
            job.process.kill()
            job.process.communicate()


def claimed(job):
    """How many are claimed and have no outcome: the next run would have them in doubt."""
    with closing(sqlite3.connect(f"file:{job.folder / 'news.journal'}?mode=ro", uri=True)) as db:
        chunks = db.execute("SELECT outcome, claimed FROM chunk").fetchall()
    return sum(outcome[:count].count(b".") for outcome, count in chunks)


def received(job):
    return Counter(address for envelope in job.box.envelopes() for address in envelope["to"])


def everybody(count):
    return Counter(f"r{n}@example.com" for n in range(1, count + 1))


def test_pause_and_resume_deliver_everybody_once(begin):
    job = begin(1500, limits={"rate": "500/s"})
    wait_for(lambda: job.status()["delivered"] > 50)
    assert job.order("pause") == "running -> paused\n"
    assert job.order("pause") == "paused\n"
    status = wait_for(lambda: (now := job.status())["delivered"] == sum(received(job).values()) and now)
    assert (status["state"], status["paused"]) == ("running", True)
    count = sum(received(job).values())
    time.sleep(0.5)  # 250 messages' worth
    assert sum(received(job).values()) == count == job.status()["delivered"] < 1500
    assert "news: paused" in bulkmail("status", "news.journal", cwd=job.folder).stdout
    assert job.order("set", "rate=5000/s") == "paused\n  rate: 500/s -> 5000/s\n"
    assert job.order("resume") == "paused -> running\n"
    code, summary, _ = job.end()
    assert (code, summary["delivered"]) == (0, 1500)
    assert "paused" not in summary
    assert received(job) == everybody(1500)
    told = [(event["event"], event["scope"], event["why"]) for event in job.events("throttled", "resumed")]
    assert told == [("throttled", "job", "paused by the operator"), ("resumed", "job", "resumed by the operator")]
    assert not (job.folder / "news.journal.control").exists()


def test_a_paused_job_that_is_killed_leaves_nobody_in_doubt_and_starts_unpaused(begin):
    job = begin(3000, limits={"rate": "1000/s"})
    wait_for(lambda: job.status()["delivered"] > 50)
    job.order("pause")
    wait_for(lambda: sum(received(job).values()) == job.status()["delivered"] and not claimed(job))
    job.process.kill()
    job.process.communicate()
    status = job.status()
    assert (status["state"], status["in_doubt"], status.get("paused")) == ("stopped", 0, None)
    assert (job.folder / "news.journal.control").exists()
    refused(bulkmail("pause", "news.journal", cwd=job.folder), "no run holds news.journal")
    again = bulkmail("send", "news.json", "--resume", "--rate", "100000/s", cwd=job.folder)
    assert again.returncode == 0, again
    assert received(job) == everybody(3000)
    assert not (job.folder / "news.journal.control").exists()


def test_stop_is_as_sigterm_and_can_be_waited_for(begin):
    job = begin(3000, limits={"rate": "100/s"})
    out = job.order("stop", "--wait")
    assert out.startswith("running -> stopping\nnews: stopped")
    assert job.process.wait(timeout=SECONDS) == 3
    _, summary, err = job.end()
    assert (summary["state"], summary["in_doubt"]) == ("stopped", 0)
    assert "--resume" in err
    assert summary["delivered"] == sum(received(job).values())
    refused(bulkmail("stop", "news.journal", "--wait", cwd=job.folder), "no run holds")


def test_sigterm_stops_a_paused_job(begin):
    job = begin(3000, limits={"rate": "100/s"})
    job.order("pause")
    job.process.send_signal(signal.SIGTERM)
    code, summary, _ = job.end()
    assert (code, summary["state"], summary["in_doubt"]) == (3, "stopped", 0)


def test_only_its_owner_may_give_orders(begin):
    job = begin(100, limits={"rate": "10/s"})
    assert stat.S_IMODE((job.folder / "news.journal.control").stat().st_mode) == 0o600
    job.process.terminate()
    job.end()


def test_a_limit_that_there_is_not_changes_nothing(begin):
    job = begin(3000, limits={"rate": "100/s"})
    done = bulkmail("set", "news.journal", "rate=9/s", "relay.main.rate=5/s", cwd=job.folder)
    refused(done, "there is no relay 'main'; there is '127.0.0.1'")
    refused(bulkmail("set", "news.journal", "rate", cwd=job.folder), "expected NAME=VALUE")
    answer = json.loads(job.order("set", "connections=3", "--json"))
    assert answer["after"]["limits"]["rate"] == "100/s"
    assert answer["after"]["limits"]["connections"] == 3
    job.process.terminate()
    job.end()


@pytest.fixture
def hang_up_heard():
    """Whoever began the tests under nohup ignores it, and so do the programs that they begin."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_hang_up_reads_the_limits_again(hang_up_heard, begin):
    job = begin(1200, query="?rate=50/s&connections=2", limits={"rate": "40/s"})
    path = job.folder / "news.json"
    manifest = json.loads(path.read_text())
    path.write_text("{")
    job.process.send_signal(signal.SIGHUP)
    line = job.process.stderr.readline()
    assert line.startswith("bulkmail: ") and "the limits stay as they are" in line and "news.json" in line
    manifest["limits"] = {"rate": "40/s", "domains": {"b.example,a.example": {"rate": "1/s"}}}
    path.write_text(json.dumps(manifest))
    job.process.send_signal(signal.SIGHUP)
    assert "domain.b.example,a.example.rate: new or gone, which only" in job.process.stderr.readline()
    assert "start_at, windows" in job.process.stderr.readline()
    manifest["limits"] = {"rate": "4000/s"}
    manifest["relays"] = manifest["relays"].replace("rate=50/s&connections=2", "rate=5000/s&connections=4")
    path.write_text(json.dumps(manifest))
    job.process.send_signal(signal.SIGHUP)
    code, summary, _ = job.end()
    assert (code, summary["delivered"]) == (0, 1200)  # at 40/s it would take 30 s
    assert summary["seconds"] < 25
    assert received(job) == everybody(1200)


def test_a_real_job_whose_terminal_is_closed_stops_in_good_order(tmp_path):
    pty = pytest.importorskip("pty", reason="this system has no terminals of its own")
    with sink(tmp_path, store=False) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 3000, limits={"rate": "100/s"})
        pid, end = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.chdir(tmp_path)
            os.execve(sys.executable, command("send", "news.json"), environment(TERM="xterm"))
        try:
            wait_for((tmp_path / "news.journal.control").exists)
            wait_for(lambda: not select.select([end], [], [], 0)[0] or os.read(end, 65536) is None)
            os.close(end)
            status = wait_for(lambda: next((s for p, s in [os.waitpid(pid, os.WNOHANG)] if p), None))
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
    assert os.waitstatus_to_exitcode(status) == 3
    summary = json.loads(bulkmail("status", "news.journal", "--json", cwd=Path(tmp_path)).stdout)
    assert (summary["state"], summary["in_doubt"]) == ("stopped", 0)


def test_a_job_that_waits_for_its_time_is_paused_and_stopped_as_any_other(begin):
    job = begin(100, start_at="2099-01-01T00:00:00Z")
    status = wait_for(lambda: (now := job.status()).get("waiting") and now)
    assert (status["delivered"], status["limited_by"]["by"]) == (0, "waiting")
    assert job.order("pause") == "running -> paused\n"
    assert job.status()["limited_by"]["by"] == "paused"
    assert job.order("resume") == "paused -> running\n"
    assert sum(received(job).values()) == 0
    job.process.send_signal(signal.SIGTERM)
    code, summary, _ = job.end()
    assert (code, summary["pending"], summary["in_doubt"]) == (3, 100, 0)
