"""Who asks us to be slower, and what becomes of it: refusals change the limits of a domain group, an egress or a relay.

A refusal of a recipient or of a message is the word of that recipient's domain, where its group has a limit; all else
(the greeting, MAIL, domains without a group) is said to whoever connects: to the egress, or to the relay that has one
way only. A refused recipient is retried by the rules for that; here it is only learned from. Rare things cost something
here, deliveries do not: what was sent and taken is looked at once a second.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bulkmail.errors import BulkmailError, ConnectError, TimedOut
from bulkmail.job.adaptive import LEAST_SAMPLE, Meter, Places, Throttle
from bulkmail.job.notices import Notices
from bulkmail.job.pacing import Pacing
from bulkmail.job.relay import Relay
from bulkmail.job.specs import AdaptiveSpec
from bulkmail.job.stock import Stock, Stocks
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import OWN, Alarm, Limit
from bulkmail.smtp.classify import Meaning, classify, named_wait
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import Transaction

CAP: Final = "adaptive"
# One refusal among so many messages is nobody's limit: a receiver's single mailbox, a passing trouble.
TOLERATED: Final = 0.01
# Fewer in a run may be chance, or one mailbox: a small job with short delays is not to take minutes for them. A server
# that names a time to wait is believed at once.
LEAST_REFUSALS: Final = 20
# Events of one scope: seconds between two that tell of a lower rate, and of a higher one.
DOWN_SECONDS, UP_SECONDS = 5.0, 60.0
ABOUT_RECIPIENTS: Final = frozenset(("RCPT", "DATA", "BDAT", "end of data"))
SLOWER: Final = frozenset(("throttled", "quota", "busy"))

Counts = Callable[[], tuple[int, int]]  # (recipients sent to, and taken) in this run, more or less


@dataclass(slots=True, eq=False)
class Scope:
    """What one limit covers."""

    name: str
    limit: Limit
    counts: Counts
    throttle: Throttle
    sent: Meter
    taken: Meter
    refused: int = 0  # in this run
    lately: int = 0  # since the meters' last sample
    proved: int = 0  # taken when the rate was last looked at
    told_at: float = -1e9
    why: str = ""


@dataclass(slots=True)
class Found:
    """A refusal that says: too much."""

    meaning: Meaning
    reply: Reply
    command: str
    recipients: int = 1


class Slowing:
    """spec: None if nothing is to be learned."""

    def __init__(self, spec: AdaptiveSpec | None, pacing: Pacing, relays: list[Relay], notices: Notices) -> None:
        self._on, self._spec = spec is not None, spec or AdaptiveSpec()
        self._pacing, self._relays, self._notices = pacing, relays, notices
        self._stocks: Stocks = None  # type: ignore[assignment]  # until start()
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._wake)
        self._scopes: dict[Limit, Scope] = {}
        self._members: dict[Limit, list[Stock]] = {}  # the routes of a group of domains
        self._places: dict[str, Places] = {}
        self._lowered: dict[Scope, None] = {}
        self._due = self._loop.time() + LEAST_SAMPLE

    def start(self, stocks: Stocks) -> None:
        """The pools are made."""
        self._stocks = stocks
        if not self._on:
            return
        names = {self._pacing.limit(name): name for name in self._pacing.scopes()}
        for relay in self._relays:
            self._add(names, relay.limit, _counts_of_relay(relay))
            for lane in relay.pool.lanes:
                if lane.egress is not None:
                    self._add(names, lane.pace, _counts_of_egress(self._relays, lane.egress.name))
        for limit in names:
            if limit not in self._scopes:
                self._add(names, limit, functools.partial(self._counts_of_group, limit))
        for stock in stocks:
            self.expect(stock)

    def expect(self, stock: Stock) -> None:
        """A route that is new counts for the group of its domains."""
        if stock.limit is not None:
            self._members.setdefault(stock.limit, []).append(stock)

    def _add(self, names: dict[Limit, str], limit: Limit, counts: Counts) -> None:
        if limit in names and limit not in self._scopes:
            now = self._loop.time()
            meters = Meter(now, 0), Meter(now, 0)
            self._scopes[limit] = Scope(names[limit], limit, counts, Throttle(self._spec), *meters)

    def _counts_of_group(self, limit: Limit) -> tuple[int, int]:
        sent = sum(stock.passed for stock in self._members.get(limit, ()))
        return sent, sent - self._scopes[limit].refused

    # -- what was refused

    def learn(self, relay: Relay, lane: Lane, refused: list[Transaction]) -> None:
        """A batch has ended; `refused`: what is no plain delivery to all."""
        if not self._on:
            return
        for tx in refused:
            self._look(relay, lane, self._stocks.of(tx.tag).limit, tx)
        if (now := self._loop.time()) >= self._due:
            self._note(now)

    def _look(self, relay: Relay, lane: Lane, limit: Limit | None, tx: Transaction) -> None:
        """limit: of the recipients' domains, or None."""
        for found in _refusals(tx):
            if "connections" in found.meaning.rule and lane.sessions:
                self._fewer(relay, lane, len(lane.sessions) - 1, str(found.reply))
            way = relay.limit if lane.egress is None else lane.pace
            about_us = found.command not in ABOUT_RECIPIENTS
            scope = self._scopes.get(way if limit is None or about_us else limit)
            if scope is not None:
                # what one domain asks to wait is not the whole relay's: its recipients' retries wait
                self._slow(scope, found, tx.mail_at, may_pause=limit is not None or about_us)

    def failed(self, relay: Relay, lane: Lane, error: BulkmailError) -> None:
        """A connection could not be opened. Where others are open, it is one too many."""
        if not self._on or not any(session.wire.completed for session in lane.sessions):
            return  # it pauses by itself, ever longer
        refused = isinstance(error, ConnectError | TimedOut) if error.reply is None else error.reply.code < 500
        if refused:
            self._fewer(relay, lane, len(lane.sessions), str(error))

    def _slow(self, scope: Scope, found: Found, left_at: float, may_pause: bool) -> None:
        now, throttle = self._loop.time(), scope.throttle
        sent, taken = scope.counts()
        scope.refused += found.recipients
        scope.lately += found.recipients
        lately = scope.sent.rate(now, sent)
        named = named_wait(found.reply) is not None and may_pause
        if not named and (scope.refused < LEAST_REFUSALS or scope.lately < TOLERATED * lately):
            return
        wait = found.meaning.retry_after if may_pause else None
        stated = scope.limit.caps().get(OWN)
        usual = lately if stated is None else min(stated, lately)
        before = throttle.rate
        if not throttle.refused(now, left_at, usual, stated, scope.taken.rate(now, taken), wait):
            return
        scope.why = str(found.reply)
        self._lowered[scope] = None
        self._apply(scope)
        if throttle.rate != before or throttle.until is not None:
            self._tell(scope, now, DOWN_SECONDS)

    def _apply(self, scope: Scope) -> None:
        """What has been learned, to the limits."""
        throttle = scope.throttle
        self._pacing.cap(scope.name, CAP, rate=throttle.rate)
        if throttle.until is not None:
            self._pacing.cap(scope.name, f"{CAP} pause", rate=0, until=throttle.until)
            self._alarm.ring_in(throttle.until - self._loop.time())

    def _tell(self, scope: Scope, now: float, seconds: float) -> None:
        if now - scope.told_at < seconds:
            return
        scope.told_at = now
        until = scope.throttle.until
        date = time.time() + until - now if until is not None else None
        self._notices.throttled(scope.name, date, scope.why, scope.throttle.rate)

    # -- coming back

    def _note(self, now: float) -> None:
        """Once a second or so, while messages are answered."""
        self._due = now + LEAST_SAMPLE
        for scope in self._scopes.values():
            sent, taken = scope.counts()
            scope.sent.note(now, sent)
            scope.taken.note(now, taken)
            scope.lately = 0
            if scope in self._lowered and taken > scope.proved:
                scope.proved = taken
                self._raise(scope, now)
        for name, places in self._places.items():
            if places.taken(now):
                self._pacing.cap(name, CAP, connections=places.limit if places.limit < places.most else None)

    def _raise(self, scope: Scope, now: float) -> None:
        if not scope.throttle.taken(now):
            return
        self._pacing.cap(scope.name, CAP, rate=scope.throttle.rate)
        if scope.throttle.rate is None:
            del self._lowered[scope]
            self._notices.resumed(scope.name, "messages are taken again at the rate before")
        else:
            self._tell(scope, now, UP_SECONDS)

    def _wake(self) -> None:
        """A pause is over."""
        now = self._loop.time()
        for scope in self._lowered:
            if scope.throttle.over(now):
                self._pacing.cap(scope.name, f"{CAP} pause", rate=None)
                self._notices.resumed(scope.name, "the pause that was asked for is over")
        soonest = min((one.throttle.until for one in self._lowered if one.throttle.until is not None), default=None)
        if soonest is not None:
            self._alarm.ring_in(soonest - now)

    # -- connections

    def _fewer(self, relay: Relay, lane: Lane, working: int, why: str) -> None:
        name = f"relay {relay.name}" if lane.egress is None else f"egress {lane.egress.name}"
        places = self._places.get(name)
        if places is None:
            places = self._places[name] = Places(self._spec, lane.limit)
        if places.refused(self._loop.time(), working):
            self._pacing.cap(name, CAP, connections=places.limit)
            self._notices.throttled(name, None, why, None, connections=places.limit)

    def stop(self) -> None:
        self._alarm.cancel()


