"""A rate is kept exactly: never more than rate x T + burst in any T seconds, and hardly less where there is work."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.pool.limits import Alarm, Limit, grant_all

RATES = st.one_of(st.floats(0.001, 10), st.floats(10, 100_000), st.integers(1, 5000).map(float))
# (seconds until the next request, how many it wants, whether what was granted is given back)
REQUESTS = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500), st.booleans()), min_size=1, max_size=60)
STARTS = st.sampled_from(
    [0.0, 1.0, 5e5, 1e7]
)  # loop.time() counts from the machine's start, here up to four months ago


@settings(max_examples=400)
@given(rate=RATES, requests=REQUESTS, start=STARTS)
def test_no_window_of_time_has_more_than_the_rate_and_the_burst(rate, requests, start):
    limit, now, left = Limit(rate), start, []
    for pause, wanted, unused in requests:
        now += pause
        granted = limit.grant(wanted, now)
        assert 0 <= granted <= wanted
        if unused:
            limit.give_back(granted)
        elif granted:
            left.append((now, granted))
    # the clock's own resolution at `start` is what rounding may cost
    slack = 1e-6 + rate * (math.ulp(start) * 100 + 2e-9)
    for first in range(len(left)):
        total = 0
        for now, granted in left[first:]:
            total += granted
            assert total <= rate * (now - left[first][0]) + limit.burst + slack


@settings(max_examples=200)
@given(rate=RATES, count=st.integers(1, 200), start=STARTS)
def test_whoever_waits_as_long_as_told_is_granted_and_no_time_is_lost(rate, count, start):
    limit, now, sent = Limit(rate), start, 0
    while sent < count:
        wanted = min(limit.burst, count - sent)
        waiting = limit.wait(now, wanted)
        now += waiting + (math.ulp(start) * 100 if waiting else 0)
        assert limit.grant(wanted, now) == wanted
        sent += wanted
    ideal = max(0, count - limit.burst) / rate
    # rounding, and at a very slow rate nothing else
    assert ideal * 0.999 - 1e-6 <= now - start <= ideal * 1.001 + limit.burst / rate + 1e-3


@given(rate=RATES, wanted=st.integers(1, 10_000), start=STARTS)
def test_a_pause_is_good_for_one_burst_and_no_more(rate, wanted, start):
    limit = Limit(rate)
    first = limit.grant(wanted, start)
    assert first == min(wanted, limit.burst)
    rest = sum(limit.grant(10_000, start) for _ in range(3))
    # far from 0 the clock is so coarse that the last one may be granted a moment later
    assert limit.burst - (start > 1e6) <= first + rest <= limit.burst
    assert limit.grant(1, start) == 0
    later = start + 1000 * limit.burst / rate + 1000
    assert limit.grant(10_000_000, later) == limit.burst


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.01, 1), (1, 1), (10, 1), (19, 1), (20, 2), (300, 30), (100_000, 10_000)]
)
def test_the_burst_is_a_tenth_of_a_second_s_worth_and_at_least_one(rate, burst):
    assert Limit(rate).burst == burst and Limit(rate).grant(1 << 40, 5.0) == burst


@given(wanted=st.integers(-5, 500), now=st.floats(0, 1e9))
def test_without_a_rate_all_is_granted(wanted, now):
    limit = Limit(None)
    assert limit.grant(wanted, now) == max(wanted, 0)
    assert limit.room(now) == math.inf and limit.wait(now) == 0.0
    limit.give_back(wanted)


@pytest.mark.parametrize("wanted", [0, -1])
def test_nothing_wanted_nothing_granted(wanted):
    limit = Limit(10)
    assert limit.grant(wanted, 1.0) == 0 and limit.grant(1, 1.0) == 1


@pytest.mark.parametrize("rate", [0, -1, 0.0])
def test_a_rate_is_above_nothing(rate):
    with pytest.raises(ValueError, match="above 0"):
        Limit(rate)


@given(rate=RATES, used=st.integers(0, 50), start=STARTS)
def test_room_is_what_grant_gives(rate, used, start):
    limit, other = Limit(rate), Limit(rate)
    limit.grant(used, start)
    other.grant(used, start)
    assert limit.room(start) == other.grant(1 << 40, start)


def test_a_clock_that_steps_back_grants_nothing_twice():
    limit = Limit(10, burst=5)
    assert limit.grant(5, 100.0) == 5
    assert limit.grant(5, 50.0) == 0


def test_an_alarm_rings_once_at_the_earliest_of_its_times(run, monkeypatch):
    """Also where the earliest is now, for which uvloop makes another kind of timer."""
    monkeypatch.setattr("bulkmail.pool.limits.LEAST_WAIT", 0.0)

    async def main():
        rung = asyncio.Event()
        calls = []
        alarm = Alarm(asyncio.get_running_loop(), lambda: (calls.append(1), rung.set()))
        for seconds in (60, 0, 0, 30):
            alarm.ring_in(seconds)
        await asyncio.wait_for(rung.wait(), 10)
        alarm.ring_in(0)  # it can be set again
        rung.clear()
        await asyncio.wait_for(rung.wait(), 10)
        alarm.ring_in(0)
        alarm.cancel()
        await asyncio.sleep(0.01)
        return len(calls)

    assert run(main()) == 2


def test_of_several_limits_one_that_refuses_costs_the_others_nothing():
    free, tight = Limit(10.0, 5), Limit(1.0, 1)
    assert grant_all((free, tight), 1, 100.0)
    assert not grant_all((free, tight), 1, 100.0)
    assert free.room(100.0) == 4 and tight.room(100.0) == 0
