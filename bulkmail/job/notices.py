"""What a run tells of its connections: events, and the figures of relays and egresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bulkmail.errors import BulkmailError
from bulkmail.job.breaker import OPEN
from bulkmail.job.relay import Relay
from bulkmail.job.tally import EgressTally
from bulkmail.pool.lane import Lane
from bulkmail.smtp.session import Session

MAX_WHY = 300  # characters of a reply in an event


class Notices:
    """on_event: the job's listener, or None."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None] | None) -> None:
        self._on_event = on_event
        self._news = False

    def take_news(self) -> bool:
        """Whether figures of connections have changed since this was asked last: whoever reads the journal is to see
        them, also while nothing is sent."""
        news, self._news = self._news, False
        return news

    def note_news(self) -> None:
        """Something else has changed that the journal's readers see."""
        self._news = True

    def event(self, relay: Relay, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        """A pool's event: count it, and pass it on."""
        self._news = True
        for tally in relay.tallies(lane):
            if error is not None and name != "disconnected":
                tally.last_error = str(error)
            lanes = [lane] if isinstance(tally, EgressTally) else lane.pool.lanes
            tally.open = sum(len(one.sessions) for one in lanes)
            tally.connections = max(tally.connections, tally.open)
            if isinstance(tally, EgressTally):
                tally.failures += name == "connect_failed"
                tally.state = "out" if name == "connect_failed" else lane.state
        if name != "resumed":
            tls = session.label.tls if session is not None and session.label is not None else None
            self._tell(name, relay, lane, tls=tls, error=str(error) if error is not None else None)
        elif len(lane.pool.lanes) > 1:
            self._tell(name, relay, lane, scope=_scope(lane), until=None, why="it works again")

    def paused(self, relay: Relay, lane: Lane, seconds: float, why: BulkmailError) -> None:
        """An egress is out for so long; the others go on without it."""
        if len(lane.pool.lanes) > 1:
            self._tell("throttled", relay, lane, scope=_scope(lane), until=time.time() + seconds, why=str(why))

    def throttled(self, scope: str, until: float | None, why: str, rate: float | None = None, **more: Any) -> None:
        """Less may leave than is configured. until: Unix seconds, or None: not known; rate: a second, or None."""
        self._news = True
        rate = round(rate, 3) if rate is not None else None
        self._say("throttled", scope=scope, until=until, why=why[:MAX_WHY], rate=rate, **more)

    def resumed(self, scope: str, why: str) -> None:
        """It may again."""
        self._news = True
        self._say("resumed", scope=scope, until=None, why=why)

    def _say(self, name: str, **about: Any) -> None:
        if self._on_event is not None:
            self._on_event({"ts": time.time(), "event": name} | about)

    def relay_out(self, relay: Relay) -> None:
        """The others go on without it."""
        pause = relay.breaker.pause if relay.breaker.state == OPEN else None
        until = time.time() + pause if pause is not None else None
        why = relay.tally.last_error or "no connection could be opened yet"
        self._tell_of(relay, "throttled", until, str(relay.pool.dead or why))

    def relay_back(self, relay: Relay) -> None:
        self._tell_of(relay, "resumed", None, "it works again")

    def _tell_of(self, relay: Relay, name: str, until: float | None, why: str) -> None:
        if self._on_event is not None:
            about = {"ts": time.time(), "event": name, "relay": relay.name, "egress": None}
            self._on_event(about | {"scope": f"relay {relay.name}", "until": until, "why": why})

    def _tell(self, name: str, relay: Relay, lane: Lane, **more: Any) -> None:
        if self._on_event is not None:
            about = {"ts": time.time(), "event": name, "relay": relay.name, "egress": lane.name}
            self._on_event(about | more)


def _scope(lane: Lane) -> str:
    return f"egress {lane.name}"
