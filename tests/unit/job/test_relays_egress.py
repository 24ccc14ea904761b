"""Several egresses of a relay: shares, rates, which of them is out, who waits for whom: by a clock that jumps."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bulkmail.egress import Egress
from bulkmail.errors import AuthError, ConnectError
from bulkmail.job.ledger import JournalFault
from bulkmail.job.relay import LONGEST_PAUSE
from bulkmail.job.stock import COMMIT_RECIPIENTS
from bulkmail.pool.limits import Limit
from bulkmail.values import parse_rate
from bulkmail.wire.reply import Reply
from unit.job.simulation import DROP, START, FakeRelay, Simulation, address, filled_by_route


def way(name, weight=1, most=None, rate=None):
    return Egress(name, weight=weight, max_connections=most, rate=parse_rate(rate, "rate") if rate else None)


def everybody(first, last):
    return Counter(address(number) for number in range(first, last + 1))


def carried(relay):
    return {name: sum(taken.values()) for name, taken in relay.by.items()}


def by_egress(simulation, name="main"):
    """What the run says that each egress of a relay delivered."""
    return {egress: tally.delivered for egress, tally in simulation.tally.relays[name].egress.items()}


def dead(*names, after=0.0, until=1e9, error=None):
    """Connections by these egresses are refused, and what is open is dropped, for that time of the run."""
    refused = error or ConnectError("connection refused")

    def answer(simulation, phase):
        if simulation.by not in names or not after <= simulation.scheduler._loop.time() - 1000 < until:
            return None
        return refused if phase == "connect" else DROP

    return answer


def run(count, *relays, answer=lambda simulation, phase: None, **more):
    simulation = Simulation(count, *relays, answer=lambda relay, phase, about: answer(simulation, phase), **more)
    return simulation.run().checked()


def most_in_any_window(times, rate):
    """That no window holds more than rate x T + burst; by the rule that says the same: each fits behind the last."""
    times, burst = sorted(times), Limit(rate).burst
    for first, begin in enumerate(times):
        for count, end in enumerate(times[first : first + 200], 1):
            assert count <= rate * (end - begin) + burst + 1e-6, (first, count, end - begin)


# -- shares


@pytest.mark.parametrize("rate", [None, 50.0])
@pytest.mark.parametrize("weights", [(1, 1), (5, 1, 1), (3, 2)])
def test_each_has_its_share_of_what_is_sent(weights, rate):
    relay = FakeRelay(
        url="smtp://relay.test?connections=14", egresses=[way(name, w) for name, w in zip("abc", weights, strict=False)]
    )
    simulation = run(1400, relay, rate=rate)
    assert relay.taken == everybody(1, 1400) and by_egress(simulation) == carried(relay)
    for name, weight in zip("abc", weights, strict=False):
        assert relay.by[name].total() == pytest.approx(1400 * weight / sum(weights), rel=0.25 if rate is None else 0.05)


def test_the_limit_of_each_is_kept_and_the_others_fill_the_relays():
    relay = FakeRelay(
        url="smtp://relay.test?connections=10", egresses=[way("a", 5, most=2), way("b"), way("c", most=3)]
    )
    run(2000, relay)
    assert relay.most["a"] == 2 and relay.most["c"] <= 3
    assert sum(relay.most.values()) >= 10 and relay.most["b"] <= 10
    assert carried(relay).keys() == {"a", "b", "c"}


def test_a_single_egress_has_its_limit():
    relay = FakeRelay(url="smtp://relay.test?connections=10", egresses=[way("a", most=3)])
    run(500, relay)
    assert relay.most == {"a": 3}


# -- rates


def test_the_rate_of_each_is_kept_and_slows_no_other():
    ways = [way("slow", rate="20/s"), way("slower", rate="30/m"), way("free")]
    relay = FakeRelay(url="smtp://relay.test?connections=6", egresses=ways)
    simulation = run(3000, relay)
    most_in_any_window(relay.times_by["slow"], 20)
    most_in_any_window(relay.times_by["slower"], 0.5)
    assert simulation.seconds < 25  # two connections of some 100 a second each carry nearly all of it
    assert carried(relay)["slow"] >= 0.5 * 20 * simulation.seconds
    assert carried(relay)["slower"] >= 1


def test_with_a_rate_for_each_they_are_used_up():
    ways = [way("a", rate="20/s"), way("b", rate="10/s")]
    relay = FakeRelay(url="smtp://relay.test?connections=6", egresses=ways)
    simulation = run(600, relay)
    most_in_any_window(relay.times_by["a"], 20)
    most_in_any_window(relay.times_by["b"], 10)
    assert 19 <= simulation.seconds <= 23
    assert carried(relay)["a"] == pytest.approx(400, rel=0.05)


def test_the_relays_rate_and_the_jobs_hold_for_all_egresses_together():
    relay = FakeRelay(url="smtp://relay.test?connections=6&rate=40/s", egresses=[way("a", rate="30/s"), way("b")])
    simulation = run(800, relay, rate=50.0)
    most_in_any_window(relay.times, 40)
    most_in_any_window(relay.times_by["a"], 30)
    assert simulation.seconds <= 22


@pytest.mark.parametrize("shared", [False, True])
def test_rates_hold_for_transactions_of_many(shared):
    relay = FakeRelay(url="smtp://relay.test?connections=4", egresses=[way("a", rate="200/s"), way("b", rate="100/s")])
    run(1500, relay, shared=shared, batch=100)
    most_in_any_window(relay.times_by["a"], 200)
    most_in_any_window(relay.times_by["b"], 100)
    assert relay.taken == everybody(1, 1500)


# -- one is out


@pytest.mark.parametrize("rate", [None, 100.0])
def test_one_that_dies_and_comes_back(rate):
    relay = FakeRelay(url="smtp://relay.test?connections=9", egresses=[way("a"), way("b"), way("c")])
    answer = dead("b", after=2.0, until=6.0)
    simulation = run(20_000 if rate is None else 2000, relay, answer=answer, rate=rate)
    counts = simulation.tally.counts
    assert simulation.error is None and counts.delivered + counts.in_doubt == counts.recipients
    assert counts.in_doubt <= 3 and max(simulation.taken.values()) == 1  # what its connections were waiting for
    assert by_egress(simulation) == carried(relay)
    late = [time for time in relay.times_by["b"] if time > 1006]
    others = [time for name in "ac" for time in relay.times_by[name] if time > late[0]]
    assert late[0] < 1006 + 8.5, "its pauses had grown to less than what it was away for, doubled"
    assert len(late) == pytest.approx((len(late) + len(others)) / 3, rel=0.3), "its share again"
    told = [event["event"] for event in simulation.named("throttled", "resumed")]
    assert told == ["throttled"] * (len(told) - 1) + ["resumed"]
    assert all(e["egress"] == "b" and e["scope"] == "egress b" for e in simulation.named("throttled", "resumed"))
    assert {event["egress"] for event in simulation.named("connect_failed")} == {"b"}
    tally = simulation.tally.relays["main"].egress["b"]
    assert (tally.state, tally.failures) == ("ok", len(simulation.named("connect_failed")))


def test_it_is_tried_again_with_growing_pauses_by_one_connection():
    relay = FakeRelay(url="smtp://relay.test?connections=8&rate=20/s", egresses=[way("a"), way("b")])
    simulation = run(2000, relay, answer=dead("b"))
    at = [event["ts"] - START for event in simulation.named("connect_failed")]
    pauses = [event["until"] - event["ts"] for event in simulation.named("throttled")]
    assert simulation.error is None and simulation.taken == everybody(1, 2000)
    assert pauses == sorted(pauses) and pauses[-1] == LONGEST_PAUSE
    assert len(at) == relay.begun["b"] <= 12
    tally = simulation.tally.relays["main"].egress
    assert tally["a"].state == "ok" and tally["b"].state == "out"
    assert tally["b"].last_error == "connection refused" and tally["a"].failures == 0


@pytest.mark.parametrize("phase", ["mail", "rcpt", "dot"])
def test_one_that_takes_connections_and_drops_each_is_out(phase):
    relay = FakeRelay(url="smtp://relay.test?connections=6", egresses=[way("a"), way("b")])

    def answer(simulation, at):
        return DROP if simulation.by == "b" and at == phase else None

    simulation = run(3000, relay, answer=answer)
    assert simulation.error is None
    assert by_egress(simulation) == {"a": simulation.tally.counts.delivered, "b": 0}
    assert relay.begun["b"] < 20
    if phase != "dot":
        assert simulation.taken == everybody(1, 3000)
    assert simulation.tally.counts.delivered + simulation.tally.counts.in_doubt == 3000


def test_one_that_hangs_holds_up_no_other():
    relay = FakeRelay(url="smtp://relay.test?connections=8", egresses=[way("a"), way("b")])
    simulation = run(1000, relay, answer=lambda one, phase: 120.0 if phase == "connect" and one.by == "a" else None)
    assert simulation.taken == everybody(1, 1000) and carried(relay) == {"b": 1000}
    assert simulation.seconds < 20


def test_one_that_hangs_does_not_hold_up_a_single_message():
    relay = FakeRelay(url="smtp://relay.test?connections=8", egresses=[way("a"), way("b")])
    simulation = run(1, relay, answer=lambda one, phase: 120.0 if phase == "connect" and one.by == "a" else None)
    assert carried(relay) == {"b": 1} and simulation.seconds < 5


def test_thirty_that_hang_do_not_hold_up_the_thirty_others():
    bad = {f"a{n}" for n in range(30)}
    ways = [way(name) for name in sorted(bad)] + [way(f"b{n}") for n in range(30)]
    relay = FakeRelay(url="smtp://relay.test?connections=120", egresses=ways)
    simulation = run(6000, relay, answer=lambda one, phase: 120.0 if phase == "connect" and one.by in bad else None)
    assert simulation.taken == everybody(1, 6000) and simulation.seconds < 10


def test_a_trial_that_hangs_takes_nobodys_connections():
    relay = FakeRelay(
        url="smtp://relay.test?connections=6&messages_per_connection=0", egresses=[way("a"), way("b"), way("c")]
    )

    def answer(simulation, phase):
        now = simulation.scheduler._loop.time() - 1000
        if simulation.by != "b" or now < 1:
            return None
        if phase != "connect":
            return DROP
        return ConnectError("connection refused") if now < 3 else 60.0

    simulation = run(15_000, relay, answer=answer)
    assert simulation.tally.counts.delivered == simulation.taken.total() >= 15_000 - 2
    assert relay.begun["a"] + relay.begun["c"] < 20
    assert simulation.seconds < 40


# -- all are out


def test_all_out_patience_and_the_reason_for_each():
    def answer(simulation, phase):
        return ConnectError(f"{simulation.by} is gone") if phase == "connect" else None

    simulation = run(10, FakeRelay(patience=60.0, egresses=[way("a"), way("b")]), answer=answer)
    assert 59 <= simulation.seconds <= 62
    assert "egress a: a is gone" in str(simulation.error) and "egress b: b is gone" in str(simulation.error)
    assert simulation.counts == {"recipients": 10, "pending": 10}


@pytest.mark.parametrize("patience", [0.0, 5.0])
def test_patience_is_lost_only_when_all_are_out(patience):
    relay = FakeRelay(url="smtp://relay.test?rate=10/s", patience=patience, egresses=[way("a"), way("b"), way("c")])
    simulation = run(300, relay, answer=dead("b", "c"))
    assert simulation.error is None and carried(relay) == {"a": 300}


def test_patience_starts_anew_when_one_worked_meanwhile():
    relay = FakeRelay(url="smtp://relay.test?rate=10/s", patience=20.0, egresses=[way("a"), way("b")])

    def answer(simulation, phase):
        now = simulation.scheduler._loop.time() - 1000
        down = simulation.by == "a" or int(now / 15) % 2 == 0
        return (ConnectError("gone") if phase == "connect" else DROP) if down else None

    simulation = run(400, relay, answer=answer)
    assert simulation.error is None and carried(relay) == {"b": 400}


def test_a_refused_login_stops_everything_after_one_attempt():
    relay = FakeRelay(url="smtp://u:p@relay.test?connections=8", egresses=[way("a"), way("b"), way("c")])
    refused = AuthError("the server refused the login", reply=Reply(535, ["5.7.8 no"]), command="AUTH")
    simulation = run(100, relay, answer=lambda one, phase: refused if phase == "connect" else None)
    assert relay.opened == 1 and simulation.seconds < 1
    assert "the server refused the login" in str(simulation.error)


# -- recipients' domains


PINNED = {"gmail.com": ("b",)}


def pinned(**more):
    return FakeRelay(url="smtp://relay.test?connections=6", egresses=[way("a"), way("b")], pins=PINNED, **more)


def test_a_pinned_domain_goes_by_no_other_egress():
    relay = pinned()
    simulation = run(0, relay, ledger=filled_by_route({"*": 2000, "gmail.com": 1000}))
    gmail = everybody(2001, 3000)
    assert simulation.taken == everybody(1, 3000)
    assert not relay.by["a"] & gmail and relay.by["b"] >= gmail and relay.by["a"].total() > 500


def test_a_pinned_domain_whose_egress_is_out_holds_up_nobody():
    relay = pinned()
    ledger = filled_by_route({"gmail.com": 5000, "*": 2000})
    simulation = run(0, relay, ledger=ledger, answer=dead("b", until=50.0))
    rest = [e for e in simulation.named("delivered") if e["egress"] == "a"]
    assert len(rest) == 2000 and rest[-1]["ts"] - START < 15
    assert simulation.error is None and simulation.taken == everybody(1, 7000)
    assert 50 <= simulation.seconds <= 50 + LONGEST_PAUSE + 60


def test_a_pinned_domain_whose_egress_stays_dead_stops_the_job_at_its_end():
    relay = pinned(patience=120.0)
    ledger = filled_by_route({"gmail.com": 500, "*": 2000})
    simulation = run(0, relay, ledger=ledger, answer=dead("b"))
    assert simulation.counts == {"recipients": 2500, "delivered": 2000, "pending": 500}
    assert "gmail.com" in str(simulation.error) and "egress b: connection refused" in str(simulation.error)
    assert "egress a" not in str(simulation.error)
    assert 119 <= simulation.seconds <= 121 + LONGEST_PAUSE


def test_whoever_waits_for_a_retry_is_waited_for_before_the_job_stops():
    relay = pinned(patience=60.0)
    greylisted = set()

    def answer(simulation, phase, about):
        if simulation.by == "b":
            return ConnectError("gone")
        if phase == "rcpt" and about not in greylisted:
            greylisted.add(about)
            return b"451 4.7.1 greylisted"
        return None

    ledger = filled_by_route({"gmail.com": 20, "*": 20})
    simulation = Simulation(
        0, relay, ledger=ledger, answer=lambda name, phase, about: answer(simulation, phase, about), delays=(600.0,)
    )
    simulation.run().checked()
    assert simulation.counts == {"recipients": 40, "delivered": 20, "pending": 20}
    assert 600 <= simulation.seconds <= 600 + 2 * LONGEST_PAUSE


def test_another_relay_carries_what_the_dead_egress_was_for():
    spare = FakeRelay("spare", "smtp://spare.test?connections=2")
    main = FakeRelay("main", "smtp://relay.test?connections=4", egresses=[way("a"), way("b")], pins=PINNED)
    ledger = filled_by_route({"gmail.com": 500, "*": 2000})
    simulation = run(0, main, spare, ledger=ledger, answer=dead("b"))
    assert simulation.error is None and simulation.taken == everybody(1, 2500)
    assert spare.taken >= everybody(1, 500)


def test_a_retry_stays_in_its_route():
    relay, once = pinned(), set()

    def answer(simulation, phase, about):
        if phase == "rcpt" and about not in once:
            once.add(about)
            return b"451 4.7.1 later"
        return None

    ledger = filled_by_route({"gmail.com": 300, "*": 300})
    simulation = Simulation(0, relay, ledger=ledger, answer=lambda name, phase, about: answer(simulation, phase, about))
    simulation.run().checked()
    assert simulation.taken == everybody(1, 600)
    assert relay.by["b"] >= everybody(1, 300) and not relay.by["a"] & everybody(1, 300)


def test_no_more_is_claimed_ahead_than_one_commit_covers():
    routes = {f"d{n}.test": 200 for n in range(40)}
    held = []

    def look(simulation, phase):
        held.append(sum(stock.held() for stock in simulation.scheduler._stocks))

    relay = FakeRelay(url="smtp://relay.test?connections=20", egresses=[way("a"), way("b")], pins={"d1.test": ("a",)})
    simulation = run(0, relay, ledger=filled_by_route(routes), answer=look)
    assert simulation.taken == everybody(1, 8000)
    assert max(held) <= COMMIT_RECIPIENTS + len(routes)


def test_many_routes_share_what_a_rate_allows():
    routes = {f"d{n}.test": 30 for n in range(10)}
    relay = FakeRelay(url="smtp://relay.test?connections=4&rate=20/s", egresses=[way("a"), way("b")])
    simulation = run(0, relay, ledger=filled_by_route(routes))
    assert simulation.seconds < 300 / 20 + 3
    firsts = [relay.times.index(time) for time in relay.times]  # in order of sending
    assert len(firsts) == 300
    early = {int(e["recipient"][4:].split("@")[0]) // 30 for e in simulation.named("delivered")[:100]}
    assert len(early) >= 8, "no route waits until another is done"


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_ended_early_goes_on_with_its_routes(killed):
    before, after = pinned(), pinned()
    ledger = filled_by_route({"gmail.com": 3000, "*": 3000})
    fault = JournalFault("killed")
    first = Simulation(0, before, ledger=ledger, fail_commit=lambda n: fault if killed and n > 8 else None)
    first.at = [] if killed else [(1.0, first.stop)]
    first.run()
    assert 0 < first.taken.total() < 6000
    ledger.restart()
    ledger.recover("skip")
    second = Simulation(0, after, ledger=ledger).run().checked()
    taken = first.taken + second.taken
    assert max(taken.values()) == 1 and taken.total() + second.tally.counts.in_doubt >= 6000
    assert killed or taken == everybody(1, 6000)
    assert not (before.by["a"] + after.by["a"]) & everybody(1, 3000)


# -- anything


@pytest.mark.parametrize("seed", range(12))
def test_nobody_is_lost_or_sent_to_twice_whatever_fails(seed):
    rng = random.Random(seed)
    relays = [
        FakeRelay(
            f"r{n}",
            f"smtp://r{n}.test?connections={rng.randint(1, 6)}&messages_per_connection={rng.choice([0, 7, 50])}",
            pipelining=rng.random() < 0.8,
            patience=1e6,
            egresses=[way(f"e{n}{k}", rng.randint(1, 5), rng.choice([None, 1, 2])) for k in range(rng.randint(1, 4))],
            pins={"x.test": (f"e{n}0",)} if rng.random() < 0.5 else {},
        )
        for n in range(rng.randint(1, 3))
    ]
    bad = {egress.name: rng.choice([0, 0.02, 0.3]) for relay in relays for egress in relay.egresses}

    def answer(simulation, phase):
        if rng.random() >= bad[simulation.by]:
            return None
        if phase == "connect":
            return rng.choice([ConnectError("refused"), 20.0])
        return rng.choice([DROP, b"421 4.3.2 bye", b"451 4.3.0 later"])

    ledger = filled_by_route({"*": 700, "x.test": 300, "y.test": 50})
    simulation = run(0, *relays, ledger=ledger, answer=answer, shared=seed % 2 == 0, batch=1 + seed % 3)
    assert simulation.error is None
    counts = simulation.tally.counts
    assert counts.delivered + counts.failed + counts.in_doubt == 1050
    assert max(simulation.taken.values()) == 1
    assert set(simulation.states()) == set(range(1, 1051))
    for relay in relays:
        if relay.pins:
            assert all(not set(relay.by[e.name]) & set(everybody(701, 1000)) for e in relay.egresses[1:])
        assert all(relay.most[e.name] <= (e.max_connections or 6) for e in relay.egresses)
