"""Any order of lease, advance, release, crash, recovery and late evidence: the journal and the model agree throughout.

A sender stands beside them: it sends to whoever an advance that came back has claimed for it, and keeps the truth. So
the machine also checks what the ledger is for: nobody is sent to twice unasked, nobody is lost, no claim goes back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bulkmail.job.journal import Journal
from bulkmail.job.ledger import (
    DEFERRED,
    DELIVERED,
    FAILED,
    IN_DOUBT,
    MOVED,
    NONE,
    RESENT,
    Advance,
    Chunk,
    NewChunk,
    Trouble,
    pack,
)
from bulkmail.job.memory_ledger import MemoryLedger
from unit.job.journal_tools import OFFSET, new_journal, rows

# Every example makes a file, and every crash ends one: on a disk that takes longer than everything else.
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
ROUTES = ("big", "*")
DELAYS = (60.0, 300.0)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(dir=SCRATCH)
        self.journal = new_journal(Path(self._folder.name) / "m.journal")
        self.model = MemoryLedger()
        self.now = 1000.0
        self.hand: dict[int, Chunk] = {}
        self.may_send: dict[int, int] = {}  # row number -> sends asked for so far: the first, retries, resends
        self.sent: dict[int, int] = {}
        self.claims: dict[int, int] = {}
        self.serial = 0
        self.total = 0

    def teardown(self) -> None:
        self.journal.close()
        self._folder.cleanup()

    def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        ours = getattr(self.journal, name)(*args, **kwargs)
        assert ours == getattr(self.model, name)(*args, **kwargs)
        return ours

    @initialize(sizes=st.lists(st.tuples(st.sampled_from(ROUTES), st.integers(1, 6)), min_size=1, max_size=4))
    def fill(self, sizes: list[tuple[str, int]]) -> None:
        for ledger in (self.journal, self.model):
            first = 1
            with ledger.fill() as filler:
                for route, n in sizes:
                    filler.add_chunk(route, rows(first, n), n)
                    first += n
                filler.set_total(first - 1)
        self.total = first - 1
        self.may_send = dict.fromkeys(range(1, first), 1)

    # ---- the run -----------------------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 3), routes=st.sampled_from([None, ["big"], ["*"], ["big", "*"]]))
    def lease(self, limit: int, routes: list[str] | None) -> None:
        ours = self.journal.lease(limit, self.now, routes)
        theirs = self.model.lease(limit, self.now, routes)
        assert [_facts(chunk) for chunk in ours] == [_facts(chunk) for chunk in theirs]
        for chunk in ours:
            assert chunk.no not in self.hand
            assert chunk.claimed >= self.claims.get(chunk.no, 0)
            self.hand[chunk.no] = chunk

    @rule(seconds=st.sampled_from([1.0, 60.0, 600.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.hand)
    @rule(data=st.data(), lost=st.booleans())
    def advance(self, data: st.DataObject, lost: bool) -> None:
        """Settle and claim in some chunks in hand; `lost`: killed before the commit, so it never happened."""
        batch = Advance(serial=self.serial + 1)
        sends: list[int] = []
        for no in data.draw(st.lists(st.sampled_from(sorted(self.hand)), unique=True, min_size=1)):
            sends += self._change(data, self.hand[no], batch)
        if lost:
            self.crash()
            return
        self.serial += 1
        for _ in range(data.draw(st.integers(1, 2))):  # an advance may be repeated
            self.both("advance", batch)
        for no, _, claimed, outcome in batch.chunks:
            self.claims[no] = claimed
            if NONE not in outcome and DEFERRED not in outcome:
                del self.hand[no]
        for retry in batch.retries:
            for number in Chunk(0, "", retry.packed, retry.n).numbers:
                self.may_send[number] += 1
        for number in sends:
            self.sent[number] = self.sent.get(number, 0) + 1

    def _change(self, data: st.DataObject, chunk: Chunk, batch: Advance) -> list[int]:
        """Draw new outcomes for what is claimed, and a higher claim; the row numbers that are newly claimed."""
        new = data.draw(st.integers(chunk.claimed, chunk.n))
        moved = []
        for i in range(chunk.claimed):
            if chunk.outcome[i] == NONE:
                chunk.outcome[i] = data.draw(st.sampled_from([NONE, DELIVERED, FAILED, DEFERRED, IN_DOUBT]))
                if chunk.outcome[i] != NONE and chunk.outcome[i] != DELIVERED:
                    batch.troubles.append(self._trouble(chunk, i))
            elif chunk.outcome[i] == DEFERRED and data.draw(st.booleans()):
                chunk.outcome[i] = MOVED
                moved.append(i)
        if moved:
            packed = pack([chunk.numbers[i] for i in moved], [chunk.offsets[i] for i in moved])
            due = self.now + 60
            batch.retries.append(NewChunk(chunk.route, packed, len(moved), chunk.attempt + 1, due, chunk.no))
        sends = [chunk.numbers[i] for i in range(chunk.claimed, new) if chunk.outcome[i] == NONE]
        chunk.claimed = new
        batch.chunks.append((chunk.no, chunk.fence, new, bytes(chunk.outcome)))
        return sends

    def _trouble(self, chunk: Chunk, i: int) -> Trouble:
        return Trouble(
            "u@example.com", chunk.numbers[i], chunk.no, i, chunk.attempt + 1, chunk.outcome[i], "x", 450, time=self.now
        )

    @rule(seconds=st.sampled_from([0.0, 30.0]))
    def release(self, seconds: float) -> None:
        for no, chunk in list(self.hand.items()):
            if NONE not in chunk.outcome[: chunk.claimed]:
                self.both("release", [(no, self.now + seconds if seconds else 0.0)])
                del self.hand[no]

    @rule(data=st.data(), outcome=st.sampled_from([DELIVERED, FAILED]))
    def late(self, data: st.DataObject, outcome: int) -> None:
        known = [doubt for doubt in self.journal.in_doubt() if doubt.chunk not in self.hand]
        if known:
            doubt = data.draw(st.sampled_from(known))
            assert self.both("late", [(doubt.chunk, doubt.position, outcome)]) == 1

    # ---- crashes -----------------------------------------------------------------------------------------------------

    @rule(policy=st.sampled_from(["skip", "resend"]))
    def crash(self, policy: str = "skip") -> None:
        self.journal.close()
        self.journal = Journal.open(self.journal.path)
        self.model.restart()
        self.hand, self.serial = {}, 0
        doubt = self.journal.counts(live=False).in_doubt
        before = {no: chunk.outcome[:] for no, chunk in self.model.chunks.items()}
        assert self.both("recover", policy, now=self.now, delays=DELAYS) == doubt
        for no, old in before.items():
            chunk = self.model.chunks[no]
            for i, byte in enumerate(chunk.outcome):
                if byte != old[i] and byte in (MOVED, RESENT):
                    self.may_send[chunk.numbers[i]] += 1

    # ---- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        assert self.journal.counts() == self.model.counts()
        assert self.both("counts", live=False).recipients == self.total

    @invariant()
    def nobody_is_sent_to_more_often_than_asked(self) -> None:
        assert all(count <= self.may_send[number] for number, count in self.sent.items())

    @invariant()
    def nobody_is_lost(self) -> None:
        """Who was never sent to waits in exactly one place, where it can still be leased."""
        waiting = [
            chunk.numbers[i]
            for chunk in self.model.chunks.values()
            for i, byte in enumerate(chunk.outcome)
            if byte == NONE and i >= chunk.claimed
        ]
        assert len(waiting) == len(set(waiting))
        assert set(range(1, self.total + 1)) - set(self.sent) <= set(waiting)

    @invariant()
    def doubt_agrees(self) -> None:
        doubts = list(self.journal.in_doubt())
        assert doubts == list(self.model.in_doubt())
        assert all(doubt.offset == doubt.number * OFFSET for doubt in doubts)


def _facts(chunk: Chunk) -> tuple[Any, ...]:
    return (
        chunk.no,
        chunk.route,
        chunk.numbers,
        chunk.offsets,
        chunk.attempt,
        chunk.not_before,
        chunk.claimed,
        bytes(chunk.outcome),
    )


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
