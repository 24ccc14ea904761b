"""A proxy is killed in the middle of a job that leaves by three: nobody is lost, nobody is sent to twice, and the
others carry on at once.

The truth is what a server that knows nothing of us wrote down. Incident it answers: a mailer with many ways out that
stood still while one of them was gone, or sent again what had been taken by it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from crash.test_send_kill import CONNECTIONS, HELD, Sink, send, states, write_job
from integration.servers.common import wait_until
from integration.servers.microsocks import microsocks

RECIPIENTS = 20_000  # as write_job has them
EGRESSES = ("a", "b", "c")
SECONDS = 60.0
# Goal: below 2 s without a message. The bound leaves room for a machine on which much else runs.
LONGEST_GAP = 5.0


class Progress:
    """Follows a sink by its log: what it has taken, and the longest time between two messages."""

    def __init__(self, sink: Sink, process: subprocess.Popen[str]) -> None:
        self.sink, self.process = sink, process
        self.taken, self.last, self.gap = 0, time.monotonic(), 0.0

    def look(self) -> int:
        taken, now = self.sink.look(), time.monotonic()
        if taken > self.taken:
            if self.taken:
                self.gap = max(self.gap, now - self.last)
            self.taken, self.last = taken, now
        return taken

    def until(self, taken: int) -> None:
        """Wait until so many have their message."""
        end = time.monotonic() + SECONDS
        while self.look() < taken:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, f"{self.taken} of {taken} after {SECONDS:g} s"
            time.sleep(0.002)

    def until_it_ends(self) -> dict[str, object]:
        """The run's summary. What it prints fits into a pipe."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < end, f"still running, {self.taken} taken"
            time.sleep(0.002)
        out, err = self.process.communicate()
        assert self.process.returncode in (0, 1), err
        return json.loads(out)


@contextmanager
def proxy(folder: Path, port: int | None = None):
    """A proxy that the test itself may kill; yields its port and how."""
    with microsocks(folder, port=port) as running:
        yield running.port, lambda: os.kill(running.pid, signal.SIGKILL)


@pytest.fixture
def sink(tmp_path):
    running = Sink(tmp_path)
    yield running
    running.end()


def write_egress_job(folder, sink, ports):
    relay = {"name": "sink", "url": f"smtp://127.0.0.1:{sink.port}", "connections": CONNECTIONS, "egress": [*EGRESSES]}
    ways = {name: f"socks5://127.0.0.1:{port}" for name, port in zip(EGRESSES, ports, strict=True)}
    # microsocks reads 1,024 bytes at a time and leaves Nagle's algorithm on: what is longer waits for a late ACK.
    message = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }},\nshort news.\n"}
    retry = {"delays": ["100ms", "300ms", "1s", "3s"]}
    return write_job(folder, sink.port, message=message, relays=[relay], egress=ways, retry=retry)


@contextmanager
def sending(manifest, *options):
    """The job as a process, which is gone at the end whatever happens."""
    process = send(manifest, "--events", "events.jsonl", *options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def events_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def throttled(path):
    return {event["egress"] for event in map(json.loads, complete_lines(path)) if event["event"] == "throttled"}


def complete_lines(path):
    return path.read_text().rpartition("\n")[0].splitlines()


def check(sink, summary, journal, events, killed):
    """Both sides' tallies: each recipient once, and who is in doubt was under way through an egress that died."""
    sink.look()
    said = states(journal)
    assert max(sink.taken.values()) == 1, "somebody was sent to twice"
    assert summary["delivered"] + summary["in_doubt"] == RECIPIENTS == summary["recipients"], summary
    assert Counter(said.values()) == {state: summary[state] for state in ("delivered", "in_doubt") if summary[state]}
    for address, state in said.items():
        assert state == "in_doubt" or sink.taken[address] == 1, f"{address} is called delivered and is not"
    assert set(sink.taken) <= set(said)
    doubtful = [event for event in events if event["event"] == "in_doubt"]
    assert len(doubtful) == summary["in_doubt"] and {event["egress"] for event in doubtful} <= set(killed)
    # Every connection of each that died, with all that it may hold.
    assert summary["in_doubt"] <= CONNECTIONS * HELD * len(killed)


def test_egresses_die_in_the_middle_and_one_comes_back(tmp_path, sink):
    """a dies for good; b dies later, and is back before the end."""
    with ExitStack() as running:
        ways = [running.enter_context(proxy(tmp_path / name)) for name in EGRESSES]
        (port_a, kill_a), (port_b, kill_b), (port_c, _) = ways
        manifest = write_egress_job(tmp_path, sink, [port_a, port_b, port_c])
        with sending(manifest, "--rate", "4000/s") as process:
            progress = Progress(sink, process)
            progress.until(3000)
            kill_a()
            progress.until(6000)
            kill_b()
            progress.until(9000)
            running.enter_context(proxy(tmp_path / "b again", port_b))
            summary = progress.until_it_ends()
    events = events_of(tmp_path / "events.jsonl")
    check(sink, summary, tmp_path / "kill.journal", events, {"a", "b"})
    carried = Counter(event["egress"] for event in events if event["event"] == "delivered")
    print(f"delivered by {dict(carried)}, in doubt {summary['in_doubt']}, longest gap {progress.gap * 1000:.0f} ms")
    assert carried["c"] > carried["b"] > carried["a"] > 0
    for name, ends in (("a", "throttled"), ("b", "resumed")):
        states_of = [event["event"] for event in events if event.get("scope") == f"egress {name}"]
        assert states_of[-1] == ends, f"{name}: {states_of}"
    assert progress.gap < LONGEST_GAP


def test_all_egresses_die_and_one_comes_back(tmp_path, sink):
    """Nothing can be sent for a while; the job waits, and goes on by the one that works."""
    with ExitStack() as running:
        ways = [running.enter_context(proxy(tmp_path / name)) for name in EGRESSES]
        manifest = write_egress_job(tmp_path, sink, [port for port, _ in ways])
        with sending(manifest) as process:
            progress = Progress(sink, process)
            progress.until(5000)
            for _, kill in ways:
                kill()
            wait_until(lambda: throttled(tmp_path / "events.jsonl") == set(EGRESSES), "every egress is out")
            running.enter_context(proxy(tmp_path / "c again", ways[2][0]))
            summary = progress.until_it_ends()
    events = events_of(tmp_path / "events.jsonl")
    check(sink, summary, tmp_path / "kill.journal", events, EGRESSES)
    delivered = Counter(event["egress"] for event in events if event["event"] == "delivered")
    assert delivered["c"] > RECIPIENTS / 2
    print(f"delivered by {dict(delivered)}, in doubt {summary['in_doubt']}, longest gap {progress.gap * 1000:.0f} ms")
