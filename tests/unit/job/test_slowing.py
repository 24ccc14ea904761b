"""Receivers that refuse what is too much: the job finds what they take, leaves the others alone, and comes back."""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.egress import parse_egress
from bulkmail.errors import ConnectError
from bulkmail.job.ledger import NONE, Part, PartChunk
from bulkmail.job.slowing import LEAST_REFUSALS
from bulkmail.job.specs import AdaptiveSpec, DomainLimit
from bulkmail.values import parse_rate
from unit.job.journal_tools import rows
from unit.job.simulation import DROP, START, FakeRelay, Simulation, address, filled_by_route

SLOW, FAST = "slow.test", "*"
USUAL = AdaptiveSpec()


class Bucket:
    """A receiver that takes `rate` a second of the rows from..to, and `burst` at once; it refuses the rest."""

    def __init__(self, rate, burst, reply=b"450 4.7.1 rate limit exceeded", last=1 << 60):
        self.rate, self.burst, self.reply, self.last = rate, burst, reply, last
        self.level, self.at = burst, 1000.0
        self.taken, self.refused = [], []

    def ask(self, address, now):
        if int(address[4:].split("@")[0]) > self.last:
            return None
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            self.refused.append(now)
            return self.reply
        self.level -= 1
        self.taken.append(now)
        return None


def now_of(simulation):
    return simulation.scheduler._loop.time()


def limited(bucket, slow=20_000, fast=0, relay=None, seconds=None, **options):
    """A run with `slow` recipients behind the bucket and `fast` others; stopped after so many seconds."""

    def answer(name, phase, about):
        return bucket.ask(about, now_of(simulation)) if phase == "rcpt" else None

    options = {"adaptive": USUAL, "delays": (600.0,) * 20, "answer": answer} | options
    groups = [DomainLimit((SLOW,))]
    ledger = filled_by_route({SLOW: slow} | ({FAST: fast} if fast else {}))
    simulation = Simulation(0, *([relay] if relay else []), ledger=ledger, domains=groups, **options)
    simulation.at = [(seconds, simulation.stop)] if seconds else []
    return simulation


def within(times, begin, end):
    return [time for time in times if begin <= time - 1000.0 < end]


def test_the_job_finds_what_a_receiver_takes_and_is_refused_little():
    """Ten a second are taken, of a job that could send a thousand."""
    bucket = Bucket(10, 10)
    limited(bucket, 20_000, seconds=960.0).run().checked()
    taken, refused = within(bucket.taken, 60, 960), within(bucket.refused, 60, 960)
    assert len(taken) >= 0.7 * 10 * 900
    assert len(refused) <= 0.03 * len(taken)


def test_the_other_domains_go_on_at_full_speed():
    bucket = Bucket(50, 50, last=2000)
    relay = FakeRelay(url="smtp://relay.test?connections=10")
    simulation = limited(bucket, 2000, 8000, relay).run().checked()
    others = [time for time in relay.times if time - 1000.0 < 15]
    assert len(others) > 8000 * 0.95
    assert simulation.counts["delivered"] == 10_000


def test_a_receiver_that_relaxes_gets_more_and_then_all():
    bucket = Bucket(1, 2)
    relay = FakeRelay(url="smtp://relay.test?rate=10/s")
    simulation = limited(bucket, 30_000, relay=relay, seconds=2400.0)
    simulation.at.append((600.0, lambda: setattr(bucket, "rate", 1000)))
    simulation.run().checked()
    assert len(within(bucket.taken, 300, 600)) <= 300 + 2
    assert len(within(bucket.taken, 2100, 2400)) >= 0.97 * 10 * 300
    assert [event["scope"] for event in simulation.named("resumed")] == [f"domain {SLOW}"]


def test_every_step_is_told_with_its_reason_and_not_each_refusal():
    bucket = Bucket(10, 10)
    simulation = limited(bucket, 10_000, seconds=300.0).run()
    told = simulation.named("throttled")
    assert {event["scope"] for event in told} == {f"domain {SLOW}"}
    assert all("rate limit exceeded" in event["why"] and event["until"] is None for event in told)
    assert 0 < told[-1]["rate"] < 20
    assert 3 < len(told) <= len(bucket.refused) / 2


