"""The journal: a ledger in one SQLite file (WAL), for one run at a time and any number of readers.

Owns      the file, its lock and its one connection; which chunks wait and which are leased, in memory.
Promises  what `advance` returned from survives kill -9 (level "process") or loss of power ("power"); a crash at any
          moment leaves each commit whole or absent.
Errors    JournalError: another job's, changed recipients, in use, damaged. JournalFault: the disk. Fenced: taken over.

One thread at a time. While a run is under way that is the thread of `writer.Writer`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bulkmail.errors import JournalError
from bulkmail.job import journal_recover
from bulkmail.job.blobs import pack_details, squeeze, unsqueeze
from bulkmail.job.journal_file import LEVELS, RunLock, check_header, damage, guard, open_for_run
from bulkmail.job.journal_fill import Filling, check_pin, make_file, part_rows, to_json, troubles_json
from bulkmail.job.journal_place import Place
from bulkmail.job.journal_read import ramp_so_far, read_counts
from bulkmail.job.journal_schema import (
    DONE,
    HELD,
    OPEN,
    ROW_CHUNK,
    ROW_DETAIL,
    ROW_RETRY,
    ROW_RUN,
    ROW_TROUBLE,
    advance_sql,
)
from bulkmail.job.ledger import (
    FINAL_STATES,
    NONE,
    Advance,
    Chunk,
    Counts,
    Doubt,
    Fenced,
    Filler,
    Part,
    Pin,
    Trouble,
    check_advance,
    check_policy,
    is_done,
)
from bulkmail.job.waiting import Waiting


class Journal:
    """A Ledger. Made by `create` or `open`, which take the lock; `close` lets it go.

    path    the file
    fence   the number of this run: 1 for the first
    job     the job's name; state: "running" from open to finish
    meta    settings that create was given
    clock   Unix seconds of this run, which do not jump when somebody sets the clock; a scheduler puts its own here
    filled  whether all recipients are in. If not: with a setting PLACE, add_part goes on; without one nothing was sent,
            and filling begins anew
    """

    def __init__(self, path: Path, lock: RunLock, db: sqlite3.Connection, now: float) -> None:
        self.path = path
        ahead = now - time.monotonic()
        self.clock: Callable[[], float] = lambda: time.monotonic() + ahead
        self._lock = lock
        self._db = db
        self._serial = 0
        self._held: dict[int, tuple[int, bytes]] = {}  # leased and not done: claimed, outcome, as committed
        self._names: dict[str, int] = {}
        self._routes: dict[str, int] = {}
        self._waiting = Waiting()
        self._recovered = False
        self._place = Place(path)

    # ---- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        job: str,
        manifest_digest: str,
        pin: Pin,
        level: str = "process",
        meta: Mapping[str, str] | None = None,
        now: float | None = None,
    ) -> Journal:
        """A new journal, locked. JournalError if there is a file already, or its folder is missing or not writable."""
        path = Path(path)
        _check_level(level)
        with _locked(path) as lock:
            if path.exists():
                raise JournalError(f"{path}: there is a journal already; resume it, or begin a fresh one")
            make_file(path, job, manifest_digest, pin, meta or {}, _now(now))
            return cls._start(path, lock, level, None, None, _now(now))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        manifest_digest: str | None = None,
        pin: Pin | None = None,
        level: str = "process",
        now: float | None = None,
    ) -> Journal:
        """An existing journal, locked, to go on with it. JournalError if it is in use or of something else.

        manifest_digest, pin   None: not compared. A pin whose time alone differs is the same list if its digest agrees;
                               a pin's digest of None is not compared.
        """
        path = Path(path)
        _check_level(level)
        check_header(path)
        with _locked(path) as lock:
            return cls._start(path, lock, level, manifest_digest, pin, _now(now))

    @classmethod
    def _start(
        cls, path: Path, lock: RunLock, level: str, manifest_digest: str | None, pin: Pin | None, now: float
    ) -> Journal:
        with guard(path):
            journal = cls(path, lock, open_for_run(path, level), now)
        try:
            with damage(path):
                journal._check(manifest_digest, pin)
                journal._begin(now)
        except BaseException:
            journal._disconnect()
            raise
        return journal

    def _check(self, manifest_digest: str | None, pin: Pin | None) -> None:
        with guard(self.path):
            row = self._db.execute("SELECT * FROM job")
            job = dict(zip((column[0] for column in row.description), row.fetchone(), strict=True))
        if manifest_digest is not None and job["manifest_digest"] != manifest_digest:
            raise JournalError(
                f"{self.path} belongs to another manifest (its job is {job['job']!r}): resume it with the manifest "
                "that it began with, or begin a fresh one"
            )
        if pin is not None:
            check_pin(self.path, job, pin)
            with guard(self.path):
                self._db.execute("UPDATE job SET src_mtime_ns = ?", (pin.mtime_ns,))

    def _begin(self, now: float) -> None:
        """Count this run and read what waits."""
        with guard(self.path), self._transaction():
            self.job, self.filled, meta = self._db.execute("SELECT job, filled, meta FROM job").fetchone()
            self.filled = bool(self.filled)
            self.meta: dict[str, str] = orjson.loads(meta)
            last = self._db.execute("SELECT fence, seen_at FROM run ORDER BY fence DESC LIMIT 1").fetchone() or (0, now)
            self.fence = last[0] + 1
            if last[1] > now:
                self._put_back_times(last[1] - now)
            self._db.execute(
                "INSERT INTO run (fence, pid, host, started, seen_at, state) VALUES (?, ?, ?, ?, ?, 'running')",
                (self.fence, os.getpid(), platform.node(), now, now),
            )
            self._db.execute("UPDATE job SET state = 'running', why = NULL")
        self.state = "running"
        self._recovered = self.fence == 1
        self._load()

    def _put_back_times(self, seconds: float) -> None:
        """The clock was put back since the last run: what waits has as long to wait as it had then."""
        self._db.execute(
            "UPDATE chunk SET not_before = max(not_before - ?, 0) WHERE state <> ? AND not_before > 0", (seconds, DONE)
        )

    def _load(self) -> None:
        """Read names, routes and what waits: at the beginning, and after fill and recover have changed it."""
        with guard(self.path):
            self._names = {name: no for no, name in self._db.execute("SELECT id, name FROM name")}
            self._routes = {name: no for no, name in self._db.execute("SELECT id, name FROM route")}
            self._next_chunk = self._db.execute("SELECT coalesce(max(no), 0) + 1 FROM chunk").fetchone()[0]
            self._next_detail = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM detail").fetchone()[0]
            names = {no: name for name, no in self._routes.items()}
            self._waiting = Waiting()
            for no, route, not_before in self._db.execute(
                "SELECT no, route, not_before FROM chunk WHERE state <> ? ORDER BY no", (DONE,)
            ):
                self._waiting.add(names[route], no, not_before)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back by itself already.
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """A transaction that only the newest run may make."""
        with guard(self.path), self._transaction():
            if self._db.execute("SELECT max(fence) FROM run").fetchone()[0] != self.fence:
                raise Fenced(f"{self.path}: another run has taken the journal")
            yield

    # ---- filling -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fill(self) -> Iterator[Filler]:
        if self.filled:
            raise JournalError(f"{self.path}: the recipients are in the journal already")
        with self._changing():
            filling = Filling(self._db, self.path)
            yield filling
            filling.finish()
        self.filled = self._recovered = True
        self._load()

    def add_part(self, part: Part) -> None:
        if self.filled:
            raise JournalError(f"{self.path}: the recipients are in the journal already")
        with guard(self.path):
            self._execute(part_rows(part, self._next_chunk, self.fence, self._route_id))
            for no, chunk in enumerate(part.chunks, self._next_chunk):
                if chunk.outcome == NONE:
                    self._waiting.add(chunk.route, no, 0.0)
            self._next_chunk += len(part.chunks)
            self.filled = part.place is None
            self._place.check(self._db)

    # ---- leasing -----------------------------------------------------------------------------------------------------

    def lease(self, limit: int, now: float, routes: Iterable[str] | None = None) -> list[Chunk]:
        if not self._recovered:
            raise JournalError(f"{self.path}: recover() comes before the first lease")
        numbers = self._waiting.take(limit, now, routes)
        if not numbers:
            return []
        try:
            chunks = self._read_chunks(numbers)
        except BaseException:
            self._waiting.put_back(numbers)
            raise
        for chunk in chunks:
            self._held[chunk.no] = (chunk.claimed, bytes(chunk.outcome))
        return chunks

    def _read_chunks(self, numbers: Sequence[int]) -> list[Chunk]:
        with guard(self.path):
            rows = self._db.execute(
                "SELECT c.no, r.name, p.packed, c.n, c.attempt, c.not_before, c.claimed, c.outcome FROM chunk AS c "
                "JOIN route AS r ON r.id = c.route JOIN chunk_rows AS p ON p.no = c.no "
                f"WHERE c.no IN ({','.join('?' * len(numbers))})",
                numbers,
            ).fetchall()
        place = {no: i for i, no in enumerate(numbers)}
        rows.sort(key=lambda row: place[row[0]])
        with damage(self.path):
            if len(rows) != len(numbers):
                raise ValueError("a chunk has no recipients")
            return [self._chunk_of(row) for row in rows]

    def _chunk_of(self, row: tuple[Any, ...]) -> Chunk:
        no, route, packed, n, attempt, not_before, claimed, outcome = row
        chunk = Chunk(
            no,
            route,
            unsqueeze(packed),
            n,
            attempt=attempt,
            not_before=not_before,
            fence=self.fence,
            claimed=claimed,
            outcome=outcome,
        )
        if len(chunk.numbers) != n:  # unpacked here, so that damage is an error of ours
            raise ValueError(f"chunk {no} has {len(chunk.numbers)} recipients, not {n}")
        return chunk

    def routes(self) -> list[str]:
        return self._waiting.routes()

    def next_due(self, now: float, routes: Iterable[str] | None = None) -> float | None:
        return self._waiting.next_due(now, routes)

    def release(self, chunks: Iterable[tuple[int, float]]) -> None:
        given = list(chunks)
        for no, _ in given:
            claimed, outcome = self.leased(no)
            if ord(".") in outcome[:claimed]:
                raise JournalError(f"chunk {no} has claimed recipients without an outcome and cannot be given back")
        with self._changing():
            for no, not_before in given:
                self._db.execute("UPDATE chunk SET state = ?, not_before = ? WHERE no = ?", (OPEN, not_before, no))
        for no, not_before in given:
            del self._held[no]
            self._waiting.put_back([no], not_before)

    def leased(self, no: int) -> tuple[int, bytes]:
        """How far a leased chunk is claimed, and its outcomes, as they were committed last."""
        try:
            return self._held[no]
        except KeyError:
            raise Fenced(f"{self.path}: chunk {no} is not held by run {self.fence}") from None

    # ---- the hot commit ----------------------------------------------------------------------------------------------

    def advance(self, batch: Advance) -> None:
        if batch.serial and batch.serial <= self._serial:
            return
        for no, fence, claimed, outcome in batch.chunks:
            if fence != self.fence:
                raise Fenced(f"{self.path}: chunk {no} was leased by run {fence}, this is run {self.fence}")
            old_claimed, old = self.leased(no)
            check_advance(old, old_claimed, no, claimed, outcome)
        values = self._rows_of(batch, self.clock())
        with guard(self.path):
            self._execute(values)
            self._note(batch)
            self._place.check(self._db)

    def _execute(self, values: list[Any]) -> None:
        """A commit, of eight values a row."""
        try:
            self._db.execute(advance_sql(len(values) // 8), values)
        except sqlite3.IntegrityError as exc:
            if str(exc) == "fenced":
                raise Fenced(f"{self.path}: another run has taken the journal or one of its chunks") from None
            raise

    def _rows_of(self, batch: Advance, now: float) -> list[Any]:
        """The values of the INSERT that is the commit: eight a row."""
        progress = None if batch.progress is None else to_json(batch.progress)
        values: list[Any] = [ROW_RUN, self.fence, batch.serial, now, 0, 0, None, progress]
        for no, fence, claimed, outcome in batch.chunks:
            values += (ROW_CHUNK, no, fence, claimed, DONE if is_done(outcome) else HELD, 0, outcome, None)
        if batch.details:
            chunks = to_json(sorted({no for no, _ in batch.details}))
            values += (ROW_DETAIL, self._next_detail, 0, 0, 0, 0, pack_details(batch.details), chunks)
        if batch.troubles:
            values += (ROW_TROUBLE, 0, 0, 0, 0, 0, None, troubles_json(batch.troubles))
        for i, new in enumerate(batch.retries):
            no, route = self._next_chunk + i, self._route_id(new.route)
            packed = squeeze(new.packed)
            values += (ROW_RETRY, no, route, new.n, new.attempt, new.not_before, packed, new.from_no or 0)
        return values

    def _note(self, batch: Advance) -> None:
        """Keep in memory what was committed."""
        self._serial = max(self._serial, batch.serial)
        self._next_detail += bool(batch.details)
        for no, _, claimed, outcome in batch.chunks:
            if is_done(outcome):
                del self._held[no]
                self._waiting.done(no)
            else:
                self._held[no] = (claimed, outcome)
        for new in batch.retries:
            self._waiting.add(new.route, self._next_chunk, new.not_before)
            self._next_chunk += 1

    def _route_id(self, route: str) -> int:
        if route not in self._routes:
            self._routes[route] = self._intern("route", route)
        return self._routes[route]

    def name_id(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self._names:
            self._names[name] = self._intern("name", name)
        return self._names[name]

    def _intern(self, table: str, name: str) -> int:
        with guard(self.path):
            return int(self._db.execute(f"INSERT INTO {table} (name) VALUES (?)", (name,)).lastrowid or 0)

    # ---- doubt -------------------------------------------------------------------------------------------------------

    def late(self, outcomes: Iterable[tuple[int, int, int]], troubles: Iterable[Trouble] = ()) -> int:
        given = list(outcomes)
        for no, _, _ in given:
            if no in self._held:
                raise JournalError(f"chunk {no} is leased: its next advance settles it")
        with self._changing():
            return journal_recover.settle_late(self._db, given, troubles)

    def in_doubt(self) -> Iterator[Doubt]:
        with guard(self.path), damage(self.path):
            yield from journal_recover.doubts(self._db)

    def recover(self, policy: str = "skip", *, now: float = 0.0, delays: Sequence[float] = ()) -> int:
        if self._held:
            raise JournalError(f"{self.path}: recover() comes before the first lease")
        check_policy(policy)
        with self._changing(), damage(self.path):
            count = journal_recover.recover(self._db, policy, now, delays)
        self._recovered = True
        self._load()
        return count

    # ---- the end -----------------------------------------------------------------------------------------------------

    def finish(self, state: str, why: str | None = None, progress: dict[str, Any] | None = None) -> None:
        if state not in FINAL_STATES:
            raise ValueError(f"state is {state!r}, expected one of {FINAL_STATES}")
        now = self.clock()
        given = None if progress is None else to_json(progress)
        with self._changing():
            self._db.execute("UPDATE job SET state = ?, why = ?", (state, why))
            self._db.execute(
                "UPDATE run SET state = ?, why = ?, seen_at = ?, ended = ?, progress = coalesce(?, progress) "
                "WHERE fence = ?",
                (state, why, now, now, given, self.fence),
            )
        self._place.check(self._db, now=True)
        self.state = state

    def counts(self, live: bool = True) -> Counts:
        with guard(self.path), damage(self.path):
            return read_counts(self._db, live)

    def ramp_so_far(self) -> tuple[float, float] | None:
        """(seconds of its ramp that an earlier run had behind it, when that was: Unix seconds), or None."""
        with guard(self.path), damage(self.path):
            return ramp_so_far(self._db)

    def close(self) -> None:
        """Idempotent. The lock is free afterwards, whatever happens."""
        try:
            with guard(self.path):
                self._disconnect()
        finally:
            self._lock.release()

    def _disconnect(self) -> None:
        try:
            self._db.close()
        finally:
            self._place.leave()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {tuple(LEVELS)}")


def _now(now: float | None) -> float:
    return time.time() if now is None else now


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[RunLock]:
    """The lock, let go only if what is inside fails."""
    lock = RunLock(path)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise
