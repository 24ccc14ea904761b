"""The counts always add up, whatever the relays do, whenever the run is stopped, killed or its disk fills."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConnectError
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import Counts, JournalFault
from bulkmail.job.tally import EgressTally, RelayTally, Tally
from unit.job.journal_tools import new_journal, rows
from unit.job.simulation import DROP, DROP_TAKEN, START, FakeRelay, Simulation, address, filled

REPLIES = [b"451 4.3.0 later", b"550 5.1.1 no", b"421 4.3.2 closing", b"554 5.7.1 relay access denied", DROP]


def chaos(seed, trouble):
    """An Answer: with the probability `trouble` something else than yes. The same for the same seed."""
    chance = random.Random(seed)

    def answer(relay, phase, about):
        if chance.random() >= trouble:
            return None
        if phase == "connect":
            return ConnectError("refused")
        return chance.choice([*REPLIES, DROP_TAKEN] if phase == "dot" else REPLIES)

    return answer


@st.composite
def jobs(draw):
    shared = draw(st.booleans())
    relays = [
        {
            "name": name,
            "url": f"smtp://{name}.test?connections={draw(st.integers(1, 4))}"
            f"&messages_per_connection={draw(st.sampled_from([0, 1, 3, 100]))}",
            "latency": draw(st.sampled_from([0.0, 0.003, 0.05])),
            "pipelining": draw(st.booleans()),
            "patience": 20.0,
        }
        for name in draw(st.sampled_from([["a"], ["a", "b"]]))
    ]
    options = {
        "shared": shared,
        "batch": draw(st.integers(1, 7)) if shared else 1,
        "rate": draw(st.sampled_from([None, None, 3.0, 50.0])),
        "delays": draw(st.sampled_from([(), (1.0,), (1.0, 5.0)])),
        "commit_seconds": draw(st.sampled_from([0.0, 0.001, 0.03])),
        "bad": () if shared else draw(st.lists(st.integers(1, 40), max_size=5)),
    }
    return relays, options


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    job=jobs(),
    recipients=st.integers(1, 60),
    chunk=st.sampled_from([7, 1000]),
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.02, 0.2, 0.6]),
    stops=st.lists(st.floats(0.0, 2.0), max_size=3),
    full=st.none() | st.integers(1, 12),
)
def test_counts_add_up_and_nobody_is_sent_to_twice(job, recipients, chunk, seed, trouble, stops, full):
    """Several runs on one ledger: stopped, killed or out of disk, then one to the end."""
    relays, options = job
    ledger, taken = filled(recipients, chunk), Counter()
    for number, stop in enumerate([*stops, None]):
        last = stop is None

        def fail(commit, last=last):
            return JournalFault("the disk is full") if not last and full is not None and commit >= full else None

        simulation = Simulation(
            0,
            *(FakeRelay(**relay) for relay in relays),
            answer=chaos(seed + number, 0.0 if last else trouble),
            fail_commit=fail,
            ledger=ledger,
            **options,
        )
        if not last:
            simulation.at = [(stop, simulation.stop)]
        simulation.run()
        counts = simulation.tally.counts
        assert counts.recipients == recipients
        assert min(counts.as_dict().values()) >= 0
        assert ledger.counts(live=False).recipients == recipients
        if not isinstance(simulation.error, JournalFault):
            simulation.checked()
        taken += simulation.taken
        ledger.restart()
        ledger.recover("skip", now=START, delays=options["delays"])
    assert max(taken.values(), default=1) == 1, "somebody was sent to twice"
    counts = ledger.counts()
    assert counts.pending == counts.deferred == 0
    assert counts.delivered + counts.failed + counts.in_doubt == recipients
    states = simulation.states()
    assert len(states) == recipients
    for number, state in states.items():
        if state == "D":
            assert taken[address(number)] == 1
        elif state == "F":
            assert taken[address(number)] == 0


@settings(max_examples=25, deadline=None)
@given(job=jobs(), recipients=st.integers(1, 40), seed=st.integers(0, 2**32), trouble=st.sampled_from([0.0, 0.1, 0.5]))
def test_the_journal_counts_as_the_run_does(job, recipients, seed, trouble):
    """The same on SQLite: what `status` shows afterwards is what `send` printed."""
    relays, options = job
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.journal"
        journal = new_journal(path)
        with journal.fill() as filler:
            for first in range(1, recipients + 1, 9):
                size = min(9, recipients + 1 - first)
                filler.add_chunk("*", rows(first, size), size)
            filler.set_total(recipients)
        made = [FakeRelay(**relay) for relay in relays]
        simulation = Simulation(0, *made, answer=chaos(seed, trouble), ledger=journal, **options).run().checked()
        journal.finish("stopped", None, simulation.tally.progress())
        assert journal.counts(live=False).as_dict() == simulation.tally.counts.as_dict()
        journal.close()
        with Journal.open(path) as again:
            again.recover("skip")
            assert again.counts().as_dict() == simulation.tally.counts.as_dict()


def test_a_move_changes_two_states_and_the_sum_not():
    tally = Tally("job", "j", Counts(pending=5, deferred=2))
    tally.move("pending", "delivered", 3)
    tally.move("deferred", "deferred")
    assert (tally.counts.pending, tally.counts.delivered, tally.counts.deferred) == (2, 3, 2)
    assert tally.counts.recipients == 7


def test_the_summary_has_the_keys_of_the_contract():
    tally = Tally("news", "news.journal", Counts(pending=1), relays={"main": RelayTally()})
    keys = "job state recipients delivered failed deferred in_doubt pending suppressed attempts bytes seconds"
    assert set(tally.summary()) == {*keys.split(), "messages_per_second", "relays", "journal"}
    assert set(tally.summary()["relays"]["main"]) == {"delivered", "deferred", "failed", "connections", "last_error"}


def test_connections_are_those_open_now_while_it_runs_and_then_the_most_there_were():
    relay = RelayTally(connections=7, open=2)
    relay.egress["a"] = EgressTally(connections=4, open=1)
    tally = Tally("news", "j", Counts(), relays={"main": relay})

    def shown():
        main = tally.summary()["relays"]["main"]
        assert "open" not in main and "open" not in main["egress"]["a"]
        return main["connections"], main["egress"]["a"]["connections"]

    assert shown() == (2, 1)
    tally.end("stopped")
    assert shown() == (7, 4)
    assert relay.open == 2 and tally.progress()["relays"]["main"]["egress"]["a"]["open"] == 1


def test_seconds_stand_still_once_it_has_ended():
    tally = Tally("news", "j", Counts())
    tally.end("finished")
    assert tally.summary()["seconds"] == tally.summary()["seconds"]
    assert tally.summary()["state"] == "finished"
