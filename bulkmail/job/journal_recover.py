"""What a resumed journal does with what the last run left, and with recipients in doubt. Inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import orjson

from bulkmail.errors import JournalError
from bulkmail.job.blobs import squeeze, unsqueeze
from bulkmail.job.journal_fill import troubles_json
from bulkmail.job.journal_schema import DONE, INSERT_CHUNK, INSERT_ROWS, INSERT_TROUBLES, OPEN
from bulkmail.job.ledger import (
    CHUNK_SIZE,
    DEFERRED,
    IN_DOUBT,
    MOVED,
    RESENT,
    Doubt,
    Trouble,
    check_late,
    is_done,
    pack,
    retry_time,
    unpack,
)

_UNSETTLED = "state <> ? OR instr(outcome, CAST('?' AS BLOB)) OR instr(outcome, CAST('d' AS BLOB))"


Rows = list[tuple[int, int]]  # (row number, offset)


class _Found(NamedTuple):
    """An unsettled chunk, and what leaves it."""

    no: int
    route: int
    attempt: int
    doubts: int
    deferred: Rows
    resent: Rows


def recover(db: sqlite3.Connection, policy: str, now: float, delays: Sequence[float]) -> int:
    """See ledger.Ledger.recover."""
    count = 0
    resent: dict[tuple[int, int], tuple[int, Rows]] = {}
    for (no,) in db.execute(f"SELECT no FROM chunk WHERE {_UNSETTLED} ORDER BY no", (DONE,)).fetchall():
        found = _settle_chunk(db, no, policy == "resend")
        count += found.doubts
        if found.deferred:
            last = _last_time(db, [number for number, _ in found.deferred])
            due = retry_time(last, found.attempt, delays, now)
            _add_chunks(db, found.route, found.attempt + 1, due, no, found.deferred)
        if found.resent:
            resent.setdefault((found.route, found.attempt + 1), (no, []))[1].extend(found.resent)
    for (route, attempt), (origin, rows) in resent.items():
        _add_chunks(db, route, attempt, 0.0, origin, sorted(rows))
    return count


def _settle_chunk(db: sqlite3.Connection, no: int, resend: bool) -> _Found:
    route, attempt, claimed, outcome, packed = db.execute(
        "SELECT route, attempt, claimed, outcome, packed FROM chunk JOIN chunk_rows USING (no) WHERE no = ?", (no,)
    ).fetchone()
    settled = bytearray(outcome[:claimed].replace(b".", b"?") + outcome[claimed:])
    doubts = settled.count(IN_DOUBT)
    deferred: Rows = []
    resent: Rows = []
    if DEFERRED in settled or (resend and doubts):
        rows = list(zip(*unpack(unsqueeze(packed)), strict=True))
        deferred = _leave(settled, rows, DEFERRED, MOVED)
        resent = _leave(settled, rows, IN_DOUBT, RESENT) if resend else []
    state = DONE if is_done(settled) else OPEN
    db.execute("UPDATE chunk SET outcome = ?, state = ? WHERE no = ?", (bytes(settled), state, no))
    return _Found(no, route, attempt, doubts, deferred, resent)


def _leave(outcome: bytearray, rows: Rows, old: int, new: int) -> Rows:
    """Everybody with the outcome `old` gets `new` and is returned."""
    places = [i for i, byte in enumerate(outcome) if byte == old]
    for i in places:
        outcome[i] = new
    return [rows[i] for i in places]


def _last_time(db: sqlite3.Connection, numbers: Sequence[int]) -> float:
    wanted = orjson.dumps(list(numbers)).decode()
    query = "SELECT max(time) FROM trouble WHERE number IN (SELECT value FROM json_each(?))"
    row = db.execute(query, (wanted,)).fetchone()
    return float(row[0] or 0.0)


def _add_chunks(db: sqlite3.Connection, route: int, attempt: int, not_before: float, origin: int, rows: Rows) -> None:
    no = db.execute("SELECT max(no) FROM chunk").fetchone()[0]
    for start in range(0, len(rows), CHUNK_SIZE):
        numbers, offsets = zip(*rows[start : start + CHUNK_SIZE], strict=True)
        no, n = no + 1, len(numbers)
        db.execute(INSERT_CHUNK, (no, route, n, attempt, not_before, origin, None, OPEN, 0, 0, b"." * n))
        db.execute(INSERT_ROWS, (no, squeeze(pack(numbers, offsets))))


def settle_late(
    db: sqlite3.Connection, outcomes: Iterable[tuple[int, int, int]], troubles: Iterable[Trouble] = ()
) -> int:
    """See ledger.Ledger.late."""
    chunks: dict[int, bytearray] = {}
    count = 0
    why = {(trouble.chunk, trouble.position): trouble for trouble in troubles}
    told: list[Trouble] = []
    for no, position, byte in outcomes:
        if no not in chunks:
            row = db.execute("SELECT outcome FROM chunk WHERE no = ?", (no,)).fetchone()
            if row is None:
                raise JournalError(f"there is no chunk {no}")
            chunks[no] = bytearray(row[0])
        check_late(no, chunks[no], position, byte)
        if chunks[no][position] == IN_DOUBT:
            chunks[no][position] = byte
            count += 1
            told += [why[no, position]] if (no, position) in why else []
    for no, outcome in chunks.items():
        db.execute("UPDATE chunk SET outcome = ? WHERE no = ?", (bytes(outcome), no))
    if told:
        db.execute(INSERT_TROUBLES.format("?"), (troubles_json(told),))
    return count


def doubts(db: sqlite3.Connection) -> Iterator[Doubt]:
    """Who is in doubt, chunk by chunk; memory for one chunk."""
    found = db.execute("SELECT no FROM chunk WHERE instr(outcome, CAST('?' AS BLOB)) ORDER BY no").fetchall()
    for (no,) in found:
        outcome, packed = db.execute(
            "SELECT outcome, packed FROM chunk JOIN chunk_rows USING (no) WHERE no = ?", (no,)
        ).fetchone()
        numbers, offsets = unpack(unsqueeze(packed))
        for i, byte in enumerate(outcome):
            if byte == IN_DOUBT:
                yield Doubt(no, i, numbers[i], offsets[i])
