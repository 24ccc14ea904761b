"""What limits a job is said to users only where the job's own figures show it."""

from __future__ import annotations

import pytest

from bulkmail.cli.output import hindrance_text
from bulkmail.errors import ConnectError
from bulkmail.job.hindrance import Hindrance
from bulkmail.job.specs import DomainLimit
from bulkmail.values import parse_rate
from unit.job.fake_signers import FakeSigners
from unit.job.simulation import START, FakeRelay, Simulation, address, filled_by_route


def seen(when, *relays, before=(), recipients=2000, **options):
    """What it is at `when` (seconds after the start). before: [(seconds, function)]"""
    found = []

    def look():
        scheduler = simulation.scheduler
        lanes = [lane for relay in scheduler.relays for lane in relay.pool.lanes]
        found.append(Hindrance(scheduler.pacing, scheduler.stocks, lanes).now())
        scheduler.stop(None)

    def act(function):
        return lambda: function(simulation.scheduler)

    at = [(seconds, act(function)) for seconds, function in before]
    simulation = Simulation(recipients, *relays, at=[*at, (when, look)], **options)
    simulation.run()
    return found[0]


def test_the_rate_of_the_job():
    assert seen(3.0, rate=100.0) == {"by": "rate", "scope": "job", "rate": 100.0}


def test_the_rate_of_the_only_relay():
    found = seen(3.0, FakeRelay(url="smtp://relay.test?rate=50/s"))
    assert found == {"by": "rate", "scope": "relay main", "rate": 50.0}


def test_a_limit_of_one_of_two_relays_is_not_what_limits_the_job():
    slow, quick = FakeRelay("slow", "smtp://slow.test?rate=5/s"), FakeRelay("quick", "smtp://quick.test", latency=0.05)
    assert seen(1.0, slow, quick) == {"by": "answers"}


def test_the_cap_that_somebody_else_put_on_it():
    found = seen(1.03, rate=500.0, before=[(0.5, lambda scheduler: scheduler.pacing.cap("job", "ramp", rate=10.0))])
    assert found == {"by": "ramp", "scope": "job", "rate": 10.0}


def test_domains_that_are_all_that_is_left():
    groups = [DomainLimit(("example.test",), rate=parse_rate("20/s", ""))]
    found = seen(5.0, FakeRelay(latency=0.001), ledger=filled_by_route({"example.test": 300}), domains=groups)
    assert found == {"by": "rate", "scope": "domain example.test", "rate": 20.0}


def test_connections_of_a_domain():
    groups = [DomainLimit(("example.test",), connections=1)]
    found = seen(0.5, FakeRelay(latency=0.2), ledger=filled_by_route({"example.test": 30}), domains=groups)
    assert found == {"by": "connections", "scope": "domain example.test"}


def test_retries_that_are_not_due():
    def answer(relay, phase, about):
        return b"450 4.2.1 later" if phase == "rcpt" else None

    found = seen(30.0, recipients=5, answer=answer, delays=(100.0,))
    assert found["by"] == "retries"
    assert START + 60 < found["until"] < START + 150


def test_relays_that_cannot_be_reached():
    found = seen(
        5.0, recipients=5, answer=lambda relay, phase, about: ConnectError("refused") if phase == "connect" else None
    )
    assert found == {"by": "relays", "why": "refused"}


def test_the_relays_answers():
    assert seen(1.0, FakeRelay(latency=0.5)) == {"by": "answers"}


def test_signers_that_are_slower_than_the_relay():
    found = seen(0.5, FakeRelay(latency=0.0001), recipients=300, signers=FakeSigners(0.2))
    assert found == {"by": "signing"}


def test_a_processor_that_is_busy(monkeypatch):
    used = iter([0.0, 0.9, 1.0])
    monkeypatch.setattr("bulkmail.job.hindrance.time.thread_time", lambda: next(used))
    found = []

    def make():
        scheduler = simulation.scheduler
        found.append(Hindrance(scheduler.pacing, scheduler.stocks, scheduler.relays[0].pool.lanes))

    at = [(1.0, make), (2.0, lambda: found.append(found[0].now())), (3.0, lambda: found.append(found[0].now()))]
    simulation = Simulation(2000, FakeRelay(latency=0.5), at=at)
    simulation.run()
    assert found[1:] == [{"by": "cpu"}, {"by": "answers"}]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"by": "rate", "scope": "job", "rate": 500.0}, "the rate of the job, 500/s"),
        ({"by": "rate", "scope": "domain gmail.com", "rate": 0.5}, "the rate of domain gmail.com, 0.5/s"),
        ({"by": "window", "scope": "job", "rate": 0.0}, "the window of the job"),
        ({"by": "connections", "scope": "domain \x1b[2J"}, r"the connections of domain \x1b[2J"),
        ({"by": "relays", "why": "421 \x1b[2J"}, r"relays that cannot be reached: 421 \x1b[2J"),
        ({"by": "cpu"}, "this machine's processor"),
    ],
)
def test_in_words(found, text):
    assert hindrance_text(found) == text


def test_a_time_in_words():
    assert hindrance_text({"by": "retries", "until": START}).startswith("retries that are not due yet, until ")


def test_it_looks_at_a_job_without_changing_it():
    looked = []

    def look():
        scheduler = simulation.scheduler
        looked.append(Hindrance(scheduler.pacing, scheduler.stocks, scheduler.relays[0].pool.lanes).now())

    simulation = Simulation(500, FakeRelay(latency=0.01), rate=200.0, at=[(n / 100, look) for n in range(1, 240)])
    simulation.run().checked()
    assert simulation.taken == {address(n): 1 for n in range(1, 501)}
    assert 2.4 < simulation.seconds < 2.6
    assert len(looked) > 200
