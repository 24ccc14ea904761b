"""A whole day of a job in some seconds: every recipient accounted for, every limit held in every window."""

from __future__ import annotations

import pytest

from unit.job.day import BEGIN, CAPACITY, DAY, DEAD, HOUR, LIMITS, RAMP, ROUTES, Day, open_windows


@pytest.fixture(scope="module")
def day():
    return Day().run()


def test_everybody_is_accounted_for_and_nearly_all_have_it(day):
    counts = day.simulation.tally.counts
    assert counts.recipients == sum(ROUTES.values()) == counts.delivered + counts.failed + counts.in_doubt
    assert counts.failed + counts.in_doubt < 30
    assert day.simulation.error is None
    assert sum(day.simulation.taken.values()) == len(day.taken)
    assert max(day.simulation.taken.values()) == 1


def test_nothing_leaves_outside_of_the_hours(day):
    windows = open_windows()
    assert all(any(begin <= time < end + 1 for begin, end in windows) for time, _ in day.named)
    assert BEGIN <= day.named[0][0] < BEGIN + 10
    assert day.named[-1][0] < BEGIN + 2 * DAY


@pytest.mark.parametrize("domain", LIMITS)
def test_a_domains_rate_is_held_in_every_window(day, domain):
    times = [time for time, name in day.named if name == domain]
    assert highest_debt(times, lambda since, now: (now - since) * LIMITS[domain]) <= 1 + 1e-6


def test_the_ramp_is_held_in_every_window(day):
    times = [time for time, _ in day.named]
    assert highest_debt(times, lambda since, now: _line(now) - _line(since)) <= 1 + 1e-3


def _line(now):
    """The integral of the ramp; the break at noon and the night count for a twentieth of it at most."""
    total, elapsed, last = 0.0, 0.0, None
    for begin, end in open_windows():
        if now <= begin:
            break
        if last is not None:
            elapsed += min(begin - last, RAMP.over * 0.05)
        spent = min(now, end + 1) - begin
        total += _area(elapsed + spent) - _area(elapsed)
        elapsed, last = elapsed + min(spent, end - begin), end
    return total


def _area(elapsed):
    rising = min(elapsed, RAMP.over)
    rise = RAMP.begin * rising + (RAMP.end - RAMP.begin) * rising**2 / (2 * RAMP.over)
    return rise + max(0.0, elapsed - RAMP.over) * RAMP.end


def highest_debt(times, allowed):
    """The most by which what left in any window is above what its rate allows: at most the burst."""
    debt, last, most = 0.0, times[0], 0.0
    for time in times:
        debt = max(0.0, debt - allowed(last, time)) + 1
        last, most = time, max(most, debt)
    return most


def test_a_receiver_that_refuses_too_much_is_found_out(day):
    taken = [time for time, name in day.taken if name == "slow.test" and BEGIN + HOUR < time < BEGIN + 5 * HOUR]
    assert len(taken) >= 0.7 * CAPACITY * 4 * HOUR
    assert day.refused["slow.test"] < 0.1 * ROUTES["slow.test"]


def test_the_hour_without_a_relay_costs_no_rate(day):
    before = [time for time, _ in day.taken if DEAD[0] - HOUR / 2 <= time < DEAD[0]]
    during = [time for time, _ in day.taken if DEAD[0] + 60 <= time < DEAD[0] + HOUR / 2 + 60]
    assert len(during) > 0.9 * len(before)


def test_what_happened_is_told_by_few_events(day):
    told = day.simulation.named("throttled", "resumed")
    scopes = {event["scope"] for event in told}
    assert {"job", "domain slow.test", "relay main"} <= scopes
    assert len(told) < 600
