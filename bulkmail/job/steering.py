"""What can be done with a running job: pause, go on, stop, change its limits; the same for signals, library and socket.

Runs on the job's loop. Nothing of it outlives the run: a resumed job has the limits of its manifest and is not paused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from bulkmail.errors import BulkmailError
from bulkmail.job.changes import parse_changes
from bulkmail.job.engine import Sending
from bulkmail.job.manifest import Manifest
from bulkmail.job.regulator import limits_of, names_of
from bulkmail.job.results import OnEvent
from bulkmail.job.tally import Tally
from bulkmail.urlparts import listed

LOGGER = logging.getLogger("bulkmail.job")


class Steering:
    """reread: loads the manifest again, in a thread; None where there is no file to read.

    stop: begins nothing more; at once. more: further figures for status().
    """

    def __init__(
        self,
        manifest: Manifest,
        sending: Sending,
        tally: Tally,
        stop: Callable[[], None],
        reread: Callable[[], Manifest] | None,
        on_event: OnEvent | None,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._manifest, self._scheduler, self._tally = manifest, sending.scheduler, tally
        self._regulator, self._limited_by = sending.regulator, sending.limited_by
        self._stop, self._reread, self._on_event, self._more = stop, reread, on_event, more
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[Manifest] | None = None

    # -- orders

    def pause(self) -> None:
        if not (self._scheduler.paused or self._scheduler.stopping):
            self._scheduler.pause()
            self._tell("throttled", "paused by the operator")

    def resume(self) -> None:
        if self._scheduler.paused:
            self._scheduler.resume()
            self._tell("resumed", "resumed by the operator")

    def stop(self) -> None:
        """As the first SIGTERM."""
        self._stop()

    def set(self, limits: dict[str, Any]) -> None:
        """ConfigError: one of them is wrong, and none was changed."""
        changes = parse_changes(limits, names_of(self._manifest))
        self._regulator.check(changes)
        for change in changes:
            self._regulator.change(change)
            LOGGER.info("limit %s is now %s", change.name, change.value if change.value is not None else "none")

    # -- the manifest, read again

    def reload(self) -> None:
        """Take up the limits of the manifest as it is now. One that is broken changes nothing."""
        if self._reread is None or self._reading is not None:
            return
        self._reading = self._loop.run_in_executor(None, self._reread)
        self._reading.add_done_callback(self._take_up)

    def _take_up(self, read: asyncio.Future[Manifest]) -> None:
        self._reading = None
        if read.cancelled():
            return
        try:
            new = read.result()
            self._follow(new)
        except (BulkmailError, OSError) as error:
            LOGGER.warning("%s: the limits stay as they are: %s", self._manifest.path, " ".join(str(error).split()))
        else:
            LOGGER.info("%s: limits were read again", self._manifest.path)

    def _follow(self, new: Manifest) -> None:
        wanted, current = limits_of(new), limits_of(self._manifest)
        now = self._regulator.now()
        self.set({name: value for name, value in wanted.items() if name in current and value != now.get(name)})
        others = sorted(name for name in wanted.keys() ^ current.keys() if {**wanted, **current}[name] is not None)
        if others:
            LOGGER.warning("%s: %s: new or gone, which only the next run takes up", new.path, listed(others))
        if _timing_of(new) != _timing_of(self._manifest):
            LOGGER.warning(
                "%s: start_at, windows, ramp, adaptive and bursts: only the next run takes them up", new.path
            )
        if new.digest != self._manifest.digest:
            LOGGER.warning("%s: message and recipients have changed; this run goes on with the old ones", new.path)

    # -- how it is

    def standing(self) -> dict[str, Any]:
        """state: "running", "paused" or "stopping"; limits: each by its name, null where there is none."""
        scheduler = self._scheduler
        state = "stopping" if scheduler.stopping else "paused" if scheduler.paused else "running"
        return {"state": state, "limits": self._regulator.now()}

    def status(self) -> dict[str, Any]:
        """The summary of this run, with "limits", "limited_by" (see Hindrance) and the webhook's figures."""
        standing, waiting = self.standing(), self._tally.waiting
        state = standing["state"] if waiting is None or standing["state"] != "running" else "waiting"
        limited = self._limited_by() if state == "running" else {"by": state, **(waiting or {})}
        return self._tally.summary() | {"limits": standing["limits"], "limited_by": limited} | self._more()

    def _tell(self, name: str, why: str) -> None:
        if self._on_event is not None:
            self._on_event({"ts": time.time(), "event": name, "scope": "job", "until": None, "why": why})


def _timing_of(manifest: Manifest) -> object:
    """What else `limits` says, besides rates and connections."""
    limits = manifest.limits
    bursts = [limits.burst, *(one.burst for one in limits.domains)]
    return manifest.start_at, limits.windows, limits.ramp, limits.adaptive, bursts
