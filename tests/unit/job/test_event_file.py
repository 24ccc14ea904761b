"""Event lines: on the disk soon, whole after a crash, harmless when they cannot be written."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from bulkmail.job import event_file as events
from bulkmail.job.event_file import EventWriter, encode

SOON = 5.0  # seconds that a loaded machine may take; what is promised is a tenth


def wait_for(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_an_event_is_in_the_file_while_the_job_runs(tmp_path):
    file = tmp_path / "e"
    writer = EventWriter(str(file))
    writer.put({"event": "started"})
    wait_for(lambda: file.read_bytes() == b'{"event":"started"}\n')
    writer.close()


def test_a_line_that_a_crash_cut_short_is_ended_first(tmp_path):
    file = tmp_path / "e"
    file.write_bytes(b'{"event":"deliv')
    writer = EventWriter(str(file))
    writer.put({"event": "started"})
    writer.close()
    assert file.read_bytes() == b'{"event":"deliv\n{"event":"started"}\n'


def test_a_reader_that_left_does_not_stop_the_job():
    read, write = os.pipe()
    os.close(read)
    writer = EventWriter("-", stdout_fd=write)
    for number in range(10):
        writer.put({"n": number})
    writer.close()
    os.close(write)
    assert isinstance(writer.error, BrokenPipeError)


def test_a_slow_reader_holds_the_job_up_and_not_the_memory(monkeypatch):
    monkeypatch.setattr(events, "MAX_WAITING", 4096)
    read, write = os.pipe()
    writer = EventWriter("-", stdout_fd=write)
    total = 3000
    producer = threading.Thread(target=lambda: [writer.put({"n": n, "pad": "x" * 100}) for n in range(total)])
    producer.start()
    seen = b""
    while seen.count(b"\n") < total:
        assert writer._put - writer._taken <= 4096 + 200
        seen += os.read(read, 1 << 16)
    producer.join()
    writer.close()
    os.close(read)
    os.close(write)
    assert [json.loads(line)["n"] for line in seen.splitlines()] == list(range(total))


def test_leaving_waits_a_moment_for_the_last_lines(tmp_path):
    file = tmp_path / "e"
    writer = EventWriter(str(file))
    for number in range(100):
        writer.put({"n": number})
    writer.leave()
    assert file.read_bytes().count(b"\n") == 100
    writer.close()


def test_leaving_does_not_wait_for_a_reader_that_is_stuck():
    read, write = os.pipe()
    writer = EventWriter("-", stdout_fd=write)
    writer.put({"pad": "x" * 1_000_000})
    started = time.monotonic()
    writer.leave()
    assert time.monotonic() - started < SOON
    os.close(read)  # frees the writer's thread: its write fails
    writer.close()
    os.close(write)


@pytest.mark.parametrize("event", [{"reply": "caf\udce9"}, {"path": object}, {"recipient": "jürgen@example.com"}])
def test_every_event_is_a_line_of_json(event):
    line = encode(event)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert set(json.loads(line)) == set(event)