def test_what_the_manifest_says_stays_the_ceiling_and_comes_back():
    bucket = Bucket(5, 5)
    group = DomainLimit((SLOW,), parse_rate("20/s", "rate"))
    simulation = limited(bucket, 20_000, seconds=1200.0)
    simulation.domains = [group]
    simulation.at.append((60.0, lambda: setattr(bucket, "rate", 1000)))
    simulation.run()
    assert len(within(bucket.taken, 1100, 1200)) == pytest.approx(2000, abs=5)


def test_a_hint_is_waited_for_by_that_domain_alone():
    told = []

    def answer(name, phase, about):
        number = int(about[4:].split("@")[0]) if phase == "rcpt" else 0
        if 0 < number <= 500 and not told:
            told.append(now_of(simulation))
            return b"421 4.7.28 too many messages, please retry after 300 seconds"
        return None

    simulation = limited(None, 500, 500, FakeRelay(url="smtp://relay.test?rate=50/s"), answer=answer)
    simulation.run().checked()
    (begin,) = told
    (event,) = simulation.named("throttled")[:1]
    assert event["scope"] == f"domain {SLOW}" and event["until"] == pytest.approx(START + begin - 1000 + 300, abs=1)
    slow = [tx.done_at for tx in simulation.handed if int(tx.rcpts[0][4:].split(b"@")[0]) <= 500 and tx.reply]
    assert not [time for time in slow if begin + 1 < time < begin + 300]
    assert simulation.counts == {"recipients": 1000, "delivered": 1000}
    assert "the pause that was asked for is over" in [event["why"] for event in simulation.named("resumed")]


def test_a_hostile_hint_does_not_stop_the_job_for_a_year():
    bucket = Bucket(1, 1, reply=b"450 4.7.1 rate limited, try again in 2 hours")
    simulation = limited(bucket, 5, adaptive=AdaptiveSpec(longest_pause=60.0)).run().checked()
    assert simulation.counts == {"recipients": 5, "delivered": 5}
    assert all(event["until"] <= event["ts"] + 60.001 for event in simulation.named("throttled") if event["until"])


def test_one_mailbox_that_gets_too_much_slows_nobody_else():
    text = b"450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages"
    bucket = Bucket(0.001, 1, reply=text, last=3)
    simulation = limited(bucket, 500, delays=(60.0,)).run()
    assert not simulation.named("throttled")


def test_a_single_refusal_among_hundreds_slows_nobody():
    def answer(name, phase, about):
        once = phase == "rcpt" and about.startswith("user900@") and simulation.tried[about] == 1
        return b"450 4.7.1 rate limit exceeded" if once else None

    simulation = limited(None, 2000, answer=answer)
    simulation.run().checked()
    assert not simulation.named("throttled") and simulation.counts["delivered"] == 2000


def test_switched_off_nothing_is_learned():
    bucket = Bucket(5, 5)
    simulation = limited(bucket, 300, adaptive=None, delays=(10.0,) * 30).run()
    assert not simulation.named("throttled")


def test_without_a_group_it_is_the_relay_that_is_slowed_and_of_several_egresses_the_one():
    egresses = [parse_egress({"local_address": f"192.0.2.{n}"}, "it", name=f"e{n}") for n in (1, 2)]

    def answer(name, phase, about):
        return b"450 4.7.1 rate limit exceeded" if phase == "rcpt" and simulation.by == "e1" else None

    simulation = Simulation(400, FakeRelay(egresses=egresses), answer=answer, adaptive=USUAL, delays=(5.0,) * 40)
    simulation.run()
    assert {event["scope"] for event in simulation.named("throttled")} == {"egress e1"}
    assert simulation.counts["delivered"] > 300

    simulation = Simulation(200, answer=lambda *about: BUSY if about[1] == "mail" and odd() else None, adaptive=USUAL)
    simulation.run()
    assert {event["scope"] for event in simulation.named("throttled")} == {"relay main"}


