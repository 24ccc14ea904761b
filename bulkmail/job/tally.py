"""A run's figures, kept as it goes, so that looking at them costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulkmail.job.ledger import STATES, Counts


@dataclass
class EgressTally:
    """What one egress of a relay did in this run.

    connections  the most that were open at one time; open: how many are now
    failures     connections that could not be opened, or that carried nothing
    state        "ok", "out" or "on trial"
    """

    delivered: int = 0
    deferred: int = 0
    failed: int = 0
    connections: int = 0
    open: int = 0
    failures: int = 0
    state: str = "ok"
    last_error: str | None = None


@dataclass
class RelayTally:
    """What one relay did in this run. connections, open: as of an egress; egress: each by its name."""

    delivered: int = 0
    deferred: int = 0
    failed: int = 0
    connections: int = 0
    open: int = 0
    last_error: str | None = None
    egress: dict[str, EgressTally] = field(default_factory=dict)

    def of(self, egress: str) -> EgressTally:
        found = self.egress.get(egress)
        if found is None:
            found = self.egress[egress] = EgressTally()
        return found

    def as_dict(self) -> dict[str, Any]:
        """`egress` only where there is one."""
        own = {name: value for name, value in vars(self).items() if name != "egress"}
        return own | ({"egress": {name: dict(vars(one)) for name, one in self.egress.items()}} if self.egress else {})

    def shown(self, running: bool) -> dict[str, Any]:
        """For people and `--json`: `connections` are those open now while it runs, and then the most at one time."""
        figures = self.as_dict()
        for one in (figures, *figures.get("egress", {}).values()):
            now = one.pop("open")
            one["connections"] = now if running else one["connections"]
        return figures


@dataclass
class Tally:
    """Recipients by state; every move is from one state to another, so the sum changes only by what is added.

    waiting  what the whole job waits for: {"until": Unix seconds or None, "why"}
    kept     more that the journal keeps for the next run
    """

    job: str
    journal: str
    counts: Counts
    state: str = "running"
    relays: dict[str, RelayTally] = field(default_factory=dict)
    sent: int = 0  # delivered in this run, for the rate
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    paused: bool = False
    waiting: dict[str, Any] | None = None
    kept: Callable[[], dict[str, Any]] = dict

    def move(self, before: str, after: str, count: int = 1) -> None:
        if before != after:
            setattr(self.counts, before, getattr(self.counts, before) - count)
            setattr(self.counts, after, getattr(self.counts, after) + count)

    def add(self, state: str, count: int) -> None:
        """Recipients that were not there before."""
        setattr(self.counts, state, getattr(self.counts, state) + count)

    def delivered(self, first: int, again: int, size: int) -> None:
        """So many recipients, of whom `again` had been deferred; size: bytes."""
        counts, every = self.counts, first + again
        counts.pending -= first
        counts.deferred -= again
        counts.delivered += every
        counts.attempts += every
        counts.bytes += size
        self.sent += every

    def end(self, state: str) -> None:
        self.state, self.ended = state, time.monotonic()

    def progress(self) -> dict[str, Any]:
        """What an Advance carries, for whoever reads the journal meanwhile."""
        return {
            "attempts": self.counts.attempts,
            "bytes": self.counts.bytes,
            "relays": {name: relay.as_dict() for name, relay in self.relays.items()},
            **self._standing_still(),
            **self.kept(),
        }

    def _standing_still(self) -> dict[str, Any]:
        """Why nothing is begun, if so."""
        paused: dict[str, Any] = {"paused": True} if self.paused else {}
        return paused | ({"waiting": self.waiting} if self.waiting is not None else {})

    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        counts = self.counts
        seconds = (self.ended or time.monotonic()) - self.started
        return {
            "job": self.job,
            "state": self.state,
            **(self._standing_still() if self.state == "running" else {}),
            "recipients": counts.recipients,
            **{name: getattr(counts, name) for name in STATES},
            "attempts": counts.attempts,
            "bytes": counts.bytes,
            "seconds": round(seconds, 3),
            "messages_per_second": round(self.sent / seconds, 1) if seconds > 0 else 0.0,
            "relays": {name: relay.shown(self.state == "running") for name, relay in self.relays.items()},
            "journal": self.journal,
        }
