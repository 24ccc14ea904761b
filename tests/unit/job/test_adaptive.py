"""Slower where a receiver asks for it, and back: rates, pauses and connections as numbers; time is a parameter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.job.adaptive import DEEPEST, LONG_WAIT, Meter, Places, Throttle
from bulkmail.job.specs import AdaptiveSpec

USUAL = AdaptiveSpec()


def lowered(rate=100.0, spec=USUAL, now=10.0):
    throttle = Throttle(spec)
    assert throttle.refused(now, now, rate, None, rate, None)
    return throttle


def rising(throttle, now, seconds):
    for second in range(int(seconds)):
        throttle.taken(now + second + 1)
    return throttle.rate


def test_the_first_refusal_goes_at_once_to_what_was_taken_lately():
    throttle = Throttle(USUAL)
    assert throttle.refused(10.0, 9.5, sent=300.0, stated=None, taken=100.0, wait=None)
    assert throttle.rate == pytest.approx(70.0)


def test_a_measurement_that_is_off_does_not_stop_everything():
    throttle = Throttle(USUAL)
    throttle.refused(10.0, 9.5, sent=300.0, stated=None, taken=0.0, wait=None)
    assert throttle.rate == pytest.approx(300.0 * DEEPEST)


def test_fifty_refusals_of_what_was_on_its_way_count_once():
    throttle = lowered(now=10.0)
    assert not any(throttle.refused(10.0 + n / 100, 9.9, 100.0, None, 100.0, None) for n in range(50))
    assert throttle.rate == pytest.approx(70.0)
    assert throttle.refused(11.0, 10.5, 100.0, None, 70.0, None)
    assert throttle.rate == pytest.approx(50.0)


def test_what_is_refused_whatever_the_rate_is_halves_it_in_ten_seconds_and_no_more():
    """A relay that fails one message in ten would else be sent one a second before long."""
    throttle, now = lowered(now=10.0), 10.0
    for _ in range(200):
        now += 0.049
        throttle.refused(now, now - 0.01, 100.0, None, 0.9 * throttle.rate, None)
    assert throttle.rate == pytest.approx(50.0)
    throttle.refused(21.0, 20.9, 100.0, None, 45.0, None)
    assert 22.0 < throttle.rate < 35.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.none() | st.floats(1, 1e9), st.floats(0, 1e6)), max_size=60)
)
def test_whatever_comes_rates_and_pauses_keep_their_bounds(steps):
    spec = AdaptiveSpec(floor=0.5, ceiling=50.0)
    throttle, now = Throttle(spec), 0.0
    for seconds, refused, wait, taken in steps:
        now += seconds
        throttle.over(now)
        if refused:
            throttle.refused(now, now, 200.0, None, taken, wait)
        else:
            throttle.taken(now)
        assert throttle.rate is None or 0.5 <= throttle.rate <= 50.0
        assert throttle.until is None or throttle.until <= now + spec.longest_pause


def test_successes_bring_it_back_in_even_steps_and_then_the_limit_is_lifted():
    throttle = lowered(100.0)
    first = rising(throttle, 10.0, 30) - 70.0
    assert first == pytest.approx(100 / 600 * 30, rel=0.05)
    assert rising(throttle, 40.0, 30) - 70.0 == pytest.approx(2 * first, rel=0.05)
    assert rising(throttle, 70.0, 600) is None


def test_time_in_which_nothing_was_sent_proves_nothing():
    throttle = lowered(100.0)
    throttle.taken(10_000.0)
    assert throttle.rate < 71.0


def test_beyond_what_was_refused_last_it_goes_ever_faster():
    """A receiver that relaxes after an hour is not crept up on for ten."""
    throttle = Throttle(USUAL)
    throttle.refused(0.0, 0.0, sent=1000.0, stated=None, taken=50.0, wait=None)
    for now in (1.0, 2.0):
        throttle.refused(now, now, 1000.0, None, 20.0, None)
    knee = 1000.0 * DEEPEST * DEEPEST
    assert throttle.rate < knee
    seconds = 0
    while throttle.rate is not None:
        seconds += 1
        throttle.taken(2.0 + seconds)
        assert seconds < 1500


def test_a_ceiling_holds_for_the_rest_of_the_run():
    throttle = lowered(100.0, AdaptiveSpec(ceiling=80.0))
    assert rising(throttle, 10.0, 5000) == 80.0


def test_a_rate_below_the_floor_is_not_raised_by_a_refusal():
    throttle = Throttle(AdaptiveSpec(floor=1.0))
    throttle.refused(0.0, 0.0, sent=0.5, stated=0.5, taken=0.5, wait=None)
    assert throttle.rate == 1.0  # and the configured limit holds beside it


def test_who_asks_to_wait_is_waited_for_and_met_gently_afterwards():
    throttle = Throttle(USUAL)
    assert throttle.refused(100.0, 99.0, 50.0, None, 50.0, wait=600.0)
    assert throttle.until == 700.0
    assert not throttle.taken(200.0) and not throttle.over(699.0)
    assert throttle.over(700.0)
    assert throttle.until is None and throttle.rate == pytest.approx(50.0 * DEEPEST)
    assert not throttle.refused(701.0, 99.5, 50.0, None, 1.0, None)  # of what left before the pause


def test_a_short_wait_is_no_reason_to_crawl_afterwards():
    throttle = Throttle(USUAL)
    throttle.refused(100.0, 99.0, 50.0, None, 50.0, wait=LONG_WAIT / 2)
    assert throttle.rate == pytest.approx(35.0)


def test_an_absurd_wait_is_cut_short_and_a_longer_one_of_the_same_moment_counts():
    throttle = Throttle(USUAL)
    assert throttle.refused(0.0, 0.0, 50.0, None, 50.0, wait=30.0)
    assert throttle.refused(0.0, -1.0, 50.0, None, 50.0, wait=86_400.0)
    assert throttle.until == USUAL.longest_pause


def test_connections_go_down_to_those_that_work_and_come_back_one_by_one():
    places = Places(USUAL, 20)
    assert places.refused(0.0, working=7)
    assert places.limit == 7
    assert not places.refused(1.0, working=9)
    assert not places.taken(30.0)
    assert places.taken(62.0) and places.limit == 8
    for minute in range(2, 40):
        places.taken(62.0 + minute * 61)
    assert places.limit == 20
    assert places.refused(9000.0, working=0) and places.limit == 1


def test_a_meter_tells_what_happened_lately():
    meter = Meter(0.0, 0)
    for second in range(1, 11):
        meter.note(second, second * 100)
    assert meter.rate(10.5, 1050) == pytest.approx(100.0)
    assert Meter(0.0, 0).rate(0.001, 30) == 30.0  # not 30,000
