"""Backups, circuits, retries by another relay: who carries what while something is wrong, by a clock that jumps."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from bulkmail.egress import Egress
from bulkmail.errors import AuthError, ConnectError
from bulkmail.job.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker
from bulkmail.job.relay import OUT_SECONDS
from bulkmail.job.specs import RetrySpec
from bulkmail.wire.reply import Reply
from unit.job.simulation import DROP, START, FakeRelay, Simulation, address

BROKEN = b"451 4.3.0 content filter is not there"
LATER = b"451 4.3.0 later"


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def relay(name, **more):
    return FakeRelay(name, f"smtp://{name}.test", **more)


def now(simulation):
    return simulation.scheduler._loop.time() - 1000


def refused_login():
    return AuthError("the server refused the login", reply=Reply(535, ["5.7.8 no"]), command="AUTH")


def down(*names, after=0.0, until=1e9, error=None):
    """Connections to these are refused, and what is open is dropped, for that time of the run."""

    def answer(simulation, name, phase, about):
        if name not in names or not after <= now(simulation) < until:
            return None
        return (error or ConnectError("connection refused")) if phase == "connect" else DROP

    return answer


def broken(*names, after=0.0, until=1e9, reply=BROKEN, phase="dot"):
    """These take connections and refuse everything for now."""

    def answer(simulation, name, at, about):
        return reply if name in names and at == phase and after <= now(simulation) < until else None

    return answer


def run(count, *relays, answer=None, **more):
    simulation = Simulation(count, *relays, **more)
    if answer is not None:
        simulation.answer = lambda name, phase, about: answer(simulation, name, phase, about)
    return simulation.run().checked()


def told(simulation, name):
    """(event, in seconds of the run, why) of a relay."""
    scope = f"relay {name}"
    events = [one for one in simulation.named("throttled", "resumed") if one["scope"] == scope]
    return [(one["event"], one["ts"] - START, one["why"]) for one in events]


# -- backups


def test_a_backup_is_not_connected_to_while_the_others_work():
    main, other, spare = relay("main"), relay("other"), relay("spare", backup=True)
    simulation = run(2000, main, other, spare)
    assert spare.opened == 0 and len(main.taken) + len(other.taken) == 2000
    assert simulation.named("throttled", "resumed") == []


@pytest.mark.parametrize("error", [ConnectError("connection refused"), refused_login(), 120.0])
def test_a_backup_takes_over_from_a_relay_that_cannot_be_used(error):
    """Refused, not logged in to, or not answering."""
    main, spare = relay("main"), relay("spare", backup=True)
    simulation = run(500, main, spare, answer=down("main", error=error))
    assert simulation.error is None and spare.taken == everybody(500)
    assert simulation.seconds < OUT_SECONDS + 15
    assert [name for name, *_ in told(simulation, "main")] == ["throttled"]


def test_a_short_hiccup_does_not_call_for_the_backup():
    main, spare = relay("main"), relay("spare", backup=True)
    simulation = run(1000, main, spare, answer=down("main", after=0.5, until=0.9))
    assert spare.opened == 0 and simulation.error is None


def test_the_backup_is_let_go_when_the_relay_is_back():
    main, spare = relay("main"), relay("spare", backup=True)
    simulation = run(15_000, main, spare, answer=down("main", after=3.0, until=8.0))
    counts = simulation.tally.counts
    assert simulation.error is None and counts.delivered + counts.in_doubt == 15_000
    assert len(spare.taken) > 1000
    events = told(simulation, "main")
    assert [name for name, *_ in events] == ["throttled", "resumed"]
    back = events[1][1]
    assert 8 <= back < 8 + 9
    assert max(spare.times) - 1000 < back + 0.5
    assert max(main.times) - 1000 > back + 3, "it carries on"
    ended = [one["ts"] - START for one in simulation.named("disconnected") if one["relay"] == "spare"]
    assert len(ended) >= 5 and max(ended) < back + 1, "idle connections are closed, not kept until the end"
    assert max(simulation.taken.values()) == 1


def test_a_backup_carries_the_domains_whose_egress_is_out():
    """The relay works, but not for them."""
    main = relay("main", egresses=[Egress("a"), Egress("b")], pins={"*": ("a",)})
    spare = relay("spare", backup=True)
    simulation = Simulation(300, main, spare)
    simulation.answer = lambda name, phase, about: (
        ConnectError("no way") if (name, phase, simulation.by) == ("main", "connect", "a") else None
    )
    simulation.run().checked()
    assert simulation.error is None and spare.taken == everybody(300)


def test_several_backups_share_what_there_is():
    main, one, two = relay("main"), relay("one", backup=True), relay("two", backup=True)
    run(2000, main, one, two, answer=down("main"))
    assert min(len(one.taken), len(two.taken)) > 600


def test_where_all_are_backups_they_are_used():
    one = relay("one", backup=True)
    assert run(10, one).error is None
    one, two = relay("one", backup=True), relay("two", backup=True)
    assert run(10, one, two).error is None


def test_when_relay_and_backup_are_down_each_is_tried_for_its_patience():
    main, spare = relay("main", patience=20.0), relay("spare", backup=True, patience=20.0)
    simulation = run(10, main, spare, answer=down("main", "spare"))
    assert "relay main" in str(simulation.error) and "relay spare" in str(simulation.error)
    assert simulation.counts == {"recipients": 10, "pending": 10}
    assert 20 <= simulation.seconds < 60


def test_a_backup_whose_login_is_refused_is_tried_once_and_the_relay_waited_for():
    def answer(simulation, name, phase, about):
        if name == "spare":
            return refused_login() if phase == "connect" else None
        return down("main", until=60.0)(simulation, name, phase, about)

    main, spare = relay("main"), FakeRelay("spare", "smtp://u:p@spare.test?connections=9", backup=True)
    simulation = run(100, main, spare, answer=answer)
    assert simulation.error is None and main.taken == everybody(100)
    assert spare.opened == 1
    assert simulation.seconds > 60


def test_a_relay_that_is_away_longer_than_the_patience_is_used_again_where_another_carried_on():
    """All relays unreachable for so long ends a job, one of them does not."""
    main, spare = relay("main", patience=10.0), relay("spare", backup=True, patience=10.0)
    simulation = run(1200, main, spare, answer=down("main", until=60.0), rate=10.0)
    assert simulation.error is None
    assert len(spare.taken) > 400 and len(main.taken) > 120


def test_the_patience_of_all_counts_from_the_last_that_worked():
    def answer(simulation, name, phase, about):
        return down(name, after=0.0 if name == "main" else 60.0)(simulation, name, phase, about)

    main, other = relay("main", patience=30.0), relay("other", patience=30.0)
    simulation = run(2000, main, other, answer=answer, rate=20.0)
    assert "relay main" in str(simulation.error) and "relay other" in str(simulation.error)
    assert 90 <= simulation.seconds < 125
    assert simulation.counts["pending"] > 700


# -- refused logins


@pytest.mark.parametrize("connections", [1, 20])
def test_a_refused_login_stops_its_relay_at_the_first_attempt_and_the_job_goes_on(connections):
    ways = [Egress("a"), Egress("b"), Egress("c")]
    main = FakeRelay("main", f"smtp://u:p@main.test?connections={connections}", egresses=ways)
    other = relay("other")
    simulation = run(500, main, other, answer=down("main", error=refused_login()))
    assert simulation.error is None and other.taken == everybody(500)
    assert main.opened == 1


def test_a_refused_login_of_the_only_relay_stops_the_job():
    main = FakeRelay("main", "smtp://u:p@main.test?connections=20", egresses=[Egress("a"), Egress("b")])
    simulation = run(500, main, answer=down("main", error=refused_login()))
    assert isinstance(simulation.error, AuthError) and main.opened == 1
    assert simulation.counts == {"recipients": 500, "pending": 500}


# -- circuits


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("backup", [False, True])
def test_a_relay_that_refuses_everything_for_now_is_taken_out_before_thousands_are_deferred(phase, backup):
    main, other = relay("main"), relay("other", backup=backup)
    simulation = run(5000, main, other, answer=broken("main", phase=phase), delays=(600.0,))
    assert simulation.error is None and simulation.counts == {"recipients": 5000, "delivered": 5000}
    deferred = [one for one in simulation.named("deferred") if one["relay"] == "main"]
    assert FAILURES <= len(deferred) <= FAILURES + 60, "and what its connections held"
    assert other.taken == everybody(5000)
    assert "451 4.3.0 content filter" in told(simulation, "main")[0][2]


def test_it_is_tried_by_one_transaction_after_growing_pauses_and_that_costs_no_attempt():
    main, other = relay("main"), relay("other")
    simulation = run(3600, main, other, answer=broken("main"), rate=20.0, delays=(30.0,))
    assert simulation.counts == {"recipients": 3600, "delivered": 3600}
    times = [time - 1000 for time in main.times]
    out = [one[1] for one in told(simulation, "main")]
    trials = [time for time in times if time > out[0] + 1]
    gaps = [later - sooner for sooner, later in pairwise(trials)]
    assert gaps[:4] == pytest.approx([10, 20, 40, 80], abs=1)
    assert len(simulation.named("deferred")) == len(times) - len(trials)
    assert len(out) == 1, "it was told once"


def test_it_carries_its_share_again_once_a_trial_was_taken():
    main, other = relay("main"), relay("other")
    simulation = run(3000, main, other, answer=broken("main", after=2.0, until=20.0), delays=(30.0,), rate=50.0)
    assert simulation.counts == {"recipients": 3000, "delivered": 3000}
    assert [name for name, *_ in told(simulation, "main")][-1] == "resumed"
    assert len([time for time in main.times if time > 1045]) > 250


def test_its_circuit_closes_when_the_others_fail():
    """A relay that refuses much is better than none."""

    def answer(simulation, name, phase, about):
        return (broken("main", until=8.0) if name == "main" else down("other", after=6.0))(
            simulation, name, phase, about
        )

    simulation = run(1000, relay("main"), relay("other"), answer=answer, delays=(30.0, 60.0), rate=60.0)
    counts = simulation.tally.counts
    assert simulation.error is None and counts.delivered + counts.in_doubt == 1000
    assert simulation.seconds < 60


def test_the_only_relay_keeps_its_circuit_closed():
    simulation = run(300, relay("main"), answer=broken("main", until=5.0), delays=(10.0,))
    assert simulation.counts == {"recipients": 300, "delivered": 300}
    assert simulation.named("throttled") == []


@pytest.mark.parametrize("reply", [b"550 5.1.1 no such user", b"452 4.2.2 mailbox full", b"450 4.2.0 greylisted"])
def test_what_is_about_recipients_opens_no_circuit(reply):
    def answer(simulation, name, phase, about):
        return reply if name == "main" and phase == "rcpt" and int(about.split("@")[0][4:]) % 10 else None

    simulation = run(3000, relay("main"), relay("other"), answer=answer, delays=())
    assert told(simulation, "main") == []


def test_refusals_in_between_open_no_circuit():
    def answer(simulation, name, phase, about):
        return LATER if name == "main" and phase == "rcpt" and int(about.split("@")[0][4:]) % 2 else None

    simulation = run(3000, relay("main"), relay("other"), answer=answer, delays=())
    assert told(simulation, "main") == []


def test_a_relay_that_took_some_and_then_refuses_our_mail_for_good_burns_few():
    """An account that is suspended in the middle."""
    suspended = b"550 5.7.1 account suspended"
    main, other = relay("main"), relay("other")
    simulation = run(5000, main, other, answer=broken("main", after=1.0, reply=suspended, phase="mail"))
    assert simulation.error is None
    assert simulation.counts.get("failed", 0) <= 5 and simulation.counts["delivered"] >= 4995


def test_trials_that_end_with_their_connection_are_made_again():
    def answer(simulation, name, phase, about):
        if name != "main":
            return None
        if now(simulation) > 4:
            return DROP if phase == "rcpt" and now(simulation) < 30 else None
        return BROKEN if phase == "dot" else None

    simulation = run(2000, relay("main"), relay("other"), answer=answer, rate=30.0, delays=(30.0, 60.0))
    assert simulation.counts == {"recipients": 2000, "delivered": 2000}
    assert told(simulation, "main")[-1][0] == "resumed"


def test_a_breaker_by_itself():
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.refused("system")
    breaker.refused("bad_recipient")
    assert not breaker.full and breaker.room(7) == 7
    breaker.refused("system")
    assert breaker.full
    pauses = [breaker.open()]
    assert breaker.room(7) == 0
    for _ in range(8):
        breaker.try_it()
        assert breaker.room(7) == 1 and breaker.room(0) == 0
        breaker.given(1)
        assert breaker.room(7) == 0
        breaker.refused("mailbox_full")
        assert breaker.room(7) == 1 and not breaker.full, "it proves nothing"
        breaker.given(1)
        breaker.refused("system")
        pauses.append(breaker.open())
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE] and pauses[-1] == LONGEST_PAUSE
    breaker.close()
    assert breaker.room(7) == 7 and breaker.open() == FIRST_PAUSE


# -- retries by relay


def steered(way, **more):
    return RetrySpec((30.0, 60.0), jitter=0.0, relay=way, **more)


def test_a_retry_by_the_next_relay_goes_by_another():
    def answer(simulation, name, phase, about):
        return (
            LATER
            if phase == "rcpt" and int(about.split("@")[0][4:]) % 10 == 0 and simulation.tried[about] == 1
            else None
        )

    simulation = run(400, relay("a"), relay("b"), answer=answer, retry=steered("next"))
    assert simulation.counts == {"recipients": 400, "delivered": 400}
    first = {one["recipient"]: one["relay"] for one in simulation.named("deferred")}
    then = {one["recipient"]: one["relay"] for one in simulation.named("delivered") if one["attempt"] == 2}
    assert len(first) == 40 and all(then[who] != first[who] for who in first)
    assert set(simulation.ledger.routes()) == set() and {"* !a", "* !b"} >= {
        chunk.route for chunk in simulation.ledger.chunks.values()
    } - {"*"}


def test_a_retry_by_the_same_relay_goes_by_it():
    def answer(simulation, name, phase, about):
        return (
            LATER
            if phase == "rcpt" and int(about.split("@")[0][4:]) % 10 == 0 and simulation.tried[about] <= 2
            else None
        )

    simulation = run(150, relay("a"), relay("b"), answer=answer, retry=steered("same"))
    assert simulation.counts == {"recipients": 150, "delivered": 150}
    by = {}
    for one in simulation.named("deferred", "delivered"):
        by.setdefault(one["recipient"], set()).add(one["relay"])
    assert all(len(relays) == 1 for relays in by.values())


def test_next_may_be_a_backup_and_is_the_same_where_there_is_none():
    answer = broken("main", phase="rcpt", reply=LATER)
    spare = relay("spare", backup=True)
    simulation = run(15, relay("main"), spare, answer=answer, retry=steered("next"))
    assert simulation.counts == {"recipients": 15, "delivered": 15} and spare.taken == everybody(15)
    alone = run(15, relay("main"), answer=broken("main", phase="rcpt", until=10.0), retry=steered("next"))
    assert alone.counts == {"recipients": 15, "delivered": 15}


@pytest.mark.parametrize("way", ["same", "next"])
def test_when_the_relay_that_is_meant_is_gone_anybody_takes_them(way):
    def answer(simulation, name, phase, about):
        gone = "a" if way == "same" else "b"
        if name == gone and now(simulation) > 10:
            return refused_login() if phase == "connect" else DROP
        return LATER if (name, phase) == ("a", "rcpt") and now(simulation) < 10 else None

    simulation = run(30, relay("a"), relay("b"), answer=answer, retry=steered(way))
    assert simulation.error is None and simulation.counts == {"recipients": 30, "delivered": 30}


def test_a_resumed_job_knows_the_relay_of_its_retries_and_does_without_one_that_is_no_more():
    for names in (["a", "b"], ["b", "c"], ["c"]):
        simulation = Simulation(10, relay("a"), relay("x", backup=True), retry=steered("next"))
        simulation.answer = lambda name, phase, about: LATER if phase == "rcpt" else None
        simulation.at = [(5.0, simulation.stop)]
        simulation.run().checked()
        simulation.ledger.restart()
        simulation.ledger.recover("skip", now=START, delays=(30.0,))
        assert simulation.ledger.routes() == ["* !a"]
        relays = [relay(name) for name in names]
        again = Simulation(0, *relays, ledger=simulation.ledger, retry=steered("next")).run().checked()
        assert again.error is None and again.counts == {"recipients": 10, "delivered": 10}
        assert not relays[0].taken or names[0] != "a", "it was the one that deferred them"


def test_a_message_whose_reply_was_lost_is_in_doubt_and_goes_by_no_other_relay():
    def answer(simulation, name, phase, about):
        return DROP if (name, phase) == ("a", "dot") and len(simulation.taken) > 50 else None

    simulation = run(600, relay("a"), relay("b"), answer=answer, retry=steered("next"))
    doubts = {one["recipient"] for one in simulation.named("in_doubt")}
    assert doubts and simulation.counts["in_doubt"] == len(doubts)
    assert all(simulation.tried[who] == 1 for who in doubts)


def test_a_relay_without_patience_is_not_out_while_it_is_connected_to():
    main, spare = relay("main", patience=0.0, latency=1.0), relay("spare", backup=True)
    run(50, main, spare)
    assert spare.opened == 0
