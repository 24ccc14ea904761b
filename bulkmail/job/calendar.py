"""When a job may send: hours and days in a time zone, not before a certain time. Time is a parameter (Unix seconds).

A window opens when the zone's clock first shows its `from` on a day, and closes when it first shows its `to`. So where
a clock is set forward over one of them, that is the moment of the change; and where it is set back, the hour that comes
twice counts the first time: a window never opens twice a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from bulkmail.records import Record

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 1440
# Days that are looked at for the next change: any window opens within a week, or in the next where its day is skipped
# (Samoa had no 30th of December in 2011).
HORIZON: Final = 15


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window(Record):
    """Minutes of the day, `start` inclusive, `end` exclusive; start > end passes midnight, into the day after.

    days  weekdays on which it begins, 0 for Monday
    """

    start: int
    end: int
    zone: ZoneInfo
    days: frozenset[int] = frozenset(range(7))

    def __str__(self) -> str:
        text = f"{_clock(self.start)} to {_clock(self.end)} {self.zone.key}"
        return text if len(self.days) == 7 else f"{text}, {' '.join(DAYS[day] for day in sorted(self.days))}"

    def on(self, day: date) -> tuple[float, float] | None:
        """When the window that begins on this day opens and closes (they are equal where the clock skips it), or None:
        there is none."""
        if day.weekday() not in self.days:
            return None
        ends = self.end if self.end > self.start else self.end + DAY_MINUTES
        return first_shown(day, self.start, self.zone), first_shown(day, ends, self.zone)

    def around(self, now: float, days: int) -> Iterable[tuple[float, float]]:
        """Those that may be open at `now`, or open within so many days."""
        today = datetime.fromtimestamp(now, self.zone).date()
        for offset in range(-2, days + 1):
            span = self.on(today + timedelta(days=offset))
            if span is not None and span[0] < span[1]:
                yield span


def first_shown(day: date, minutes: int, zone: ZoneInfo) -> float:
    """When the clock of the zone first shows so many minutes of this day, or more (Unix seconds)."""
    wanted = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)
    late = wanted.replace(tzinfo=zone).timestamp()  # of two moments the first (PEP 495); of none, as before the change
    if _shown(late, zone) == wanted:
        return late
    early = wanted.replace(tzinfo=zone, fold=1).timestamp()
    while late - early > 1:  # the change is between them; zones change at whole seconds
        middle = (early + late) // 2
        early, late = (middle, late) if _shown(middle, zone) < wanted else (early, middle)
    return late


def _shown(moment: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(moment, zone).replace(tzinfo=None, fold=0)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Hold(Record):
    """Why nothing is begun, and until when (Unix seconds; None: as far as the calendar goes, never again)."""

    until: float | None
    why: str


class Calendar:
    """windows: of which one must be open, if there are any; start_at: Unix seconds before which nothing is begun."""

    def __init__(self, windows: Sequence[Window] = (), start_at: float | None = None) -> None:
        self.windows, self.start_at = tuple(windows), start_at

    def __bool__(self) -> bool:
        """Whether there is anything to wait for at any time."""
        return bool(self.windows) or self.start_at is not None

    def is_open(self, now: float) -> bool:
        if self.start_at is not None and now < self.start_at:
            return False
        return not self.windows or any(
            opens <= now < closes for window in self.windows for opens, closes in window.around(now, 1)
        )

    def next_change(self, now: float) -> float | None:
        """When is_open() is next another than at `now`; None: not within HORIZON days, which is never."""
        if self.start_at is not None and now < self.start_at:
            return self.start_at if self.is_open(self.start_at) else self.next_change(self.start_at)
        was = self.is_open(now)
        edges = {edge for window in self.windows for span in window.around(now, HORIZON) for edge in span}
        return next((edge for edge in sorted(edges) if edge > now and self.is_open(edge) != was), None)

    def hold(self, now: float) -> Hold | None:
        """None: mail may be sent."""
        if self.is_open(now):
            return None
        until = self.next_change(now)
        if self.start_at is not None and now < self.start_at:
            return Hold(until, f"it starts at {iso(self.start_at)}")
        return Hold(until, f"outside of the window {' and '.join(map(str, self.windows))}")


def iso(moment: float) -> str:
    """ "2026-11-27T08:00:00Z" """
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
