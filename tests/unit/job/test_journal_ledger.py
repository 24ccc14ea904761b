"""What every ledger promises: one suite for the journal and for the model in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import (
    DEFERRED,
    DELIVERED,
    FAILED,
    IN_DOUBT,
    SUPPRESSED,
    Advance,
    Doubt,
    Fenced,
    Ledger,
    NewChunk,
    Trouble,
)
from bulkmail.job.memory_ledger import MemoryLedger
from unit.job.journal_tools import fill, new_journal, rows, settle

NOW = 1_700_000_000.0


class Subject:
    """A ledger, and how it comes back after a crash."""

    def __init__(self, ledger: Ledger, crash: Callable[[Ledger], Ledger]) -> None:
        self.ledger = ledger
        self._crash = crash

    def crash(self) -> Ledger:
        self.ledger = self._crash(self.ledger)
        return self.ledger


def _reopen(journal: Ledger) -> Journal:
    assert isinstance(journal, Journal)
    journal.close()  # what was committed is all that there is, as after kill -9
    return Journal.open(journal.path)


def _restart(ledger: Ledger) -> MemoryLedger:
    assert isinstance(ledger, MemoryLedger)
    ledger.restart()
    return ledger


@pytest.fixture(params=["journal", "memory"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "memory":
        yield Subject(MemoryLedger(), _restart)
        return
    subject = Subject(new_journal(tmp_path / "news.journal"), _reopen)
    yield subject
    subject.ledger.close()


@pytest.fixture
def ledger(subject: Subject) -> Ledger:
    return subject.ledger


def trouble(number: int, outcome: int = DEFERRED, time: float = NOW) -> Trouble:
    return Trouble(
        f"u{number}@example.com", number, 1, number - 1, 1, outcome, "busy", 450, "4.2.0", "later", time=time
    )


# ---- filling ---------------------------------------------------------------------------------------------------------


def test_what_is_filled_in_waits(ledger: Ledger) -> None:
    fill(ledger, chunks=3, n=10)
    counts = ledger.counts()
    assert (counts.pending, counts.recipients) == (30, 30)
    (chunk,) = ledger.lease(1, NOW)
    assert (list(chunk.numbers), list(chunk.offsets[:2])) == (list(range(1, 11)), [100, 200])
    assert (chunk.route, chunk.attempt, chunk.claimed, bytes(chunk.outcome)) == ("*", 0, 0, b"." * 10)


def test_recipients_decided_before_sending_are_never_leased(ledger: Ledger) -> None:
    with ledger.fill() as filler:
        filler.add_chunk("*", rows(1, 3), 3, b"SFS", "duplicate")
        mixed = filler.add_chunk("*", rows(4, 3), 3, b".S.")
        filler.add_trouble(Trouble("", 2, 1, 1, 0, FAILED, "bad_row", reply="no email"))
    counts = ledger.counts()
    assert (counts.suppressed, counts.failed, counts.pending, counts.recipients) == (3, 1, 2, 6)
    assert [chunk.no for chunk in ledger.lease(9, NOW)] == [mixed]


def test_a_fill_that_fails_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.fill() as filler:
        filler.add_chunk("*", rows(1, 3), 3)
        raise KeyError
    assert ledger.counts().recipients == 0
    fill(ledger)
    assert ledger.counts().recipients == 10


def test_a_total_that_does_not_agree_is_refused(ledger: Ledger) -> None:
    with pytest.raises(JournalError, match=r"10 recipients .* not 11"), ledger.fill() as filler:
        filler.add_chunk("*", rows(1, 10), 10)
        filler.set_total(11)
    assert ledger.counts().recipients == 0


@pytest.mark.parametrize("outcome", [b"..", b"D..", b"?..", b"d..", b"x.."])
def test_a_chunk_cannot_begin_with_what_only_sending_can_cause(ledger: Ledger, outcome: bytes) -> None:
    with pytest.raises(JournalError, match="new chunk"), ledger.fill() as filler:
        filler.add_chunk("*", rows(1, 3), 3, outcome)


def test_recipients_are_filled_in_once(ledger: Ledger) -> None:
    fill(ledger)
    with pytest.raises(JournalError, match="already"):
        fill(ledger)


# ---- leasing ---------------------------------------------------------------------------------------------------------


def test_a_chunk_is_leased_once(ledger: Ledger) -> None:
    fill(ledger, chunks=3)
    leased = [ledger.lease(2, NOW), ledger.lease(2, NOW), ledger.lease(2, NOW)]
    assert [[chunk.no for chunk in part] for part in leased] == [[1, 2], [3], []]
    assert ledger.next_due(NOW) is None


def test_routes_are_leased_apart(ledger: Ledger) -> None:
    with ledger.fill() as filler:
        for i, route in enumerate(["a", "b", "a", "c"]):
            filler.add_chunk(route, rows(1 + i, 1), 1)
    assert [chunk.no for chunk in ledger.lease(9, NOW, ["b"])] == [2]
    assert ledger.next_due(NOW, ["b", "unknown"]) is None
    assert [chunk.no for chunk in ledger.lease(9, NOW, iter(["c", "a"]))] == [1, 3, 4]


def test_retries_wait_for_their_time_and_then_go_first(ledger: Ledger) -> None:
    fill(ledger, chunks=3, n=4)
    (chunk,) = ledger.lease(1, NOW)
    later = [NewChunk("*", rows(1 + i, 1), 1, 1, NOW + due, chunk.no) for i, due in enumerate([60, 30])]
    ledger.advance(settle(chunk, b"mmDD", retries=later))
    ledger.lease(1, NOW)
    assert ledger.next_due(NOW) == NOW
    assert [chunk.no for chunk in ledger.lease(1, NOW + 29)] == [3]
    assert ledger.next_due(NOW) == NOW + 30
    assert ledger.lease(9, NOW + 29) == []
    retries = ledger.lease(9, NOW + 100)
    assert [(chunk.no, chunk.attempt, chunk.not_before, list(chunk.numbers)) for chunk in retries] == [
        (5, 1, NOW + 30, [2]),
        (4, 1, NOW + 60, [1]),
    ]


def test_what_was_given_back_can_be_leased_again_when_it_is_due(ledger: Ledger) -> None:
    fill(ledger, chunks=2)
    chunk, other = ledger.lease(2, NOW)
    ledger.advance(settle(chunk, b"DD"))
    ledger.release([(chunk.no, NOW + 60), (other.no, 0)])
    assert [again.no for again in ledger.lease(9, NOW)] == [other.no]
    assert ledger.next_due(NOW) == NOW + 60
    (again,) = ledger.lease(9, NOW + 60)
    assert (again.no, again.claimed, bytes(again.outcome)) == (chunk.no, 2, b"DD........")


def test_what_is_under_way_cannot_be_given_back(ledger: Ledger) -> None:
    fill(ledger)
    (chunk,) = ledger.lease(1, NOW)
    ledger.advance(settle(chunk, b"D", claimed=2))
    with pytest.raises(JournalError, match="without an outcome"):
        ledger.release([(chunk.no, 0)])
    with pytest.raises(Fenced):
        ledger.release([(99, 0)])


# ---- advancing -------------------------------------------------------------------------------------------------------


def test_outcomes_settle_in_any_order_and_claims_rise(ledger: Ledger) -> None:
    fill(ledger, n=5)
    (chunk,) = ledger.lease(1, NOW)
    for outcome, claimed in [(b".....", 3), (b"..D..", 3), (b"F.D?.", 4), (b"FDD?S", 5)]:
        ledger.advance(settle(chunk, outcome, claimed))
    counts = ledger.counts()
    assert (counts.delivered, counts.failed, counts.in_doubt, counts.suppressed, counts.pending) == (2, 1, 1, 1, 0)


def test_claimed_without_an_outcome_waits_while_the_run_lives_and_is_in_doubt_after(ledger: Ledger) -> None:
    fill(ledger)
    (chunk,) = ledger.lease(1, NOW)
    ledger.advance(settle(chunk, b"D", claimed=4))
    assert (ledger.counts(live=True).pending, ledger.counts(live=True).in_doubt) == (9, 0)
    assert (ledger.counts(live=False).pending, ledger.counts(live=False).in_doubt) == (6, 3)


def test_deferred_counts_those_in_the_chunk_and_in_retry_chunks(ledger: Ledger) -> None:
    fill(ledger)
    (chunk,) = ledger.lease(1, NOW)
    ledger.advance(settle(chunk, b"dd"))
    assert (ledger.counts().deferred, ledger.counts().pending) == (2, 8)
    ledger.advance(settle(chunk, b"mm", retries=[NewChunk("*", rows(1, 2), 2, 1, NOW + 9, 1)]))
    assert (ledger.counts().deferred, ledger.counts().pending, ledger.counts().recipients) == (2, 8, 10)


@pytest.mark.parametrize(
    ("before", "after", "claimed", "what"),
    [
        (b"....", b"..D.", 2, "recipient 2"),  # settled as sent, never claimed
        (b"....", b"...?", 3, "recipient 3"),
        (b"....", b"..d.", 2, "recipient 2"),
        (b"D...", b".D..", 2, "recipient 0"),  # an outcome taken back
        (b"D...", b"?...", 1, "recipient 0"),  # doubt about what is known
        (b"D...", b"F...", 1, "recipient 0"),
        (b"d...", b"D...", 1, "recipient 0"),  # delivered without a retry chunk
        (b"S...", b"D...", 1, "recipient 0"),
        (b"m...", b"D...", 1, "recipient 0"),
        (b"?...", b"r...", 1, "recipient 0"),  # only recover sends again
        (b"....", b"x...", 1, "recipient 0"),
        (b"....", b"...", 1, "has 4 recipients"),
        (b"DD..", b"DD..", 1, "from 2 to 1"),  # a claim taken back
        (b"....", b"....", 5, "from 0 to 5"),
    ],
)
def test_an_advance_that_breaks_the_rules_is_refused_whole(
    ledger: Ledger, before: bytes, after: bytes, claimed: int, what: str
) -> None:
    fill(ledger, chunks=2, n=4)
    chunk, other = ledger.lease(2, NOW)
    ledger.advance(settle(chunk, before, len(before.rstrip(b"."))))
    counts = ledger.counts()
    good = settle(other, b"DDDD").chunks
    with pytest.raises(JournalError, match=what):
        ledger.advance(Advance([*good, (chunk.no, chunk.fence, claimed, after)], troubles=[trouble(1)]))
    assert ledger.counts() == counts


def test_a_repeated_advance_changes_nothing_more(ledger: Ledger) -> None:
    fill(ledger, n=3)
    (chunk,) = ledger.lease(1, NOW)
    batch = settle(chunk, b"mDD", retries=[NewChunk("*", rows(1, 1), 1, 1, NOW, chunk.no)], serial=7)
    for _ in range(3):
        ledger.advance(batch)
    assert (ledger.counts().deferred, ledger.counts().recipients) == (1, 3)


def test_a_chunk_that_is_not_held_is_fenced(ledger: Ledger) -> None:
    fill(ledger, chunks=2, n=2)
    (chunk,) = ledger.lease(1, NOW)
    for no, fence in [(chunk.no + 1, chunk.fence), (chunk.no, chunk.fence + 1), (99, chunk.fence)]:
        with pytest.raises(Fenced):
            ledger.advance(Advance([(no, fence, 1, b"D.")]))
    ledger.advance(settle(chunk, b"DD"))
    with pytest.raises(Fenced):
        ledger.advance(settle(chunk, b"DD"))
    assert (ledger.counts().delivered, ledger.counts().pending) == (2, 2)


# ---- crashes and doubt -----------------------------------------------------------------------------------------------


def _crashed(subject: Subject, outcome: bytes, claimed: int, troubles: list[Trouble] | None = None) -> Ledger:
    fill(subject.ledger, n=6)
    (chunk,) = subject.ledger.lease(1, NOW)
    subject.ledger.advance(settle(chunk, outcome, claimed, troubles=troubles or []))
    return subject.crash()


def test_after_a_crash_only_what_was_claimed_without_an_outcome_is_in_doubt(subject: Subject) -> None:
    ledger = _crashed(subject, b"D.F...", 4)
    assert ledger.recover("skip", now=NOW) == 2
    assert list(ledger.in_doubt()) == [Doubt(1, 1, 2, 200), Doubt(1, 3, 4, 400)]
    (chunk,) = ledger.lease(9, NOW)
    assert (bytes(chunk.outcome), chunk.claimed) == (b"D?F?..", 4)
    ledger.advance(settle(chunk, b"D?F?DD"))
    assert ledger.lease(9, NOW) == []
    counts = ledger.counts()
    assert (counts.delivered, counts.failed, counts.in_doubt, counts.pending) == (3, 1, 2, 0)


def test_nothing_is_leased_before_recovery(subject: Subject) -> None:
    ledger = _crashed(subject, b"", 3)
    with pytest.raises(JournalError, match="recover"):
        ledger.lease(1, NOW)
    ledger.recover()
    assert ledger.lease(1, NOW)


def test_recovery_comes_before_the_first_lease(ledger: Ledger) -> None:
    fill(ledger)
    ledger.lease(1, NOW)
    with pytest.raises(JournalError, match="before the first lease"):
        ledger.recover()


def test_resend_moves_everybody_in_doubt_to_a_new_chunk(subject: Subject) -> None:
    ledger = _crashed(subject, b"D?.", 4)
    assert ledger.recover("resend", now=NOW) == 3
    assert list(ledger.in_doubt()) == []
    first, second = ledger.lease(9, NOW)
    assert (first.no, bytes(first.outcome), first.claimed) == (1, b"Drrr..", 4)
    assert (list(second.numbers), list(second.offsets), second.attempt) == ([2, 3, 4], [200, 300, 400], 1)
    assert ledger.counts().recipients == 6


def test_a_second_recovery_finds_the_same_doubt(subject: Subject) -> None:
    assert _crashed(subject, b"D..", 3).recover("skip") == 2
    ledger = subject.crash()
    assert ledger.recover("skip") == 2
    assert ledger.counts().in_doubt == 2


@pytest.mark.parametrize(
    ("delays", "now", "due"),
    [
        ((60.0, 300.0), NOW + 20, NOW + 70),
        ((60.0,), NOW + 500, NOW + 500),
        ((), NOW + 20, NOW + 20),
        ((), 0.0, NOW + 10),
        ((60.0,), NOW - 86_400, NOW - 86_400 + 60),  # the clock was put back since
    ],
)
def test_who_was_deferred_in_a_chunk_moves_to_a_retry_chunk(
    subject: Subject, delays: tuple[float, ...], now: float, due: float
) -> None:
    ledger = _crashed(subject, b"dDd", 3, [trouble(1, time=NOW), trouble(3, time=NOW + 10)])
    assert ledger.recover("skip", now=now, delays=delays) == 0
    counts = ledger.counts()
    assert (counts.deferred, counts.delivered, counts.pending, counts.recipients) == (2, 1, 3, 6)
    ledger.lease(1, 1.0)
    assert ledger.next_due(1.0) == due
    (retry,) = ledger.lease(9, due)
    assert (list(retry.numbers), retry.attempt) == ([1, 3], 1)


def test_late_evidence_settles_doubt_and_nothing_else(subject: Subject) -> None:
    ledger = _crashed(subject, b"DF....", 4)
    ledger.recover("skip")
    changed = ledger.late([(1, 0, FAILED), (1, 1, DELIVERED), (1, 2, DELIVERED), (1, 3, FAILED), (1, 5, DELIVERED)])
    assert changed == 2
    counts = ledger.counts()
    assert (counts.delivered, counts.failed, counts.in_doubt, counts.pending) == (2, 2, 0, 2)


@pytest.mark.parametrize(
    "late", [(1, 2, IN_DOUBT), (1, 2, SUPPRESSED), (1, 6, DELIVERED), (1, -1, FAILED), (9, 0, FAILED)]
)
def test_late_evidence_that_cannot_be_is_refused_whole(subject: Subject, late: tuple[int, int, int]) -> None:
    ledger = _crashed(subject, b"", 4)
    ledger.recover("skip")
    with pytest.raises(JournalError):
        ledger.late([(1, 0, DELIVERED), late])
    assert ledger.counts().in_doubt == 4


def test_a_chunk_in_hand_is_settled_by_its_advance_not_by_late(ledger: Ledger) -> None:
    fill(ledger)
    (chunk,) = ledger.lease(1, NOW)
    ledger.advance(settle(chunk, b"?"))
    with pytest.raises(JournalError, match="leased"):
        ledger.late([(1, 0, DELIVERED)])
    ledger.advance(settle(chunk, b"D"))
    assert ledger.counts().delivered == 1


def test_totals_go_on_over_runs(subject: Subject) -> None:
    fill(subject.ledger)
    (chunk,) = subject.ledger.lease(1, NOW)
    subject.ledger.advance(settle(chunk, b"D", progress={"attempts": 1, "bytes": 500, "relays": {}}))
    ledger = subject.crash()
    ledger.recover()
    assert (ledger.counts().attempts, ledger.counts().bytes) == (1, 500)
    ledger.finish("stopped", "because", {"attempts": 3, "bytes": 900, "relays": {}})
    assert (ledger.counts().attempts, ledger.counts().bytes) == (3, 900)


def test_names_have_numbers(ledger: Ledger) -> None:
    numbers = [ledger.name_id(name) for name in ("main", None, "spare", "main")]
    assert numbers[0] == numbers[3]
    assert numbers[1] == 0
    assert len(set(numbers)) == 3


def test_words_outside_the_protocol_are_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="policy"):
        ledger.recover("again")
    with pytest.raises(ValueError, match="state"):
        ledger.finish("done")