def _refusals(tx: Transaction) -> Iterator[Found]:
    """Those of its replies that ask us to be slower: each reply once, for all recipients that it was given to."""
    replies: dict[tuple[int, str, str], Found] = {}
    late = tx.late or ()
    answered = [(reply, "end of data" if place in late else "RCPT") for place, reply in (tx.rejected or {}).items()]
    if tx.reply is not None and tx.reply.code >= 400:
        answered.append((tx.reply, tx.command or getattr(tx.error, "command", None) or "MAIL"))
    for reply, command in answered:
        key = (reply.code, reply.text, command)
        if key in replies:
            replies[key].recipients += 1
        elif (meaning := classify(reply, command)) is not None and _asks(meaning, reply):
            replies[key] = Found(meaning, reply, command)
    return iter(replies.values())


def _asks(meaning: Meaning, reply: Reply) -> bool:
    """Whether it is about how much we send, or a bad name that time heals; not about one mailbox or connection."""
    if meaning.scope in ("recipient", "connection") and meaning.kind != "busy":
        return False
    healing = meaning.kind == "blocked" and meaning.retry_after is not None
    return not meaning.permanent and (meaning.kind in SLOWER or healing)


def _counts_of_relay(relay: Relay) -> Counts:
    def counts() -> tuple[int, int]:
        tally = relay.tally
        return tally.delivered + tally.deferred + tally.failed, tally.delivered

    return counts


def _counts_of_egress(relays: list[Relay], name: str) -> Counts:
    def counts() -> tuple[int, int]:
        tallies = [relay.tally.egress[name] for relay in relays if name in relay.tally.egress]
        taken = sum(tally.delivered for tally in tallies)
        return taken + sum(tally.deferred + tally.failed for tally in tallies), taken

    return counts
