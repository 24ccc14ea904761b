"""A ramp lies below its line, by little; pauses neither set it back nor take it to its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.job.ramp import LEAST_STEP, PAUSE_SHARE, STEPS, Ramp
from bulkmail.job.specs import RampSpec

HALF_HOUR = RampSpec(10.0, 300.0, 1800.0)


def line(spec, elapsed):
    return spec.begin + (spec.end - spec.begin) * min(elapsed / spec.over, 1.0)


def going(spec=HALF_HOUR, elapsed=0.0, now=0.0):
    ramp = Ramp(spec, elapsed)
    ramp.go(now)
    return ramp


specs = st.builds(
    lambda begin, more, over: RampSpec(begin, begin + more, over),
    st.floats(0.001, 1000),
    st.floats(0.001, 1000),
    st.floats(0.01, 1e7),
)


@given(specs, st.floats(0, 2))
def test_the_rate_is_below_the_line_by_no_more_than_a_step(spec, share):
    now = spec.over * share
    rate, high = going(spec).rate(now), line(spec, now)
    step = (spec.end - spec.begin) * max(1 / STEPS, LEAST_STEP / spec.over)
    assert high - step * (1 + 1e-6) <= rate <= high * (1 + 1e-9)


@given(specs)
def test_steps_lead_to_the_end_and_there_are_few(spec):
    ramp, now, rates = going(spec), 0.0, []
    while (then := ramp.next_step(now)) is not None:
        assert then > now
        rates.append(ramp.rate(now))
        now = then
    assert rates == sorted(rates) and len(rates) <= STEPS + 2
    assert ramp.rate(now) == spec.end


def test_it_stands_still_until_it_is_set_going_and_while_it_is_held():
    ramp = Ramp(HALF_HOUR)
    assert ramp.rate(5000.0) == 10.0 and ramp.next_step(5000.0) is None
    ramp.go(6000.0)
    ramp.hold(6900.0)
    assert ramp.rate(99_999.0) == pytest.approx(155.0)
    ramp.go(99_999.0)
    assert ramp.rate(99_999.0) == pytest.approx(155.0)
    assert ramp.rate(99_999.0 + 900) == 300.0


def test_a_night_does_not_take_a_ramp_of_half_an_hour_to_its_end():
    ramp = going(elapsed=300.0)
    ramp.hold(0.0)
    ramp.paused(12 * 3600.0)
    assert ramp.elapsed(0.0) == 300.0 + 1800 * PAUSE_SHARE


def test_a_warm_up_of_two_weeks_goes_by_the_clock():
    days = 86_400.0
    ramp = Ramp(RampSpec(1.0, 50.0, 14 * days), 2 * days)
    ramp.paused(12 * 3600.0)
    assert ramp.elapsed(0.0) == 2.5 * days


def test_what_was_before_its_beginning_does_not_count():
    ramp = Ramp(HALF_HOUR)
    ramp.paused(86_400.0)
    assert ramp.elapsed(0.0) == 0.0


def test_another_run_goes_on_where_the_last_one_was():
    assert going(elapsed=900.0).rate(0.0) == pytest.approx(155.0)
    assert going(elapsed=1e9).rate(0.0) == 300.0
