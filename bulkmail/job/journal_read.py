"""What a journal tells whoever may read it: counts, runs, progress. Given a connection; the caller guards it."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from bulkmail.job.detail import tally
from bulkmail.job.ledger import Counts

_SUMMED = ("delivered", "deferred", "failed")
_NO_RELAY = dict.fromkeys(_SUMMED, 0) | {"connections": 0, "last_error": None}
_NO_EGRESS = _NO_RELAY | {"failures": 0, "state": None}


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


def standing_still(db: sqlite3.Connection) -> dict[str, Any]:
    """Why the last run begins nothing, if it has said so: "paused", "waiting"; a killed one says nothing any more."""
    row = db.execute("SELECT progress FROM run ORDER BY fence DESC LIMIT 1").fetchone()
    progress = orjson.loads(row[0]) if row is not None and row[0] is not None else {}
    return {key: progress[key] for key in ("paused", "waiting") if progress.get(key)}


def ramp_so_far(db: sqlite3.Connection) -> tuple[float, float] | None:
    """(seconds of its ramp that an earlier run had behind it, when that was), or None: no run had begun."""
    row = db.execute(
        "SELECT json_extract(progress, '$.ramp') AS ramp, seen_at FROM run WHERE ramp IS NOT NULL "
        "ORDER BY fence DESC LIMIT 1"
    ).fetchone()
    return None if row is None else (float(row[0]), float(row[1]))


def read_relays(db: sqlite3.Connection, live: bool) -> dict[str, dict[str, Any]]:
    """Each relay's figures and those of its egresses, added up over the runs; `connections` and an egress's `state` are
    those of a run that is alive, else 0 and None."""
    relays: dict[str, dict[str, Any]] = {}
    last = "fence = (SELECT max(fence) FROM run)"
    rows = db.execute(f"SELECT progress, {last} FROM run WHERE progress IS NOT NULL ORDER BY fence").fetchall()
    for progress, newest in rows:
        now = live and bool(newest)
        for name, figures in orjson.loads(progress).get("relays", {}).items():
            relay = relays.setdefault(name, dict(_NO_RELAY))
            _add(relay, figures, now)
            for egress, its in figures.get("egress", {}).items():
                total = relay.setdefault("egress", {}).setdefault(egress, dict(_NO_EGRESS))
                _add(total, its, now)
    return relays


def _add(total: dict[str, Any], figures: dict[str, Any], now: bool) -> None:
    """The figures of one more run. now: it is alive."""
    for key in (*_SUMMED, *(["failures"] if "failures" in total else [])):
        total[key] += figures.get(key, 0)
    total["connections"] = figures.get("open", figures.get("connections", 0)) if now else 0
    if "state" in total:
        total["state"] = figures.get("state") if now else None
    total["last_error"] = figures.get("last_error") or total["last_error"]


def read_seconds(db: sqlite3.Connection, now: float | None) -> float:
    """How long the runs took together. now: Unix seconds, where the last one is alive; None where it is not."""
    seconds = 0.0
    for started, seen_at, ended in db.execute("SELECT started, seen_at, ended FROM run ORDER BY fence"):
        last = ended or seen_at
        seconds += max(0.0, last - started)
    if now is not None:
        seconds += max(0.0, now - last)
    return seconds
