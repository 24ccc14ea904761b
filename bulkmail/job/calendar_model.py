"""The manifest's `start_at`, and `window` and `ramp` of its limits."""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import Field, PlainValidator, Tag, WithJsonSchema, model_validator

from bulkmail.job.calendar import DAY_MINUTES, DAYS, Window
from bulkmail.job.loading import Strict, either, plain_text
from bulkmail.job.specs import RampSpec
from bulkmail.job.value_models import RateText, Seconds
from bulkmail.urlparts import listed, nearest, quoted

MAX_WINDOWS = 50  # a handful is what anybody writes; each is looked at for each change
STALE_DAYS = 7  # a job that was to start so long ago may be yesterday's news
FAR_DAYS = 366

_clock = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00").fullmatch


def _time_of_day(value: object) -> int:
    text = plain_text(value)
    found = _clock(text)
    if found is None:
        raise ValueError(f"{quoted(text)}, expected a time of day such as '08:00' or '23:30'")
    return int(found[1]) * 60 + int(found[2]) if found[1] else DAY_MINUTES


def _zone(value: object) -> ZoneInfo:
    name = plain_text(value)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder
        known = {zone.lower(): zone for zone in available_timezones()}
        hint = nearest(name, known)
        close = next((known[low] for low in known if f"'{low}'" in hint), None)
        hint = f", did you mean '{close}'?" if close else ", expected a name such as 'Europe/Berlin' or 'UTC'"
        raise ValueError(f"there is no time zone {quoted(name)}{hint}") from None


def _day(value: object) -> int:
    name = plain_text(value)
    if name.lower() not in DAYS:
        raise ValueError(f"{quoted(name)}, expected one of {listed(map(quoted, DAYS))}{nearest(name[:3], DAYS)}")
    return DAYS.index(name.lower())


def _start(value: object) -> float:
    text = plain_text(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{quoted(text)}, expected a time such as '2026-11-27T08:00:00+01:00'") from None
    if moment.tzinfo is None:
        full = text if moment.time() != time.min or ":" in text else f"{moment.date()}T00:00:00"
        raise ValueError(f"{quoted(text)} says no offset from UTC, expected one, such as '{full}+01:00' or '{full}Z'")
    return moment.timestamp()


TimeOfDay = Annotated[
    int, PlainValidator(_time_of_day), WithJsonSchema({"type": "string", "examples": ["08:00", "24:00"]})
]
Zone = Annotated[
    ZoneInfo, PlainValidator(_zone), WithJsonSchema({"type": "string", "examples": ["Europe/Berlin", "UTC"]})
]
Day = Annotated[int, PlainValidator(_day), WithJsonSchema({"enum": list(DAYS)})]
StartAt = Annotated[float, PlainValidator(_start), WithJsonSchema({"type": "string", "format": "date-time"})]


class WindowModel(Strict):
    """Hours of the day in which mail is sent."""

    from_: TimeOfDay = Field(alias="from", description="a time of day such as '08:00'")
    to: TimeOfDay = Field(description="a time of day such as '20:00'; one before `from` is of the next day")
    zone: Zone = Field(default_factory=lambda: _zone("UTC"), description="a name such as 'Europe/Berlin'")
    days: list[Day] = Field(default=list(range(7)), min_length=1, description="those on which it begins")

    @model_validator(mode="after")
    def _long(self) -> WindowModel:
        if self.from_ == self.to or self.from_ == DAY_MINUTES:
            raise ValueError("'from' and 'to' leave no time between them; the whole day is from '00:00' to '24:00'")
        return self

    def window(self) -> Window:
        return Window(self.from_, self.to, self.zone, frozenset(self.days))


AnyWindows = Annotated[
    Annotated[WindowModel, Tag("<object>")]
    | Annotated[list[WindowModel], Field(min_length=1, max_length=MAX_WINDOWS), Tag("<list>")],
    either("an object with 'from' and 'to', or a list of them"),
]


class RampModel(Strict):
    """A rate that rises."""

    from_: RateText = Field(alias="from", description="a rate such as '10/s'")
    to: RateText = Field(description="a rate such as '300/s'")
    over: Seconds = Field(description="a time such as '30m'")

    @model_validator(mode="after")
    def _rises(self) -> RampModel:
        if self.from_.per_second >= self.to.per_second:
            raise ValueError(f"it goes from {self.from_} to {self.to}, expected a rate that rises")
        if not self.over:
            raise ValueError("'over' is 0, expected a time such as '30m'")
        return self

    def spec(self) -> RampSpec:
        return RampSpec(self.from_.per_second, self.to.per_second, self.over)


def windows_of(model: Any) -> tuple[Window, ...]:
    """What AnyWindows made, or None, as windows."""
    if model is None:
        return ()
    return tuple(one.window() for one in (model if isinstance(model, list) else [model]))


def warnings_of(start_at: float | None, now: float) -> list[tuple[str, str]]:
    """(JSON path, sentence) of a start that is not likely to be meant."""
    if start_at is None:
        return []
    days = (start_at - now) / 86_400
    if days < -STALE_DAYS:
        return [("$.start_at", f"it was {-days:.0f} days ago: the job starts at once; is this schedule a stale one?")]
    if days > FAR_DAYS:
        return [("$.start_at", f"it is {days:.0f} days from now, expected a time within a year")]
    return []
