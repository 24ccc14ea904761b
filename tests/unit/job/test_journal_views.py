"""The views and queries that docs/journal.md promises to users of sqlite3."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.ledger import DEFERRED, FAILED, NewChunk, Trouble
from bulkmail.job.report import status
from unit.job.journal_tools import new_journal, rows, settle

DOCUMENT = Path(__file__).parents[3] / "docs" / "journal.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.S)
NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two routes; the first one has somebody in every state."""
    path = tmp_path / "news.journal"
    with new_journal(path) as journal:
        with journal.fill() as filler:
            filler.add_chunk("gmail.com", rows(1, 9), 9)
            filler.add_chunk("*", rows(10, 3), 3)
        (chunk,) = journal.lease(1, NOW)
        main = journal.name_id("main")
        troubles = [
            Trouble("bob@gmail.com", 2, 1, 1, 1, FAILED, "mailbox", 550, "5.1.1", "no such user", main, 0, NOW),
            Trouble("cyd@gmail.com", 3, 1, 2, 1, DEFERRED, "rate", 421, "4.7.0", "too fast", main, 0, NOW),
        ]
        retry = NewChunk("gmail.com", rows(3, 1), 1, 1, NOW + 60, 1)
        journal.advance(settle(chunk, b"DFmd?S", claimed=7, troubles=troubles, retries=[retry]))
        journal.finish("stopped", "421 too fast")
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        yield db


def one(db: sqlite3.Connection, query: str) -> dict[str, Any]:
    (row,) = db.execute(query).fetchall()
    return dict(row)


def test_the_document_has_queries() -> None:
    assert len(QUERIES) >= 7


@pytest.mark.parametrize("query", QUERIES)
def test_every_documented_query_runs_and_finds_something(db: sqlite3.Connection, query: str) -> None:
    assert db.execute(query).fetchall()


def test_the_documented_columns_are_there(db: sqlite3.Connection) -> None:
    tables = re.findall(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", DOCUMENT.read_text().split("## Views")[1], re.M)
    views = {view: re.findall(r"\w+", names) for view, text in tables for names in re.findall(r"`([^`]*)`", text)}
    assert set(views) == {"summary", "routes", "chunks", "outcomes", "troubles", "runs"}
    for view, columns in views.items():
        assert set(columns) <= set(db.execute(f"SELECT * FROM {view}").fetchone().keys())


def test_summary_agrees_with_status(db: sqlite3.Connection, path: Path) -> None:
    summary, expected = one(db, "SELECT * FROM summary"), status(path)
    assert summary.pop("in_flight") + summary.pop("in_doubt") == expected["in_doubt"] == 2
    assert summary == {name: expected[name] for name in summary}


def test_routes_add_up_to_the_summary(db: sqlite3.Connection) -> None:
    routes = [dict(row) for row in db.execute("SELECT * FROM routes ORDER BY route")]
    assert [route["route"] for route in routes] == ["*", "gmail.com"]
    summary = one(db, "SELECT * FROM summary")
    for name in routes[0].keys() - {"route"}:
        assert sum(route[name] for route in routes) == summary[name]


def test_chunks_are_legible(db: sqlite3.Connection) -> None:
    chunk = one(db, "SELECT * FROM chunks WHERE no = 1")
    assert (chunk["outcome"], chunk["state"], chunk["claimed"], chunk["route"]) == ("DFmd?S...", "held", 7, "gmail.com")
    counts = ("delivered", "failed", "moved", "deferred", "in_doubt", "suppressed", "in_flight", "pending")
    assert [chunk[name] for name in counts] == [1, 1, 1, 1, 1, 1, 1, 2]
    retry = one(db, "SELECT * FROM chunks WHERE attempt = 1")
    assert (retry["not_before"], retry["origin"], retry["state"]) == ("2023-11-14T22:14:20Z", 1, "open")


def test_outcomes_have_a_row_for_each_position(db: sqlite3.Connection) -> None:
    found = db.execute("SELECT position, outcome FROM outcomes WHERE chunk = 1 ORDER BY position").fetchall()
    assert [tuple(row) for row in found] == list(enumerate("DFmd?S..."))


def test_troubles_have_words_and_names(db: sqlite3.Connection) -> None:
    trouble = one(db, "SELECT * FROM troubles WHERE number = 2")
    assert (trouble["state"], trouble["relay"], trouble["egress"]) == ("failed", "main", None)
    assert trouble["time"] == "2023-11-14T22:13:20Z"


def test_runs_say_how_they_ended(db: sqlite3.Connection) -> None:
    run = one(db, "SELECT * FROM runs")
    assert (run["fence"], run["state"], run["why"]) == (1, "stopped", "421 too fast")
    assert run["ended"] is not None
