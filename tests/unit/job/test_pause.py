"""A paused job begins nothing, holds nobody claimed, and goes on as if nothing had been."""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.errors import ConnectError
from unit.job.fake_signers import FakeSigners
from unit.job.simulation import DROP, FakeRelay, Simulation, address


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def claimed_without_outcome(ledger):
    return sum(chunk.outcome[: chunk.claimed].count(b".") for chunk in ledger.chunks.values())


def paused(begin, end, recipients=2000, *relays, **options):
    """A simulation that is paused from `begin` to `end` (seconds), and what was in doubt just before the end."""
    doubt = []
    at = [
        (begin, lambda: simulation.scheduler.pause()),
        (end - 0.001, lambda: doubt.append(claimed_without_outcome(simulation.ledger))),
        (end, lambda: simulation.scheduler.resume()),
    ]
    simulation = Simulation(recipients, *relays, at=at, **options)
    simulation.run().checked()
    return simulation, doubt[0]


@pytest.mark.parametrize(
    ("begin", "options"),
    [(0.3, {}), (0.08, {"shared": True, "batch": 50}), (0.3, {"rate": 500.0}), (0.3, {"commit_seconds": 0.02})],
)
def test_nothing_begins_in_a_pause_and_nobody_is_claimed(begin, options):
    simulation, doubt = paused(begin, 100.0, 2000, FakeRelay(latency=0.02), **options)
    (relay,) = simulation.relays
    begin += 1000.0
    assert not [time for time in relay.times if begin + 0.05 < time < 1100.0]
    assert [time for time in relay.times if time < begin] and [time for time in relay.times if time > 1100]
    assert simulation.taken == everybody(2000)
    assert simulation.tried == everybody(2000)
    assert doubt == 0


def test_messages_that_are_being_signed_are_held_too():
    simulation, doubt = paused(0.05, 50.0, 500, FakeRelay(latency=0.02), signers=FakeSigners(0.04))
    assert simulation.taken == everybody(500) == simulation.tried
    assert doubt == 0


def test_connections_that_drop_during_the_pause_lose_nobody():
    def answer(relay, phase, about):
        return DROP if phase == "rcpt" and about == address(40) and not simulation.tried[about] > 1 else None

    at = [(0.02, lambda: simulation.scheduler.pause()), (60.0, lambda: simulation.scheduler.resume())]
    simulation = Simulation(300, FakeRelay(latency=0.02), answer=answer, at=at)
    simulation.run().checked()
    assert simulation.taken == everybody(300)


def test_a_pause_during_which_all_retries_come_due_sends_them_after_it():
    def answer(relay, phase, about):
        return b"450 4.2.1 later" if phase == "rcpt" and simulation.tried[about] == 1 else None

    at = [(0.5, lambda: simulation.scheduler.pause()), (500.0, lambda: simulation.scheduler.resume())]
    simulation = Simulation(50, answer=answer, at=at)
    simulation.run().checked()
    assert simulation.taken == everybody(50)
    assert simulation.seconds > 500


def test_a_relay_that_was_down_has_its_patience_again_after_a_pause():
    def answer(relay, phase, about):
        down = phase == "connect" and simulation.scheduler._loop.time() < 1000 + 1010
        return ConnectError("refused") if down else None

    at = [(5.0, lambda: simulation.scheduler.pause()), (1000.0, lambda: simulation.scheduler.resume())]
    simulation = Simulation(20, FakeRelay(patience=30.0), answer=answer, at=at)
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.taken == everybody(20)


def test_a_stop_ends_a_pause():
    at = [(0.1, lambda: simulation.scheduler.pause()), (50.0, lambda: simulation.scheduler.stop(None))]
    simulation = Simulation(3000, FakeRelay(latency=0.02), at=at)
    simulation.run().checked()
    assert simulation.error is None
    assert 50 <= simulation.seconds < 51
    assert "paused" not in simulation.tally.summary()
    assert simulation.counts["pending"] > 0


def test_pausing_twice_and_resuming_twice_is_once():
    at = [(t, f) for t in (0.05, 0.06) for f in (lambda: simulation.scheduler.pause(),)]
    at += [(t, f) for t in (9.0, 9.1) for f in (lambda: simulation.scheduler.resume(),)]
    simulation = Simulation(1000, FakeRelay(latency=0.01), at=at)
    simulation.run().checked()
    assert simulation.taken == everybody(1000) == simulation.tried


def test_what_reads_the_journal_is_told_of_the_pause():
    at = [(0.1, lambda: simulation.scheduler.pause()), (9.0, lambda: simulation.scheduler.resume())]
    simulation = Simulation(2000, FakeRelay(latency=0.02), at=at)
    simulation.run().checked()
    told = [bool(batch.progress.get("paused")) for batch in simulation.writer.commits]
    assert True in told and told[0] is False and told[-1] is False
