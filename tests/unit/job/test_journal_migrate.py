"""Journals of older versions go on: real ones of the first format, and made-up formats that lead away from it.

`tests/data/journal-1` holds one job of 60 at three moments, as the first version left it: `half` (killed, with its
write-ahead log), `doubt` (resumed and stopped by a signal), `finished`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import JournalError
from bulkmail.job import journal_migrate
from bulkmail.job.job import Job
from bulkmail.job.journal import Journal
from bulkmail.job.journal_file import reading
from bulkmail.job.journal_migrate import FIRST_VERSION, STEPS
from bulkmail.job.journal_schema import SCHEMA_VERSION
from bulkmail.job.report import iter_report, status
from bulkmail.sink.threaded import SmtpSink

DATA = Path(__file__).parents[2] / "data" / "journal-1"
PARTS = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
KEPT = {
    "half": {"delivered": 20, "failed": 1, "deferred": 2},
    "doubt": {"delivered": 41, "failed": 1, "deferred": 2},
    "finished": {"delivered": 56, "failed": 3},
}


def brought_here(folder: Path, name: str, port: int = 1) -> Path:
    """A kept journal with its list and manifest, which it is made to find where they are now."""
    path = folder / "old.journal"
    for part in ("", "-wal"):
        kept = DATA / f"{name}.journal{part}.gz"
        if kept.exists():
            path.with_name(path.name + part).write_bytes(gzip.decompress(kept.read_bytes()))
    for other in ("list.jsonl", "out.txt", "job.json"):
        shutil.copyfile(DATA / other, folder / other)
    lists = folder / "list.jsonl"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE job SET src_path = ?, src_mtime_ns = ?", (str(lists), lists.stat().st_mtime_ns))
    return path


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


# ---- journals that were kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEPT)
def test_a_journal_of_the_first_version_can_be_read(tmp_path: Path, name: str) -> None:
    path = brought_here(tmp_path, name)
    counts = status(path)
    assert {part: counts[part] for part in KEPT[name]} == KEPT[name]
    assert sum(counts[part] for part in PARTS) == counts["recipients"] == 60
    rows = list(iter_report(path))
    assert Counter(row["state"] for row in rows) == {part: counts[part] for part in PARTS if counts[part]}
    assert {row["recipient"] for row in rows} == {
        json.loads(line)["email"] for line in (DATA / "list.jsonl").read_text().splitlines()
    }
    (gone,) = [row for row in rows if row["recipient"] == "gone@example.test"]
    assert (gone["state"], gone["code"], gone["reply"]) == ("failed", 550, "5.1.1 No such user")
    assert version(path) == FIRST_VERSION  # who reads changes nothing


@pytest.mark.parametrize("policy", ["skip", "resend"])
@pytest.mark.parametrize("name", ["half", "doubt"])
def test_a_job_of_the_first_version_is_resumed(tmp_path: Path, name: str, policy: str) -> None:
    path = brought_here(tmp_path, name)
    before = status(path)
    with SmtpSink() as sink:
        job = Job.load(tmp_path / "job.json", environ={"PORT": str(sink.port)})
        summary = job.run(resume=True, in_doubt=policy).summary
        taken = sum(len(message.recipients) for message in sink.messages)
    left = before["pending"] + before["deferred"]
    assert summary["in_doubt"] == (before["in_doubt"] if policy == "skip" else 0)
    assert taken == summary["delivered"] - before["delivered"] == left + (policy == "resend") * before["in_doubt"]
    assert version(path) == SCHEMA_VERSION


# ---- the way from format to format -----------------------------------------------------------------------------------


def add_column(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE chunk ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")


def move_meta(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT)")
    db.execute("INSERT INTO setting SELECT key, value FROM job, json_each(job.meta)")
    db.execute("UPDATE chunk SET colour = 'green'")


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_migrate, "STEPS", (*STEPS, add_column, move_meta))


def test_the_steps_lead_to_the_present_format() -> None:
    assert FIRST_VERSION + len(STEPS) == SCHEMA_VERSION


def test_a_run_brings_an_older_journal_to_the_present_format_and_goes_on(tmp_path: Path, two_steps: None) -> None:
    path = brought_here(tmp_path, "half")
    before = status(path)
    with contextlib.closing(Journal.open(path)) as journal:
        assert journal._db.execute("SELECT DISTINCT colour FROM chunk").fetchall() == [("green",)]
        assert journal._db.execute("SELECT count(*) FROM setting").fetchone() != (0,)
        assert journal._db.execute("SELECT delivered FROM summary").fetchone() == (before["delivered"],)
        assert journal.recover() == before["in_doubt"]
        assert journal.lease(1, 0.0)
    assert version(path) == SCHEMA_VERSION + 2
    assert {part: status(path)[part] for part in PARTS} == {part: before[part] for part in PARTS}


def test_who_reads_an_older_journal_reads_a_copy_of_the_present_format(tmp_path: Path, two_steps: None) -> None:
    path = brought_here(tmp_path, "finished")
    with reading(path) as db:
        assert db.execute("SELECT DISTINCT colour FROM chunk").fetchall() == [("green",)]
    assert len(list(iter_report(path, "delivered"))) == 56
    assert version(path) == FIRST_VERSION


def test_who_is_killed_between_two_steps_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails is undone as a whole, and the one before it stands."""
    path = brought_here(tmp_path, "half")

    def fail(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM chunk")
        db.execute("SELECT * FROM nothing")

    monkeypatch.setattr(journal_migrate, "STEPS", (*STEPS, add_column, fail))
    with pytest.raises(JournalError):
        Journal.open(path)
    assert version(path) == SCHEMA_VERSION + 1
    monkeypatch.setattr(journal_migrate, "STEPS", (*STEPS, add_column, move_meta))
    assert status(path)["recipients"] == 60
    with contextlib.closing(Journal.open(path)) as journal:
        journal.recover()
        assert journal.counts().recipients == 60
        assert journal._db.execute("SELECT count(*) FROM outcomes").fetchone() != (0,)


@pytest.mark.parametrize(
    ("number", "words"), [(99, "made by a newer bulkmail; this one knows formats up to"), (0, "it has format 0")]
)
def test_a_format_that_cannot_be_read_is_refused_and_left_alone(tmp_path: Path, number: int, words: str) -> None:
    path = brought_here(tmp_path, "finished")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {number}")
    content = path.read_bytes()
    calls: tuple[Any, ...] = (Journal.open, status)
    for call in calls:
        with pytest.raises(JournalError, match=words):
            call(path)
    assert path.read_bytes() == content
