"""Holds a job back outside of its windows and before its start, and has its rate rise: the calendar and the ramp, acted
upon. Where a job has neither, nothing of this costs anything.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bulkmail.job.calendar import Calendar, Hold
from bulkmail.job.leases import entry
from bulkmail.job.notices import Notices
from bulkmail.job.pacing import JOB, Pacing
from bulkmail.job.ramp import Ramp
from bulkmail.job.specs import AdaptiveSpec
from bulkmail.job.tally import Tally
from bulkmail.pool.limits import Alarm
from bulkmail.records import Record

# Seconds after which the clock is looked at again: it may be set, and timers stand still while a machine sleeps.
LOOK_AGAIN = 60.0
OPERATOR: Final = "operator"  # who pauses a job
CALENDAR: Final = "calendar"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Plan(Record):
    """When a job may send, and how fast beside its limits. ramp: as far as earlier runs have come."""

    calendar: Calendar = field(default_factory=Calendar)
    ramp: Ramp | None = None
    adaptive: AdaptiveSpec | None = None


NO_PLAN: Final = Plan()


class Timed(Protocol):
    """Whose time it is."""

    stopping: bool

    @property
    def paused(self) -> bool:
        """By its operator."""

    def pause(self, by: str) -> None:
        """Begin nothing more."""

    def resume(self, by: str) -> None:
        """Go on after pause()."""

    def break_off(self, error: Exception) -> None: ...


class Timing:
    """pacing: whose limit of the job the ramp raises."""

    def __init__(self, owner: Timed, plan: Plan, pacing: Pacing, tally: Tally, notices: Notices) -> None:
        self._owner, self._pacing = owner, pacing
        self._calendar, self._ramp = plan.calendar, plan.ramp
        self._tally, self._notices = tally, notices
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self.look)
        self._hold: Hold | None = None
        self._still_since: float | None = time.time()  # since when nothing could be sent, or None
        self._said: float | None = None
        if plan.ramp is not None:
            tally.kept = self._progress

    def turned(self, by: str) -> None:
        """Somebody has paused the job, or has it go on."""
        self._tally.paused = self._owner.paused
        self._notices.note_news()
        if by == OPERATOR:
            self.look()

    @entry
    def look(self) -> None:
        """See what time it is."""
        if self._owner.stopping or not (self._calendar or self._ramp):
            return
        now, date = self._loop.time(), time.time()
        hold = self._calendar.hold(date)
        if hold != self._hold:
            self._turn(hold)
        if self._ramp is not None:
            self._climb(self._ramp, now, date)
        self._look_later(now, date)

    def _turn(self, hold: Hold | None) -> None:
        before, self._hold = self._hold, hold
        self._tally.waiting = None if hold is None else {"until": hold.until, "why": hold.why}
        if hold is None:
            self._notices.resumed("job", "the window is open")
            self._owner.resume(CALENDAR)
        else:
            self._notices.throttled("job", hold.until, hold.why)
            if before is None:
                self._owner.pause(CALENDAR)

    def _climb(self, ramp: Ramp, now: float, date: float) -> None:
        still = self._hold is not None or self._owner.paused
        if still and self._still_since is None:
            ramp.hold(now)
            self._still_since = date
        elif not still and self._still_since is not None:
            ramp.paused(date - self._still_since)
            ramp.go(now)
            self._still_since = None
        rate = ramp.rate(now)
        if rate != self._said:
            self._said = rate
            self._pacing.cap(JOB, "ramp", rate=rate)

    def _look_later(self, now: float, date: float) -> None:
        waits = []
        if self._calendar:
            change = self._calendar.next_change(date)
            waits += [] if change is None else [min(change - date, LOOK_AGAIN)]
        step = self._ramp.next_step(now) if self._ramp is not None else None
        waits += [] if step is None else [step - now]
        if waits:
            self._alarm.ring_in(min(waits))

    def _progress(self) -> dict[str, Any]:
        """What the journal keeps for the next run."""
        assert self._ramp is not None
        return {"ramp": round(self._ramp.elapsed(self._loop.time()), 3)}

    def stop(self) -> None:
        self._alarm.cancel()
        self._tally.waiting, self._tally.paused = None, False

    def break_off(self, error: Exception) -> None:
        self._owner.break_off(error)
