"""A ramp in a run: never above its line, nearly all of it used, and the next run goes on where the last one was."""

from __future__ import annotations

import pytest

from bulkmail.job.calendar import Calendar, Window
from bulkmail.job.ramp import PAUSE_SHARE, Ramp
from bulkmail.job.specs import RampSpec
from unit.job.simulation import START, FakeRelay, Simulation
from unit.job.test_windows import UTC, sent_at

SPEC = RampSpec(2.0, 40.0, 120.0)


def line(elapsed):
    """How many may have left by then: the integral of the rate."""
    rising = min(max(elapsed, 0.0), SPEC.over)
    area = SPEC.begin * rising + (SPEC.end - SPEC.begin) * rising**2 / (2 * SPEC.over)
    return area + max(0.0, elapsed - SPEC.over) * SPEC.end


def assert_below_the_line(times, elapsed=0.0):
    """In no window, of any length, have more left than integral and burst. times: from the ramp's beginning on."""
    burst = SPEC.end * 0.1
    excess = [n - line(time + elapsed) for n, time in enumerate(times)]
    lowest = float("inf")
    for n, value in enumerate(excess):
        lowest = min(lowest, value)
        assert value + 1 - lowest <= burst + 0.001, f"at {times[n]} s"


def run(count=4000, *, ramp=None, **options):
    relay = FakeRelay(url="smtp://relay.test?connections=8")
    return Simulation(count, relay, ramp=ramp or Ramp(SPEC), **options).run().checked()


def test_a_run_stays_below_the_line_and_uses_it():
    simulation = run()
    times = sent_at(simulation)
    assert_below_the_line(times)
    end = times[-1]
    assert len(times) >= 0.98 * line(end) - 5


def test_a_stated_rate_holds_beside_it():
    simulation = run(1500, rate=15.0)
    times = sent_at(simulation)
    assert_below_the_line(times)
    late = [time for time in times if time > 60]
    assert len(late) == pytest.approx((late[-1] - late[0]) * 15.0, abs=5)


def test_the_next_run_goes_on_where_the_last_one_was():
    first = Simulation(4000, FakeRelay(url="smtp://relay.test?connections=8"), ramp=Ramp(SPEC))
    first.at = [(50.0, first.stop)]
    first.run().checked()
    elapsed = first.writer.commits[-1].progress["ramp"]
    assert elapsed == pytest.approx(50.0, abs=0.2)
    first.ledger.restart()
    first.ledger.recover("skip")
    ramp = Ramp(SPEC, elapsed)
    ramp.paused(1.0)
    second = Simulation(0, FakeRelay(url="smtp://relay.test?connections=8"), ledger=first.ledger, ramp=ramp)
    second.run().checked()
    assert second.counts["delivered"] == 4000
    times = sent_at(second)
    assert_below_the_line(times, elapsed + 1)
    assert len([time for time in times if time < 20]) >= 0.95 * (line(elapsed + 21) - line(elapsed + 1))


def test_it_begins_with_the_first_window_and_a_night_does_not_take_it_to_its_end():
    """Open for 100 seconds, shut until midnight (6,300 s), open."""
    calendar = Calendar([Window(22 * 60, 22 * 60 + 14, UTC), Window(0, 600, UTC)])
    simulation = run(3000, calendar=calendar)
    times = sent_at(simulation)
    shut, opens = 40.0, 6400.0
    assert not [time for time in times if shut + 1 < time < opens]
    assert_below_the_line([time for time in times if time < opens])
    elapsed = shut + SPEC.over * PAUSE_SHARE
    assert_below_the_line([time - opens for time in times if time >= opens], elapsed)
    soon = [time for time in times if opens <= time < opens + 20]
    assert len(soon) >= 0.95 * (line(elapsed + 20) - line(elapsed)) - 2


def test_it_begins_at_the_time_to_start():
    simulation = run(300, calendar=Calendar(start_at=START + 5000))
    assert_below_the_line([time - 5000 for time in sent_at(simulation)])


def test_an_operators_pause_stops_it_as_well():
    relay = FakeRelay(url="smtp://relay.test?connections=8")
    simulation = Simulation(2000, relay, ramp=Ramp(SPEC))
    simulation.at = [
        (30.0, lambda: simulation.scheduler.pause()),
        (3000.0, lambda: simulation.scheduler.resume()),
    ]
    simulation.run().checked()
    times = [time - 3000 for time in sent_at(simulation) if time > 100]
    assert times[0] >= 0
    assert_below_the_line(times, 30.0 + SPEC.over * PAUSE_SHARE)
