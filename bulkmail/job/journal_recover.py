"""What a resumed journal does with what the last run left, and with recipients in doubt. Inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bulkmail.errors import JournalError
from bulkmail.job.blobs import squeeze, unsqueeze
from bulkmail.job.journal_schema import DONE, INSERT_CHUNK, INSERT_ROWS, OPEN
from bulkmail.job.ledger import (
    CHUNK_SIZE,
    DEFERRED,
    IN_DOUBT,
    MOVED,
    RESENT,
    Doubt,
    check_late,
    is_done,
    pack,
    retry_time,
    unpack,
)

_UNSETTLED = "state <> ? OR instr(outcome, CAST('?' AS BLOB)) OR instr(outcome, CAST('d' AS BLOB))"


class _Move(NamedTuple):
    """A recipient on the way to a new chunk."""

    route: int
    attempt: int
    not_before: float
    origin: int
    number: int
    offset: int


def recover(db: sqlite3.Connection, policy: str, now: float, delays: Sequence[float]) -> int:
    """See ledger.Ledger.recover."""
    count = 0
    moves: list[_Move] = []
    for (no,) in db.execute(f"SELECT no FROM chunk WHERE {_UNSETTLED}", (DONE,)).fetchall():
        count += _settle_chunk(db, no, policy == "resend", now, delays, moves)
    _add_chunks(db, moves)
    return count


def _settle_chunk(
    db: sqlite3.Connection, no: int, resend: bool, now: float, delays: Sequence[float], moves: list[_Move]
) -> int:
    """Settle one chunk; how many of it are in doubt."""
    route, attempt, claimed, outcome, packed = db.execute(
        "SELECT route, attempt, claimed, outcome, packed FROM chunk JOIN chunk_rows USING (no) WHERE no = ?", (no,)
    ).fetchone()
    settled = bytearray(outcome[:claimed].replace(b".", b"?") + outcome[claimed:])
    count = settled.count(IN_DOUBT)
    leaving = {DEFERRED: MOVED} | ({IN_DOUBT: RESENT} if resend else {})
    places = [i for i, byte in enumerate(settled) if byte in leaving]
    if places:
        numbers, offsets = unpack(unsqueeze(packed))
        refused = [numbers[i] for i in places if settled[i] == DEFERRED]
        due = retry_time(_last_time(db, refused), attempt, delays, now) if refused else 0.0
        for i in places:
            not_before = due if settled[i] == DEFERRED else 0.0
            moves.append(_Move(route, attempt + 1, not_before, no, numbers[i], offsets[i]))
            settled[i] = leaving[settled[i]]
    db.execute(
        "UPDATE chunk SET outcome = ?, state = ? WHERE no = ?", (bytes(settled), DONE if is_done(settled) else OPEN, no)
    )
    return count


def _last_time(db: sqlite3.Connection, numbers: Sequence[int]) -> float:
    marks = ",".join("?" * len(numbers))
    row = db.execute(f"SELECT max(time) FROM trouble WHERE number IN ({marks})", list(numbers)).fetchone()
    return float(row[0] or 0.0)


def _add_chunks(db: sqlite3.Connection, moves: list[_Move]) -> None:
    """New chunks of those that go together, in the order of the source."""
    no = db.execute("SELECT coalesce(max(no), 0) FROM chunk").fetchone()[0]
    groups: dict[tuple[int, int, float], list[_Move]] = {}
    for move in sorted(moves, key=lambda move: move.number):
        groups.setdefault(move[:3], []).append(move)
    for (route, attempt, not_before), group in groups.items():
        for start in range(0, len(group), CHUNK_SIZE):
            part = group[start : start + CHUNK_SIZE]
            no += 1
            n, origin = len(part), part[0].origin
            db.execute(INSERT_CHUNK, (no, route, n, attempt, not_before, origin, None, OPEN, 0, 0, b"." * n))
            packed = pack([move.number for move in part], [move.offset for move in part])
            db.execute(INSERT_ROWS, (no, squeeze(packed)))


def settle_late(db: sqlite3.Connection, outcomes: Iterable[tuple[int, int, int]]) -> int:
    """See ledger.Ledger.late."""
    chunks: dict[int, bytearray] = {}
    count = 0
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
    for no, outcome in chunks.items():
        db.execute("UPDATE chunk SET outcome = ? WHERE no = ?", (bytes(outcome), no))
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