BUSY = b"421 4.7.0 too many messages from you, slow down"


def odd(seen=[]):  # noqa: B006
    seen.append(1)
    return len(seen) % 2


def test_connections_that_are_too_many_are_not_tried_again_and_again():
    """The relay lets us have four; ten are configured."""
    open_now = {}

    def answer(name, phase, about):
        if phase == "connect" and simulation.relays[0].open.total() >= 4:
            open_now["refused"] = open_now.get("refused", 0) + 1
            return ConnectError("421 4.7.0 too many connections from you")
        return None

    relay = FakeRelay(url="smtp://relay.test?connections=10&messages_per_connection=50")
    simulation = Simulation(5000, relay, answer=answer, adaptive=USUAL)
    simulation.run().checked()
    told = [event for event in simulation.named("throttled") if event.get("connections")]
    assert told and told[0]["scope"] == "relay main" and told[0]["connections"] <= 4
    assert simulation.counts["delivered"] == 5000
    assert open_now["refused"] < 40


def test_a_relay_that_drops_connections_loses_nobody_while_it_is_slowed():
    bucket = Bucket(30, 30)

    def answer(name, phase, about):
        if phase == "rcpt":
            said = bucket.ask(about, now_of(simulation))
            return DROP if said and len(bucket.refused) % 3 == 0 else said
        return None

    simulation = limited(None, 3000, answer=answer)
    simulation.run().checked()
    assert simulation.counts.get("delivered", 0) + simulation.counts.get("failed", 0) == 3000


def test_a_few_refusals_of_a_small_job_slow_nobody():
    """Twenty recipients with short delays do not take minutes because some were told to come back later."""
    asked = Counter()

    def answer(relay, phase, about):
        if phase == "dot" and not asked[about]:
            asked[about] += 1
            return b"450 4.7.1 too much mail, slow down"
        return None

    simulation = Simulation(LEAST_REFUSALS - 1, answer=answer, delays=(1.0,), adaptive=AdaptiveSpec()).run().checked()
    assert len(simulation.taken) == LEAST_REFUSALS - 1
    assert simulation.seconds < 5
    assert not [event for event in simulation.events if event["event"] == "throttled"]


def test_what_a_domain_without_a_group_asks_to_wait_pauses_its_recipients_and_not_the_relay():
    """Yahoo's words to one of its recipients are not to hold up everybody else for an hour."""

    def answer(relay, phase, about):
        return b"450 4.7.0 try again in 3000 seconds" if phase == "rcpt" and about == address(7) else None

    simulation = Simulation(500, answer=answer, delays=(1.0,), adaptive=AdaptiveSpec())
    others = []
    simulation.at = [(5.0, lambda: others.append(sum(simulation.relays[0].taken.values())))]
    simulation.run()
    assert others == [499]


def test_a_domain_that_comes_up_only_later_in_the_list_is_slowed_down_for_as_well():
    """Its recipients are added while others are sent to."""
    bucket = Bucket(5.0, 5.0)
    simulation = limited(bucket, slow=0, fast=1, delays=(), seconds=120.0)

    def add():
        simulation.ledger.add_part(Part([PartChunk(SLOW, rows(2, 3000), 3000, NONE, None)]))
        simulation.scheduler.tally.add("pending", 3000)
        simulation.scheduler.expect(SLOW)
        simulation.scheduler.leased(False)

    simulation.ledger.filled = False
    bucket.ask, ask = lambda who, now: None if who == address(1) else ask(who, now), bucket.ask
    simulation.at += [(0.001, add), (0.001, lambda: setattr(simulation.scheduler, "filling", False))]
    start = simulation._make_scheduler

    def make():
        start()
        simulation.scheduler.filling = True

    simulation._make_scheduler = make
    simulation.run()
    assert len(bucket.refused) < 1000
