"""What a journal tells whoever may read it: counts, runs, progress. Given a connection; the caller guards it."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from bulkmail.job.detail import tally
from bulkmail.job.ledger import Counts

_SUMMED = ("delivered", "deferred", "failed")


def read_counts(db: sqlite3.Connection, live: bool) -> Counts:
    """Counts of all chunks. ValueError where an outcome is none. 10 million recipients take some 30 ms."""
    counts = Counts()
    for attempt, claimed, outcome in db.execute("SELECT attempt, claimed, outcome FROM chunk"):
        counts.add(tally(outcome, claimed), attempt, live)
    totals = read_totals(db)
    counts.attempts, counts.bytes = int(totals.get("attempts", 0)), int(totals.get("bytes", 0))
    return counts


def read_totals(db: sqlite3.Connection) -> dict[str, Any]:
    """The newest progress that a run recorded."""
    row = db.execute("SELECT progress FROM run WHERE progress IS NOT NULL ORDER BY fence DESC LIMIT 1").fetchone()
    return {} if row is None else orjson.loads(row[0])


def read_relays(db: sqlite3.Connection, live: bool) -> dict[str, dict[str, Any]]:
    """Each relay's figures, added up over the runs; connections only of a run that is alive."""
    relays: dict[str, dict[str, Any]] = {}
    rows = db.execute("SELECT progress, ended FROM run WHERE progress IS NOT NULL ORDER BY fence").fetchall()
    for progress, ended in rows:
        for name, figures in orjson.loads(progress).get("relays", {}).items():
            total = relays.setdefault(name, dict.fromkeys(_SUMMED, 0) | {"connections": 0, "last_error": None})
            for key in _SUMMED:
                total[key] += figures.get(key, 0)
            total["connections"] = figures.get("connections", 0) if live and ended is None else 0
            total["last_error"] = figures.get("last_error") or total["last_error"]
    return relays


def read_seconds(db: sqlite3.Connection, now: float | None) -> float:
    """How long the runs took together. now: Unix seconds, where the last one is alive; None where it is not."""
    seconds = 0.0
    for started, seen_at, ended in db.execute("SELECT started, seen_at, ended FROM run ORDER BY fence"):
        last = ended or seen_at
        seconds += max(0.0, last - started)
    if now is not None:
        seconds += max(0.0, now - last)
    return seconds
