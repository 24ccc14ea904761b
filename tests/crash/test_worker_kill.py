"""kill -9 of a worker, of all, of the run that has them: as after a crash of the whole, nobody is sent to twice.

Incident: one of several senders dies, and what it had in hand is sent again by the others; or is never sent, and the
job waits for it for ever; or it lives on without its journal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkmail.job.stock import COMMIT_RECIPIENTS
from crash.test_send_kill import (
    CONNECTIONS,
    HELD,
    RECIPIENTS,
    SECONDS,
    Sink,
    account,
    finish,
    send,
    sink,
    states,
    status,
    write_job,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process can be handed a socket")
__all__ = ["sink"]  # a fixture

WORKERS = 2
# docs/workers.md: what the connections hold, and what one commit of each worker claims.
MOST_IN_DOUBT = CONNECTIONS * HELD + WORKERS * COMMIT_RECIPIENTS


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "workers.worker"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the condition did not come about"
        time.sleep(0.001)


def is_gone(pid: int) -> bool:
    """It has ended; whoever has adopted it may not have looked yet."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not found.stdout.strip() or found.stdout.startswith("Z")


def test_a_worker_that_dies_leaves_few_in_doubt_and_the_others_go_on(tmp_path: Path, sink: Sink) -> None:
    manifest, journal = write_job(tmp_path, sink.port, workers=WORKERS), tmp_path / "kill.journal"
    process = send(manifest)
    wait_until(lambda: sink.look() >= 3000, process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, err
    summary = json.loads(out)
    assert summary["state"] == "finished"
    assert summary["in_doubt"] <= MOST_IN_DOUBT
    assert "1 of 2 workers go on" in err
    account(sink, summary, journal)
    assert finish(send(manifest, "--resume"))["in_doubt"] == summary["in_doubt"]
    again = finish(send(manifest, "--resume", "--in-doubt", "resend"))
    assert again["delivered"] == RECIPIENTS
    print(f"in doubt: {summary['in_doubt']}, allowed {MOST_IN_DOUBT}")


def test_a_run_that_dies_takes_its_workers_along(tmp_path: Path, sink: Sink) -> None:
    manifest, journal = write_job(tmp_path, sink.port, workers=WORKERS), tmp_path / "kill.journal"
    process = send(manifest)
    wait_until(lambda: sink.look() >= 3000, process)
    workers = workers_of(process)
    assert len(workers) == WORKERS
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: all(map(is_gone, workers)))
    doubt = status(journal)["in_doubt"]
    assert doubt <= MOST_IN_DOUBT
    summary = finish(send(manifest, "--resume"))
    assert summary["in_doubt"] == doubt
    account(sink, summary, journal)
    print(f"in doubt: {doubt}, allowed {MOST_IN_DOUBT}")


def test_a_run_without_workers_stops_and_can_be_resumed(tmp_path: Path, sink: Sink) -> None:
    manifest, journal = write_job(tmp_path, sink.port, workers=WORKERS), tmp_path / "kill.journal"
    process = send(manifest)
    wait_until(lambda: sink.look() >= 2000, process)
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3, err
    summary = json.loads(out)
    assert "all workers have ended" in err
    assert summary["delivered"] + summary["in_doubt"] + summary["pending"] == RECIPIENTS
    summary = finish(send(manifest, "--resume"))
    account(sink, summary, journal)


def test_a_bad_day_and_the_death_of_a_worker_together(tmp_path: Path) -> None:
    """Those who were refused for now are tried again by a worker that lives."""
    sink = Sink(tmp_path, "7")
    try:
        retry = {"delays": ["100ms", "300ms", "1s"], "patience": "20s"}
        manifest = write_job(tmp_path, sink.port, retry=retry, workers=WORKERS)
        process = send(manifest)
        wait_until(lambda: sink.look() >= 3000, process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        summary = finish(process)
        sink.look()
        said = states(tmp_path / "kill.journal")
    finally:
        sink.end()
    assert max(sink.taken.values()) == 1, "somebody was sent to twice"
    counted = {state: summary[state] for state in ("delivered", "failed", "in_doubt")}
    assert sum(counted.values()) == RECIPIENTS
    assert Counter(said.values()) == {state: count for state, count in counted.items() if count}
    for address, state in said.items():
        assert state == "in_doubt" or sink.taken[address] == (state == "delivered"), (address, state)


def test_the_first_signal_leaves_nobody_in_doubt(tmp_path: Path, sink: Sink) -> None:
    manifest = write_job(tmp_path, sink.port, workers=WORKERS)
    process = send(manifest)
    wait_until(lambda: sink.look() >= 2000, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3, err
    summary = json.loads(out)
    assert (summary["state"], summary["in_doubt"]) == ("stopped", 0)
    assert summary["delivered"] == sink.look()
    assert summary["pending"] == RECIPIENTS - summary["delivered"]
    assert finish(send(manifest, "--resume"))["delivered"] == RECIPIENTS
    sink.look()
    assert max(sink.taken.values()) == 1
