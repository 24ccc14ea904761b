"""A ledger in memory: the model that the journal is held against in tests, and what a dry run works on.

The same rules, said as plainly as they can be; nothing survives the process, so `restart` plays the crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from bulkmail.errors import JournalError
from bulkmail.job.detail import tally
from bulkmail.job.ledger import (
    CHUNK_SIZE,
    DEFERRED,
    FAILED,
    FINAL_STATES,
    IN_DOUBT,
    MOVED,
    NONE,
    RESENT,
    SUPPRESSED,
    Advance,
    Chunk,
    Counts,
    Doubt,
    Fenced,
    Filler,
    NewChunk,
    Part,
    Trouble,
    check_advance,
    check_late,
    check_policy,
    is_done,
    pack,
    retry_time,
)
from bulkmail.job.waiting import Waiting


class MemoryLedger:
    """A Ledger. `restart` begins another run on it, as after kill -9."""

    def __init__(self) -> None:
        self.chunks: dict[int, Chunk] = {}
        self.details: list[tuple[int, bytes]] = []
        self.troubles: list[Trouble] = []
        self.filled = False
        self.place: str | None = None
        self.fence = 0
        self._names: dict[str, int] = {}
        self._totals: dict[str, Any] = {}
        self.restart()
        self._recovered = True

    def restart(self) -> None:
        """A new run: what was leased is free, and recover() has to come first."""
        self.fence += 1
        self._serial = 0
        self._held: set[int] = set()
        self._recovered = False
        self._index()

    def _index(self) -> None:
        self._waiting = Waiting()
        for chunk in self.chunks.values():
            if not is_done(chunk.outcome):
                self._waiting.add(chunk.route, chunk.no, chunk.not_before)

    def _add(self, new: NewChunk, outcome: bytes | None = None) -> int:
        no = len(self.chunks) + 1
        self.chunks[no] = Chunk(
            no, new.route, new.packed, new.n, attempt=new.attempt, not_before=new.not_before, outcome=outcome
        )
        return no

    # ---- the protocol ------------------------------------------------------------------------------------------------

    @contextmanager
    def fill(self) -> Iterator[Filler]:
        if self.filled:
            raise JournalError("the recipients are in the ledger already")
        try:
            filling = _Filling(self)
            yield filling
            filling.finish()
        except BaseException:
            self.chunks.clear()
            self.troubles.clear()
            raise
        self.filled = self._recovered = True
        self._index()

    def add_part(self, part: Part) -> None:
        if self.filled:
            raise JournalError("the recipients are in the ledger already")
        first = len(self.chunks) + 1
        for chunk in part.chunks:
            no = self._add(NewChunk(chunk.route, chunk.packed, chunk.n, 0, 0.0), bytes([chunk.outcome]) * chunk.n)
            if chunk.outcome == NONE:
                self._waiting.add(chunk.route, no, 0.0)
        self.troubles += [trouble._replace(chunk=first + trouble.chunk) for trouble in part.troubles]
        self.place, self.filled = part.place, part.place is None

    def lease(self, limit: int, now: float, routes: Iterable[str] | None = None) -> list[Chunk]:
        if not self._recovered:
            raise JournalError("recover() comes before the first lease")
        numbers = self._waiting.take(limit, now, routes)
        self._held.update(numbers)
        leased = [deepcopy(self.chunks[no]) for no in numbers]
        for chunk in leased:
            chunk.fence = self.fence
        return leased

    def routes(self) -> list[str]:
        return self._waiting.routes()

    def next_due(self, now: float, routes: Iterable[str] | None = None) -> float | None:
        return self._waiting.next_due(now, routes)

    def advance(self, batch: Advance) -> None:
        if batch.serial and batch.serial <= self._serial:
            return
        for no, fence, claimed, outcome in batch.chunks:
            if fence != self.fence or no not in self._held:
                raise Fenced(f"chunk {no} is not held by run {fence}")
            check_advance(bytes(self.chunks[no].outcome), self.chunks[no].claimed, no, claimed, outcome)
        self._serial = max(self._serial, batch.serial)
        for no, _, claimed, outcome in batch.chunks:
            self.chunks[no].claimed, self.chunks[no].outcome = claimed, bytearray(outcome)
            if is_done(outcome):
                self._held.remove(no)
                self._waiting.done(no)
        for new in batch.retries:
            self._waiting.add(new.route, self._add(new), new.not_before)
        self.details += batch.details
        self.troubles += batch.troubles
        self._totals = batch.progress or self._totals

    def release(self, chunks: Iterable[tuple[int, float]]) -> None:
        given = list(chunks)
        for no, _ in given:
            if no not in self._held:
                raise Fenced(f"chunk {no} is not held by run {self.fence}")
            if NONE in self.chunks[no].outcome[: self.chunks[no].claimed]:
                raise JournalError(f"chunk {no} has claimed recipients without an outcome and cannot be given back")
        for no, not_before in given:
            self._held.remove(no)
            self.chunks[no].not_before = not_before
            self._waiting.put_back([no], not_before)

    def late(self, outcomes: Iterable[tuple[int, int, int]], troubles: Iterable[Trouble] = ()) -> int:
        given = list(outcomes)
        why = {(trouble.chunk, trouble.position): trouble for trouble in troubles}
        for no, position, byte in given:
            if no in self._held:
                raise JournalError(f"chunk {no} is leased: its next advance settles it")
            if no not in self.chunks:
                raise JournalError(f"there is no chunk {no}")
            check_late(no, self.chunks[no].outcome, position, byte)
        count = 0
        for no, position, byte in given:
            if self.chunks[no].outcome[position] == IN_DOUBT:
                self.chunks[no].outcome[position] = byte
                self.troubles += [why[no, position]] if (no, position) in why else []
                count += 1
        return count

    def in_doubt(self) -> Iterator[Doubt]:
        for no, chunk in list(self.chunks.items()):
            for i, byte in enumerate(chunk.outcome):
                if byte == IN_DOUBT:
                    yield Doubt(no, i, chunk.numbers[i], chunk.offsets[i])

    def recover(self, policy: str = "skip", *, now: float = 0.0, delays: Sequence[float] = ()) -> int:
        if self._held:
            raise JournalError("recover() comes before the first lease")
        check_policy(policy)
        count = 0
        resent: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for chunk in list(self.chunks.values()):
            for i in range(chunk.claimed):
                if chunk.outcome[i] == NONE:
                    chunk.outcome[i] = IN_DOUBT
            count += chunk.outcome.count(IN_DOUBT)
            refused = self._leave(chunk, DEFERRED, MOVED)
            if refused:
                due = retry_time(self._last_time({number for number, _ in refused}), chunk.attempt, delays, now)
                self._gather(chunk.route, chunk.attempt + 1, due, refused)
            doubtful = self._leave(chunk, IN_DOUBT, RESENT) if policy == "resend" else []
            if doubtful:  # a chunk without any must not decide which route comes first
                resent.setdefault((chunk.route, chunk.attempt + 1), []).extend(doubtful)
        for (route, attempt), rows in resent.items():
            self._gather(route, attempt, 0.0, rows)
        self._recovered = True
        self._index()
        return count

    @staticmethod
    def _leave(chunk: Chunk, old: int, new: int) -> list[tuple[int, int]]:
        places = [i for i, byte in enumerate(chunk.outcome) if byte == old]
        for i in places:
            chunk.outcome[i] = new
        return [(chunk.numbers[i], chunk.offsets[i]) for i in places]

    def _last_time(self, numbers: set[int]) -> float:
        return max((row.time for row in self.troubles if row.number in numbers), default=0.0)

    def _gather(self, route: str, attempt: int, not_before: float, rows: list[tuple[int, int]]) -> None:
        rows.sort()
        for start in range(0, len(rows), CHUNK_SIZE):
            numbers, offsets = zip(*rows[start : start + CHUNK_SIZE], strict=True)
            self._add(NewChunk(route, pack(numbers, offsets), len(numbers), attempt, not_before))

    def finish(self, state: str, why: str | None = None, progress: dict[str, Any] | None = None) -> None:
        if state not in FINAL_STATES:
            raise ValueError(f"state is {state!r}, expected one of {FINAL_STATES}")
        self._totals = progress or self._totals

    def counts(self, live: bool = True) -> Counts:
        counts = Counts(attempts=self._totals.get("attempts", 0), bytes=self._totals.get("bytes", 0))
        for chunk in self.chunks.values():
            counts.add(tally(bytes(chunk.outcome), chunk.claimed), chunk.attempt, live)
        return counts

    def name_id(self, name: str | None) -> int:
        return 0 if name is None else self._names.setdefault(name, len(self._names) + 1)

    def close(self) -> None:
        pass


class _Filling:
    """A Filler."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._total: int | None = None

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        outcome = b"." * n if outcome is None else bytes(outcome)
        if n < 1 or len(outcome) != n or not set(outcome) <= {NONE, SUPPRESSED, FAILED}:
            raise JournalError(f"a new chunk of {n} recipients cannot have the outcomes {outcome[:20]!r}")
        return self._ledger._add(NewChunk(route, packed, n, 0, 0.0), outcome)

    def add_trouble(self, trouble: Trouble) -> None:
        self._ledger.troubles.append(trouble)

    def set_total(self, n: int) -> None:
        self._total = n

    def set_digest(self, digest: str) -> None:
        pass

    def finish(self) -> None:
        added = sum(chunk.n for chunk in self._ledger.chunks.values())
        if self._total is not None and self._total != added:
            raise JournalError(f"{added} recipients were put into chunks, not {self._total}")
