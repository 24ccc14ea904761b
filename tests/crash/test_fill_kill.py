"""kill -9 while a list is still being read and its first recipients have their message already (`"validate": false`).

Incident: a job that was killed half-way through its list and, resumed, forgot the rest, or sent to the first half
again.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.test_send_kill import Sink, finish, kill_when, send, status
from integration.cli_program import bulkmail

RECIPIENTS = 60_000  # some seven parts
AGAIN = 7  # each such row is a duplicate of the one that many rows before


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    running = Sink(tmp_path)
    yield running
    running.end()


def address(i: int) -> str:
    return f"user{i - AGAIN * 500 if i % AGAIN == 0 and i >= AGAIN * 500 else i}@example.test"


def write_job(folder: Path, port: int) -> Path:
    with (folder / "recipients.jsonl").open("w") as file:
        for i in range(RECIPIENTS):
            file.write(json.dumps({"email": address(i), "number": i}) + "\n")
    relay = {"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": 4, "batch": 50}
    manifest = {
        "job": "kill",
        "message": {"from": "news@example.com", "subject": "Hello", "text": "Dear everybody"},
        "recipients": {"file": "recipients.jsonl", "validate": False, "deduplicate": True},
        "relays": [relay],
        "journal": "kill.journal",
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize("seed", range(2))
def test_a_job_killed_while_it_is_filled_loses_nobody_and_sends_to_nobody_twice(
    tmp_path: Path, sink: Sink, seed: int
) -> None:
    chance, manifest, kills, unfilled = random.Random(seed), write_job(tmp_path, sink.port), 0, 0
    for most in (1, 1000, 4000, 10_000):
        before, more = sink.look(), chance.randrange(1, most + 1)
        kill_when(send(manifest, *(["--resume"] if kills else [])), lambda least=before + more: sink.look() >= least)
        kills += 1
        unfilled += status(tmp_path / "kill.journal")["recipients"] < RECIPIENTS
    assert unfilled, "each time the list had been read already"
    summary = finish(send(manifest, "--resume"))
    sink.look()
    everybody = {address(i) for i in range(RECIPIENTS)}
    assert max(sink.taken.values()) == 1, "somebody was sent to twice"
    assert summary["recipients"] == RECIPIENTS
    assert summary["suppressed"] == RECIPIENTS - len(everybody)
    assert summary["delivered"] + summary["in_doubt"] == len(everybody)
    said = [row for row in report(tmp_path / "kill.journal") if row["state"] != "suppressed"]
    assert Counter(row["recipient"] for row in said) == Counter(everybody)
    for row in said:
        assert row["state"] == "in_doubt" or sink.taken[row["recipient"]] == 1, row
    print(f"killed {kills} times, {unfilled} of them while it was filled; in doubt {summary['in_doubt']}")


def report(journal: Path) -> list[dict[str, Any]]:
    done = bulkmail("report", journal, cwd=journal.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
