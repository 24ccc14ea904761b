"""A job with hours and a time to start at: nothing leaves outside of them, nobody is held claimed, all are sent to."""

from __future__ import annotations

from collections import Counter
from zoneinfo import ZoneInfo

import pytest

from bulkmail.job.calendar import Calendar, Window
from unit.job.simulation import DROP, START, FakeRelay, Simulation, address

UTC = ZoneInfo("UTC")
HOUR = 3600.0
# The simulation begins on Tuesday, 14 November 2023, at 22:13:20 UTC.
TO_MIDNIGHT = 6400.0


def window(start, end, days=range(7)):
    return Window(int(start * 60), int(end * 60), UTC, frozenset(days))


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def sent_at(simulation):
    """Seconds of the run at which recipients were named."""
    return sorted(time - 1000.0 for relay in simulation.relays for time in relay.times)


def claimed_without_outcome(ledger):
    return sum(chunk.outcome[: chunk.claimed].count(b".") for chunk in ledger.chunks.values())


def throttles(simulation):
    return [(event["event"], event["scope"], event["until"]) for event in simulation.named("throttled", "resumed")]


def test_nothing_is_begun_before_the_time_to_start():
    simulation = Simulation(500, calendar=Calendar(start_at=START + 5000)).run().checked()
    assert simulation.taken == everybody(500)
    assert 5000 <= sent_at(simulation)[0] < 5001
    assert simulation.relays[0].opened and simulation.named("connected")[0]["ts"] >= START + 5000
    assert throttles(simulation) == [("throttled", "job", START + 5000), ("resumed", "job", None)]


def test_a_job_waits_for_its_window_and_is_shut_with_it():
    """Two messages a second from midnight to one, and again the next night."""
    calendar = Calendar([window(0, 1)])
    simulation = Simulation(9000, FakeRelay(url="smtp://relay.test?rate=2/s"), calendar=calendar).run().checked()
    times = sent_at(simulation)
    assert simulation.taken == everybody(9000) == simulation.tried
    nights = [[time for time in times if night <= time - TO_MIDNIGHT < night + HOUR] for night in (0, 86_400)]
    assert sum(map(len, nights)) == len(times)
    assert len(nights[0]) == pytest.approx(7200, abs=3)
    names = [event[0] for event in throttles(simulation)]
    assert names == ["throttled", "resumed", "throttled", "resumed"]
    (first, second) = simulation.named("throttled")
    assert second["until"] == START + TO_MIDNIGHT + 86_400
    assert first["why"] == "outside of the window 00:00 to 01:00 UTC"


def test_while_it_is_shut_nobody_is_claimed_no_connection_is_kept_and_the_job_says_why():
    seen = {}

    def look():
        seen["claimed"] = claimed_without_outcome(simulation.ledger)
        seen["open"] = sum(relay.open.total() for relay in simulation.relays)
        seen["summary"] = simulation.tally.summary()
        seen["progress"] = simulation.writer.commits[-1].progress

    calendar = Calendar([window(22, 22.5)])
    relay = FakeRelay(url="smtp://relay.test?rate=1/s&idle_timeout=30", latency=0.5)
    simulation = Simulation(2000, relay, calendar=calendar, at=[(1060.0, look)])
    simulation.run().checked()
    waiting = {"until": START + TO_MIDNIGHT + 22 * HOUR, "why": "outside of the window 22:00 to 22:30 UTC"}
    assert seen["claimed"] == 0 and seen["open"] == 0
    assert seen["summary"]["waiting"] == waiting == seen["progress"]["waiting"]
    assert "waiting" not in simulation.tally.summary()
    assert simulation.taken == everybody(2000)


def test_a_stop_while_it_waits_ends_it_at_once():
    simulation = Simulation(100, calendar=Calendar(start_at=START + 9000))
    simulation.at = [(50.0, simulation.stop)]
    simulation.run().checked()
    assert simulation.seconds < 51 and simulation.error is None
    assert simulation.counts == {"recipients": 100, "pending": 100}


def test_the_next_run_waits_for_the_window_too():
    calendar = Calendar([window(0, 1)])
    first = Simulation(4000, FakeRelay(url="smtp://relay.test?rate=1/s"), calendar=calendar)
    first.at = [(TO_MIDNIGHT + 1000, first.stop)]
    first.run().checked()
    assert 999 <= first.tally.counts.delivered <= 1001
    first.ledger.restart()
    first.ledger.recover("skip")
    # its clock begins at 22:13 again
    second = Simulation(ledger=first.ledger, calendar=calendar).run().checked()
    assert sent_at(second)[0] >= TO_MIDNIGHT
    assert first.taken + second.taken == everybody(4000)


def test_retries_that_are_due_outside_of_the_window_wait_for_it():
    def answer(relay, phase, about):
        return b"450 4.2.0 later" if phase == "rcpt" and simulation.tried[about] == 1 else None

    calendar = Calendar([window(22, 22.25)])  # open for another hundred seconds
    simulation = Simulation(50, answer=answer, delays=(600.0, 600.0), calendar=calendar)
    simulation.run().checked()
    assert simulation.taken == everybody(50)
    times = sent_at(simulation)
    assert len(times) == 100 and max(times[:50]) < 100 and min(times[50:]) >= TO_MIDNIGHT + 22 * HOUR


def test_a_relay_that_failed_as_the_window_shut_has_its_patience_again_when_it_opens():
    refuses = True

    def answer(relay, phase, about):
        nonlocal refuses
        if phase == "connect" and simulation.scheduler._loop.time() > 1000 + 80_000:
            refuses = False
        return DROP if phase == "mail" and refuses else None

    calendar = Calendar([window(22, 22.25), window(23, 24)])
    simulation = Simulation(20, FakeRelay(patience=200.0), answer=answer, calendar=calendar)
    simulation.run()
    # 100 s of failures, a pause, then 200 s more before it is given up
    assert simulation.error is not None
    failed = [event["ts"] - START for event in simulation.named("connect_failed")]
    opens = TO_MIDNIGHT - HOUR
    assert failed[-1] > opens + 150


@pytest.mark.parametrize("order", ["pause first", "shut first"])
def test_an_operators_pause_and_a_shut_window_both_hold(order):
    pause, resume = (50.0, TO_MIDNIGHT + 50) if order == "pause first" else (200.0, TO_MIDNIGHT - 50)
    calendar = Calendar([window(22, 22.25), window(0, 24, [2, 3])])
    simulation = Simulation(5000, FakeRelay(url="smtp://relay.test?rate=20/s"), calendar=calendar)
    simulation.at = [
        (pause, lambda: simulation.scheduler.pause()),
        (resume, lambda: simulation.scheduler.resume()),
    ]
    simulation.run().checked()
    times = sent_at(simulation)
    goes_on = max(resume, TO_MIDNIGHT)
    assert not [time for time in times if min(pause, 100) + 1 < time < goes_on]
    assert simulation.taken == everybody(5000)
