"""A journal's beginning: the file, what it is pinned to, and its recipients."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from bulkmail.errors import JournalError
from bulkmail.job.blobs import squeeze
from bulkmail.job.disk import sync_folder
from bulkmail.job.journal_file import guard
from bulkmail.job.journal_schema import (
    APPLICATION_ID,
    DONE,
    INSERT_CHUNK,
    INSERT_ROWS,
    INSERT_TROUBLES,
    OPEN,
    PLACE,
    ROW_PART,
    ROW_PLACE,
    ROW_TROUBLE,
    SCHEMA_VERSION,
    TABLES,
    VIEWS,
)
from bulkmail.job.ledger import FAILED, NONE, SUPPRESSED, Part, Pin, Trouble, is_done

# Rows of trouble that are kept in memory before they are written.
TROUBLES_HELD = 500

BEFORE_SENDING = bytes([NONE, SUPPRESSED, FAILED])  # outcomes that recipients may be added with

# Seconds: FAT keeps the times of files in steps of two.
COARSE_TIMES = 2.0


def make_file(path: Path, job: str, manifest_digest: str, pin: Pin, meta: Mapping[str, str], now: float) -> None:
    """A journal without recipients. It gets its name when it is whole: a kill in between leaves none."""
    unfinished = path.with_name(path.name + ".new")
    with guard(path):
        _remove(unfinished)
        try:
            with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = MEMORY")  # the rename makes it atomic; a kill leaves one file only
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                db.executescript(f"BEGIN;{TABLES}{VIEWS}")
                db.execute(
                    "INSERT INTO job (id, job, manifest_digest, state, created, src_path, src_format, src_size, "
                    "src_mtime_ns, src_digest, meta) VALUES (1, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job,
                        manifest_digest,
                        now,
                        str(pin.path),
                        pin.format,
                        pin.size,
                        pin.mtime_ns,
                        pin.digest,
                        to_json(dict(meta)),
                    ),
                )
                db.execute("COMMIT")
                # Not left to the run that opens it, which would use a rollback journal for it: who is killed then
                # leaves a file that nobody can read who may not write.
                db.execute("PRAGMA journal_mode = WAL")
            unfinished.rename(path)
            sync_folder(path.parent)
        except BaseException:
            _remove(unfinished)
            raise


def _remove(unfinished: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)


def check_pin(path: Path, job: Mapping[str, Any], pin: Pin) -> None:
    """JournalError naming what of the recipients' file is not what the journal (its row `job`) began with.

    The same size and time are the same file, unless it was written just before the job began: a change since might have
    the same time. Else the digest decides (it takes a second for ten million rows); without one the time does.
    """
    changed = []
    if str(pin.path) != job["src_path"]:
        changed.append(f"path ({pin.path}, it was {job['src_path']})")
    if pin.format != job["src_format"]:
        changed.append(f"format ({pin.format}, it was {job['src_format']})")
    if pin.size != job["src_size"]:
        changed.append(f"size ({pin.size} bytes, it was {job['src_size']})")
    same_time = pin.mtime_ns == job["src_mtime_ns"]
    if not changed and not (same_time and pin.mtime_ns < (job["created"] - COARSE_TIMES) * 1e9):
        if job["src_digest"] is None or pin.digest is None:
            changed += [] if same_time or _holds_nobody(job) else ["mtime"]
        elif pin.digest != job["src_digest"]:
            changed.append("digest")
    if changed:
        raise JournalError(
            f"{path} belongs to other recipients: {job['src_path']} has another {', another '.join(changed)}; "
            "bring back the file as it was, or begin a fresh journal"
        )


def _holds_nobody(job: Mapping[str, Any]) -> bool:
    """It was ended before anybody was in, with no digest to compare: the list is read anew."""
    return job["src_digest"] is None and not job["filled"] and PLACE not in orjson.loads(job["meta"])


def part_rows(part: Part, first: int, fence: int, route_id: Callable[[str], int]) -> list[Any]:
    """The values of the INSERT that adds a part: eight a row. first: the number of its first chunk."""
    digest = None if part.digest is None else part.digest.encode()
    values: list[Any] = [ROW_PLACE, fence, int(part.place is None), 0, 0, 0, digest, part.place]
    for no, (route, packed, n, outcome, note) in enumerate(part.chunks, first):
        state = OPEN if outcome == NONE else DONE
        values += (ROW_PART, no, route_id(route), n, state, outcome, squeeze(packed), note)
    if part.troubles:
        troubles = [trouble._replace(chunk=first + trouble.chunk) for trouble in part.troubles]
        values += (ROW_TROUBLE, 0, 0, 0, 0, 0, None, troubles_json(troubles))
    return values


class Filling:
    """A Filler, inside a transaction of the journal."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._routes: dict[str, int] = {}
        self._troubles: list[Trouble] = []
        self._next = 1
        self._added = 0
        self._total: int | None = None

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        outcome = b"." * n if outcome is None else bytes(outcome)
        if n < 1 or len(outcome) != n or outcome.translate(None, BEFORE_SENDING):
            raise JournalError(f"a new chunk of {n} recipients cannot have the outcomes {outcome[:20]!r}")
        no, self._next = self._next, self._next + 1
        state = DONE if is_done(outcome) else OPEN
        self._db.execute(INSERT_CHUNK, (no, self._route_id(route), n, 0, 0.0, None, note, state, 0, 0, outcome))
        self._db.execute(INSERT_ROWS, (no, squeeze(packed)))
        self._added += n
        return no

    def _route_id(self, route: str) -> int:
        if route not in self._routes:
            cursor = self._db.execute("INSERT INTO route (name) VALUES (?)", (route,))
            self._routes[route] = int(cursor.lastrowid or 0)
        return self._routes[route]

    def add_trouble(self, trouble: Trouble) -> None:
        self._troubles.append(trouble)
        if len(self._troubles) >= TROUBLES_HELD:
            self._write_troubles()

    def _write_troubles(self) -> None:
        self._db.execute(INSERT_TROUBLES.format("?"), (troubles_json(self._troubles),))
        self._troubles = []

    def set_total(self, n: int) -> None:
        self._total = n

    def set_digest(self, digest: str) -> None:
        self._db.execute("UPDATE job SET src_digest = ?", (digest,))

    def finish(self) -> None:
        """Write what is left. The transaction is the caller's to commit."""
        if self._total is not None and self._total != self._added:
            raise JournalError(f"{self._path}: {self._added} recipients were put into chunks, not {self._total}")
        if self._troubles:
            self._write_troubles()
        self._db.execute("UPDATE job SET filled = 1")


# ---- text for SQL ----------------------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """JSON that SQLite and orjson read back; text that is no valid Unicode is kept readable."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        import json

        return json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()


def troubles_json(troubles: Iterable[Trouble]) -> str:
    """Rows for INSERT_TROUBLES."""
    return to_json([[_clean(value) for value in trouble] for trouble in troubles])


def _clean(value: Any) -> Any:
    """A server's or a file's text without what SQLite's functions stop at (NUL) or JSON cannot hold (surrogates)."""
    if isinstance(value, str) and not value.isprintable():
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return value
