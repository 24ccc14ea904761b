"""Weights of relays: who carries how much, and that nobody waits for one that cannot: by a clock that jumps."""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.egress import Egress
from bulkmail.errors import ConnectError
from unit.job.simulation import DROP, FakeRelay, Simulation, address


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def relay(name, weight=None, options="", **more):
    return FakeRelay(name, f"smtp://{name}.test{options}", weight=weight, **more)


def run(count, *relays, answer=lambda simulation, name, phase: None, **more):
    simulation = Simulation(count, *relays, **more)
    simulation.answer = lambda name, phase, about: answer(simulation, name, phase)
    simulation.run().checked()
    assert simulation.error is None and simulation.taken == everybody(count)
    return simulation


def carried(*relays):
    return [len(one.taken) for one in relays]


def shares(count, weights):
    return [count * weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("rate", [None, 50.0])
@pytest.mark.parametrize("count", [40, 1000])
@pytest.mark.parametrize("weights", [(3, 1), (1, 1), (5, 2, 1)])
def test_each_carries_its_share(weights, count, rate):
    relays = [relay(name, weight) for name, weight in zip("abc", weights, strict=False)]
    run(count, *relays, rate=rate)
    assert carried(*relays) == pytest.approx(shares(count, weights), abs=3)


def test_one_weight_is_enough_the_others_count_one():
    a, b = relay("a", 4), relay("b")
    run(500, a, b)
    assert carried(a, b) == pytest.approx([400, 100], abs=3)


def test_weights_are_kept_where_connections_and_speed_would_have_it_otherwise():
    a, b = relay("a", 3, "?connections=1", latency=0.05), relay("b", 1, "?connections=20")
    run(400, a, b)
    assert carried(a, b) == pytest.approx([300, 100], abs=4)


@pytest.mark.parametrize("size", [10, 100])
def test_transactions_of_many_come_out_by_weight_too(size):
    a, b = relay("a", 3), relay("b", 1)
    run(4000, a, b, shared=True, batch=size)
    assert carried(a, b) == pytest.approx([3000, 1000], abs=3 * size)


@pytest.mark.parametrize("latency", [0.5, 1.5])
def test_without_weights_a_slow_relay_slows_no_other(latency):
    a, b = relay("a", latency=latency), relay("b")
    simulation = run(2000, a, b)
    assert len(b.taken) > 1700 and len(a.taken) >= 10
    alone = run(2000, relay("b"))
    assert simulation.seconds < 1.2 * alone.seconds + 4 * latency


def test_without_weights_a_rate_of_the_job_is_shared_evenly():
    """Who asks first would have it all."""
    a, b = relay("a"), relay("b")
    run(600, a, b, rate=20.0)
    assert carried(a, b) == pytest.approx([300, 300], abs=20)


def test_what_one_may_not_take_for_its_rate_the_others_take():
    a, b = relay("a", 10, "?rate=5/s"), relay("b", 1)
    simulation = run(2000, a, b)
    assert simulation.seconds < 30
    assert len(a.taken) <= 5 * simulation.seconds + 2


@pytest.mark.parametrize("how", [ConnectError("refused"), 60.0, DROP])
def test_what_one_that_is_out_cannot_take_the_others_take(how):
    """Refused, not answering, or hanging up at once."""

    def answer(simulation, name, phase):
        return how if name == "a" and (phase == "mail" if how is DROP else phase == "connect") else None

    a, b = relay("a", 10), relay("b", 1)
    simulation = run(1000, a, b, answer=answer)
    assert carried(a, b) == [0, 1000]
    assert simulation.seconds < 15


def test_one_that_comes_back_has_its_share_and_not_what_it_missed():
    def answer(simulation, name, phase):
        return (
            ConnectError("refused")
            if (name, phase) == ("a", "connect") and simulation.scheduler._loop.time() < 1010
            else None
        )

    a, b = relay("a", 1), relay("b", 1)
    run(1500, a, b, answer=answer, rate=40.0)
    back = min(a.times)
    late = [len([time for time in one.times if time > back + 1]) for one in (a, b)]
    assert late[0] == pytest.approx(late[1], rel=0.15)
    assert len(b.taken) - len(a.taken) > 250


def test_one_that_stops_answering_is_waited_for_only_a_moment():
    """Its connections are there and take nothing more."""
    a, b = relay("a", 5), relay("b", 1)

    def answer(simulation, name, phase):
        if name == "a" and simulation.scheduler._loop.time() > 1000.5:
            a.latency = 100.0
        return None

    simulation = Simulation(3000, a, b)
    simulation.answer = lambda name, phase, about: answer(simulation, name, phase)
    simulation.run().checked()
    assert simulation.error is None and simulation.tally.counts.delivered == 3000
    last_of_b = max(b.times) - 1000
    assert last_of_b < 15, "it did the rest by itself"


def test_weights_of_relays_and_of_their_egresses_hold_together():
    ways = [Egress("x", weight=3), Egress("y")]
    a, b = relay("a", 2, egresses=ways, options="?connections=8"), relay("b", 1)
    run(1200, a, b, rate=100.0)
    assert carried(a, b) == pytest.approx([800, 400], abs=4)
    assert sum(a.by["x"].values()) == pytest.approx(600, rel=0.05)


def test_a_backup_has_no_share_until_it_is_needed():
    a, b, spare = relay("a", 1), relay("b", 1), relay("spare", 8, backup=True)
    run(400, a, b, spare)
    assert carried(a, b, spare) == pytest.approx([200, 200, 0], abs=3) and spare.opened == 0


def test_backups_share_by_weight():
    def answer(simulation, name, phase):
        return ConnectError("refused") if (name, phase) == ("a", "connect") else None

    a, one, two = relay("a", 9), relay("one", 3, backup=True), relay("two", 1, backup=True)
    run(400, a, one, two, answer=answer)
    assert carried(a, one, two) == pytest.approx([0, 300, 100], abs=4)


def test_at_a_very_low_rate_turns_are_kept():
    a, b = relay("a", 3), relay("b", 1)
    run(40, a, b, rate=0.05)
    assert carried(a, b) == pytest.approx([30, 10], abs=2)
