"""Windows and start_at against a clock that is read minute by minute; daylight saving in all its forms."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.job.calendar import DAY_MINUTES, HORIZON, Calendar, Window

EXAMPLES = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "20"))
BERLIN = ZoneInfo("Europe/Berlin")
# Half and three quarter hours, changes of half an hour and of two, at midnight and on Fridays, a day that never was.
ZONES = [
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
    "Antarctica/Troll", "America/Havana", "Africa/Cairo", "America/Sao_Paulo", "Pacific/Apia", "Asia/Tehran", "UTC",
]  # fmt: skip
WORKDAYS = frozenset(range(5))


def at(text, zone="UTC"):
    """Unix seconds of a local time; fold is written "+1"."""
    time, _, fold = text.partition("+")
    return datetime.fromisoformat(time).replace(tzinfo=ZoneInfo(zone), fold=int(fold or 0)).timestamp()


def minutes(text):
    hours, rest = text.split(":")
    return int(hours) * 60 + int(rest)


def window(start, end, zone="Europe/Berlin", days=range(7)):
    return Window(minutes(start), minutes(end), ZoneInfo(zone), frozenset(days))


def read_clock(windows, begin, end):
    """[(minute, open)] as somebody would find it who looks at a clock that does not run backwards."""
    furthest = {one: datetime.min for one in windows}
    begin -= begin % 60
    for moment in range(int(begin) - 86400, int(end), 60):
        now_open = False
        for one in windows:
            shown = datetime.fromtimestamp(moment, one.zone).replace(tzinfo=None, fold=0)
            furthest[one] = shown = max(furthest[one], shown)
            now_open = now_open or (moment >= begin and within(one, shown))
        if moment >= begin:
            yield moment, now_open


def within(one, shown):
    minute = shown.hour * 60 + shown.minute
    yesterday = (shown - timedelta(days=1)).weekday()
    if one.start < one.end:
        return shown.weekday() in one.days and one.start <= minute < one.end
    return (shown.weekday() in one.days and minute >= one.start) or (yesterday in one.days and minute < one.end)


def flips(states):
    """[(moment, open)] where it changes."""
    found, last = [], None
    for moment, now_open in states:
        if last is not None and now_open != last:
            found.append((moment, now_open))
        last = now_open
    return found


def changes(calendar, begin, end):
    found, moment = [], begin
    while (change := calendar.next_change(moment)) is not None and change < end:
        assert change > moment
        found.append((change, calendar.is_open(change)))
        moment = change
    return found


@st.composite
def spans(draw):
    """Some days of a year, as often as not around a change of the clock."""
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    year = draw(st.sampled_from([2008, 2011, 2016, 2024, 2026, 2035]))
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) + 86400 * draw(st.integers(0, 364))
    offsets = [datetime.fromtimestamp(begin + 86400 * day, zone).utcoffset() for day in range(366)]
    turns = [day for day in range(365) if offsets[day] != offsets[day + 1]]
    if turns and draw(st.booleans()):
        begin += 86400 * (draw(st.sampled_from(turns)) - 1)
    return zone, begin, begin + 86400 * 4


@st.composite
def windows_in(draw, zone):
    near = st.one_of(st.integers(0, 59), st.integers(0, 260), st.integers(0, DAY_MINUTES - 1))
    start, end = draw(near), draw(near.map(lambda minute: minute or DAY_MINUTES))
    if start == end:
        end += 1
    days = draw(st.sets(st.integers(0, 6), min_size=1)) if draw(st.booleans()) else range(7)
    return Window(start, end, zone, frozenset(days))


@given(st.data(), spans())
@settings(deadline=None, max_examples=EXAMPLES)
def test_windows_open_and_close_as_a_clock_on_the_wall_says(data, span):
    zone, begin, end = span
    windows = data.draw(st.lists(windows_in(zone), min_size=1, max_size=2))
    calendar = Calendar(windows)
    states = list(read_clock(windows, begin, end))
    assert changes(calendar, begin, end - 60) == flips(states)
    for moment, now_open in data.draw(st.lists(st.sampled_from(states), min_size=3, max_size=3)):
        assert calendar.is_open(moment) == now_open
        assert calendar.is_open(moment + 59.9) == now_open


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "America/Havana"])
def test_a_year_minute_by_minute(zone):
    windows = [window("22:00", "02:30", zone, WORKDAYS), window("01:15", "03:00", zone, [5, 6])]
    begin, end = at("2028-01-01T00:00"), at("2029-01-01T00:00")
    assert changes(Calendar(windows), begin, end - 60) == flips(read_clock(windows, begin, end))


# ---- single cases, for people


def test_working_hours():
    calendar = Calendar([window("08:00", "20:00", days=WORKDAYS)])
    friday, monday = at("2026-11-27T19:59", "Europe/Berlin"), at("2026-11-30T08:00", "Europe/Berlin")
    assert calendar.is_open(friday)
    assert calendar.next_change(friday) == friday + 60
    assert not calendar.is_open(friday + 60)
    assert calendar.next_change(friday + 60) == monday
    hold = calendar.hold(friday + 60)
    assert hold.until == monday
    assert hold.why == "outside of the window 08:00 to 20:00 Europe/Berlin, mon tue wed thu fri"


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins():
    calendar = Calendar([window("22:00", "06:00", days=[4])])
    assert calendar.is_open(at("2026-11-28T05:59", "Europe/Berlin"))  # a Saturday
    assert not calendar.is_open(at("2026-11-27T05:59", "Europe/Berlin"))
    assert not calendar.is_open(at("2026-11-28T22:00", "Europe/Berlin"))


@pytest.mark.parametrize(
    ("start", "end", "opens", "closes"),
    [
        ("02:30", "04:00", "2026-03-29T03:00", "2026-03-29T04:00"),  # 02:30 does not exist: at the change
        ("01:00", "02:30", "2026-03-29T01:00", "2026-03-29T03:00"),
        ("02:30", "04:00", "2026-10-25T02:30", "2026-10-25T04:00"),  # exists twice: the first time, and no gap after it
        ("01:00", "02:30", "2026-10-25T01:00", "2026-10-25T02:30"),
        ("02:10", "02:50", "2026-10-25T02:10", "2026-10-25T02:50"),
        ("00:00", "24:00", "2028-02-29T00:00", "2028-03-01T00:00"),  # leap day
    ],
)
def test_hours_that_do_not_exist_or_exist_twice(start, end, opens, closes):
    opens, closes = at(opens, "Europe/Berlin"), at(closes, "Europe/Berlin")
    calendar = Calendar([window(start, end, days=[datetime.fromtimestamp(opens, BERLIN).weekday()])])
    assert calendar.next_change(opens - 3600) == opens
    assert calendar.next_change(opens) == closes
    assert not calendar.is_open(closes) and not calendar.is_open(closes + 3599)


def test_a_window_within_the_hour_that_is_left_out_does_not_open_that_day():
    calendar = Calendar([window("02:10", "02:50")])
    assert calendar.next_change(at("2026-03-28T12:00")) == at("2026-03-30T02:10", "Europe/Berlin")


def test_a_day_that_never_was_has_no_window():
    calendar = Calendar([window("08:00", "20:00", "Pacific/Apia", [4])])  # Friday, 30 December 2011
    assert calendar.next_change(at("2011-12-27T12:00")) == at("2012-01-06T08:00", "Pacific/Apia")


def test_windows_that_touch_are_one_and_round_the_clock_is_never_shut():
    whole = Calendar([window("00:00", "24:00")])
    assert whole.is_open(0) and whole.next_change(0) is None and whole.hold(0) is None
    halves = Calendar([window("00:00", "12:00"), window("12:00", "24:00")])
    assert halves.next_change(at("2026-11-27T03:00")) is None


@pytest.mark.parametrize(("start", "until"), [("2026-11-28T10:00", "2026-11-30T08:00"), ("2026-11-30T10:00", None)])
def test_start_at_and_windows_are_waited_for_together(start, until):
    begin = at(start, "Europe/Berlin")
    calendar = Calendar([window("08:00", "20:00", days=WORKDAYS)], begin)
    noon = at("2026-11-27T12:00", "Europe/Berlin")
    assert not calendar.is_open(noon)
    hold = calendar.hold(noon)
    assert hold.until == (at(until, "Europe/Berlin") if until else begin)
    assert hold.why.startswith("it starts at 2026-11-")


def test_start_at_that_has_passed_holds_nothing_up():
    calendar = Calendar(start_at=1000.0)
    assert calendar.hold(999.5).until == 1000.0
    assert calendar.hold(1000.0) is None and calendar.next_change(1000.0) is None


def test_a_calendar_without_anything_costs_no_look_at_it():
    assert not Calendar()
    assert Calendar(start_at=5.0) and Calendar([window("08:00", "20:00")])
    assert HORIZON > 7
