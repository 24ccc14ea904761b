"""What an ending that is not a plain delivery leads to: failed, tried again later, in doubt, or not counted yet.

A 5xx of a relay that has never taken a message may be about us (a wrong login, a blocked address), so such refusals are
held back until the relay proves itself by taking one. If EVERYONE of them are refused, the relay is
given up, and they are sent by another or wait for the next run; if the list ends before that, they are failures after
all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bulkmail.errors import BulkmailError, MessageError
from bulkmail.job import ledger
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.ledger import NewChunk, Trouble
from bulkmail.job.relay import Relay
from bulkmail.job.retry import Retries
from bulkmail.job.settle import Work
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.pool.lane import Lane
from bulkmail.smtp.classify import classify
from bulkmail.smtp.outcome import in_doubt, refusal
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import DONE, NOT_TAKEN, Transaction

EVERYONE = 100  # refused one after the other with none taken before: the relay refuses everyone
MOVE_RECIPIENTS = 512  # deferred recipients are moved to retry chunks when so many wait,
MOVE_SECONDS = 1.0  # or after this time: chunks of a handful would make the ledger large
MAX_REPLY_SHOWN = 300  # characters of a reply in an event
# Said to whoever connects, whatever the recipient. A block is not among them: a relay that passes on what it heard from
# the recipient's server names ours or its own, and others of its recipients are taken.
REFUSE_US = frozenset({"auth", "tls_required", "relay_denied"})


@dataclass(slots=True)
class Ending:
    """How it ended for one recipient: the reply that decided, what it answered, and the same in words."""

    work: Work
    place: int
    address: str
    tx: Transaction
    relay: Relay
    lane: Lane
    reply: Reply | None
    command: str | None
    why: str


class _Deferred(NamedTuple):
    """Who waits to be moved to a retry chunk: for how long from then on, and by which route."""

    work: Work
    place: int
    delay: float
    route: str


class Outcomes:
    """retries: who is tried again, and when; rules: told of every ending that is no delivery.

    unproved: by relay, what it refused before it ever took a message
    """

    MAX_TRIES: Final = 5  # a transaction that was not taken so often is deferred: it may be what ends the connections

    def __init__(
        self,
        tally: Tally,
        retries: Retries,
        rules: StopRules,
        details: DetailBuffer,
        message_id: Callable[[int, str], str],
        on_event: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.tally, self.on_event = tally, on_event
        self._details, self._message_id = details, message_id
        self._retries, self._rules = retries, rules
        self._offset = details.offset  # Unix time minus the loop's
        self._hold = min(MOVE_SECONDS, retries.shortest / 10)
        self._troubles: list[Trouble] = []
        self._deferred: list[_Deferred] = []
        self._released: list[tuple[Work, int]] = []
        self._moved_at = 0.0
        # When the first attempt of those in a retry chunk was, by the first row number in it: Unix seconds, 100 bytes
        # for each such chunk of this run.
        self._first_tried: dict[int, float] = {}
        self.unproved: dict[Relay, list[tuple[Ending, str, bool]]] = {}

    # -- endings

    @staticmethod
    def sender_refused(tx: Transaction) -> bool:
        """The whole transaction was refused for what we are, not for whom it is to."""
        reply = tx.reply
        if tx.rejected:
            reply = next(iter(tx.rejected.values())) if len(tx.rejected) == len(tx.rcpts) else None
        if tx.state != DONE or reply is None or reply.code < 500:
            return False
        command = "RCPT" if tx.rejected else tx.command
        if command == "MAIL":
            return True
        meaning = classify(reply, command)
        return meaning is not None and meaning.kind in REFUSE_US

    @staticmethod
    def refusing_reply(tx: Transaction) -> Reply:
        """The reply for which sender_refused() is true."""
        reply = next(iter(tx.rejected.values())) if tx.rejected else tx.reply
        assert reply is not None
        return reply

    def settle(
        self, tx: Transaction, relay: Relay, lane: Lane, dirty: set[Work], elsewhere: Collection[int] = ()
    ) -> None:
        """Each recipient of a transaction that is not a plain delivery to all of them.

        elsewhere: those who are sent to by another transaction
        """
        work: Work = tx.tag
        dirty.add(work)
        why = refusal(tx)
        rejected = tx.rejected or {}
        if why is None and tx.judged:
            self.tally.counts.bytes += tx.body_size
            self.tally.sent += len(tx.rcpts) - len(rejected)
        for index, place in enumerate([tx.at] if tx.positions is None else tx.positions):
            if index in elsewhere:
                continue
            one = Ending(work, place, tx.rcpts[index].decode(), tx, relay, lane, tx.reply, tx.command, str(why or ""))
            if index in rejected:
                one.reply, one.why = rejected[index], str(rejected[index])
                one.command = "end of data" if index in (tx.late or ()) else "RCPT"
            if in_doubt(tx, index):
                one.reply = None
                self._record(one, ledger.IN_DOUBT, "in_doubt")
            elif index not in rejected and (why is None or index < tx.decided):
                self._delivered(one)
            else:
                if tx.state == NOT_TAKEN:
                    one.reply = None
                self._refused(one)

    def _delivered(self, one: Ending) -> None:
        """To one of several, while others of the same transaction were rejected."""
        tx, work = one.tx, one.work
        work.settle(one.place, ledger.DELIVERED)
        self._count(one, "delivered")
        raw = str(one.reply).encode()
        code = one.reply.code if one.reply else 0
        self._details.add(
            work.no,
            one.place,
            work.attempt + 1,
            *one.relay.ids(one.lane),
            tx.mail_at,
            tx.done_at,
            code,
            raw,
            ledger.DELIVERED,
        )
        self._show("delivered", one)

    def _refused(self, one: Ending) -> None:
        kind, permanent = _what(one)
        firm = permanent or (one.reply is not None and one.reply.code >= 500)
        if firm and not one.relay.accepted:
            self._hold_back(one, kind, permanent)
        else:
            self._decide(one, kind, permanent)

    def _decide(self, one: Ending, kind: str, permanent: bool, was_under_way: bool = True) -> None:
        """Deferred if another attempt may be made, else failed."""
        delay = None if permanent else self._delay(one, kind)
        if delay is None:
            self._record(one, ledger.FAILED, kind, was_under_way)
            return
        self._record(one, ledger.DEFERRED, kind, was_under_way)
        route = self._retries.route(one.work.chunk.route, one.relay.name)
        self._deferred.append(_Deferred(one.work, one.place, delay, route))

    def _delay(self, one: Ending, kind: str) -> float | None:
        now = one.tx.done_at + self._offset
        since = self._since(one.work, now)
        return self._retries.wait(kind, one.reply, one.command, one.work.attempt, since, now)

    def _since(self, work: Work, now: float) -> float:
        """When those in this chunk were first tried. Of chunks that an earlier run made, the delays tell."""
        if not work.attempt:
            return now
        known = self._first_tried.get(work.numbers[0])
        return known if known is not None else (work.chunk.not_before or now) - self._retries.nominal(work.attempt)

    def fail(self, work: Work, place: int, address: str, error: MessageError, dirty: set[Work]) -> None:
        """A recipient whose message cannot be composed: nothing was sent."""
        dirty.add(work)
        work.settle(place, ledger.FAILED)
        now, number = time.time(), work.numbers[place]
        self.tally.move("deferred" if work.attempt else "pending", "failed")
        self._troubles.append(
            Trouble(address, number, work.no, place, work.attempt, ledger.FAILED, "message", reply=str(error), time=now)
        )
        if self.on_event:
            self.on_event(unsent_event("failed", now, address, work.attempt, str(error)))
        self._rules.note("failed", "message", sent=False)

    def _record(self, one: Ending, outcome: int, kind: str, was_under_way: bool = True) -> None:
        state = ledger.STATE_NAMES[outcome]
        one.work.settle(one.place, outcome, was_under_way)
        self._count(one, state)
        self._troubles.append(self._trouble(one, outcome, kind))
        self._rules.note(state, kind)
        self._show(state, one)

    def _trouble(self, one: Ending, outcome: int, kind: str) -> Trouble:
        reply, (relay, egress) = one.reply, one.relay.ids(one.lane)
        return Trouble(
            recipient=one.address,
            number=one.work.numbers[one.place],
            chunk=one.work.no,
            position=one.place,
            attempt=one.work.attempt + 1,
            outcome=outcome,
            class_=kind,
            code=reply.code if reply else None,
            enhanced=reply.enhanced if reply else None,
            reply=reply.text if reply else one.why,
            relay=relay,
            egress=egress,
            time=one.tx.done_at + self._offset,
        )

    def _count(self, one: Ending, state: str) -> None:
        self.tally.move("deferred" if one.work.attempt else "pending", state)
        self.tally.counts.attempts += 1
        if state != "in_doubt":
            for tally in one.relay.tallies(one.lane):
                setattr(tally, state, getattr(tally, state) + 1)

    # -- refusals of a relay that has taken nothing yet

    def _hold_back(self, one: Ending, kind: str, permanent: bool) -> None:
        one.work.settle(one.place, ledger.DEFERRED)
        one.relay.tally.last_error = one.why
        self.unproved.setdefault(one.relay, []).append((one, kind, permanent))

    def refused_by(self, relay: Relay) -> int:
        """How many refusals of this relay are held back."""
        return len(self.unproved.get(relay, ()))

    def proved(self, relay: Relay) -> set[Work]:
        """What it refused and was held back counts for those recipients. Returns the chunks touched."""
        touched = set()
        for one, kind, permanent in self.unproved.pop(relay, ()):
            self._decide(one, kind, permanent, was_under_way=False)
            touched.add(one.work)
        return touched

    def release_unproved(self, relay: Relay, dirty: set[Work]) -> None:
        """It is given up, or the run stops: they are sent by another relay or by the next run."""
        for one, *_ in self.unproved.pop(relay, ()):
            self._released.append((one.work, one.place))
            dirty.add(one.work)

    # -- what a commit takes along

    def release(self, work: Work, places: list[int], dirty: set[Work]) -> None:
        """Claimed and not sent: to be sent by the next run."""
        dirty.add(work)
        for place in places:
            work.settle(place, ledger.DEFERRED)
            self._released.append((work, place))

    def take_troubles(self) -> list[Trouble]:
        taken, self._troubles = self._troubles, []
        return taken

    @property
    def has_retries(self) -> bool:
        return bool(self._deferred or self._released)

    def take_retries(self, now: float, at_once: bool) -> tuple[list[NewChunk], set[Work]]:
        """Retry chunks for what was deferred, once enough wait or long enough; the chunks that they leave."""
        due = at_once or len(self._deferred) >= MOVE_RECIPIENTS or now - self._moved_at >= self._hold
        if not self._deferred and not self._released:
            self._moved_at = now if due else self._moved_at
            return [], set()
        moves = _Moves()
        touched: set[Work] = set()
        clock, spread = now + self._offset, self._retries.spread()  # as Leases has it: a clock that does not jump
        if due:
            for one in self._deferred:
                not_before = clock + one.delay * spread
                moves.add(one.work, one.place, one.route, one.work.attempt + 1, not_before)
                self._leave(one.work, one.place, touched)
            self._deferred.clear()
            self._moved_at = now
        for work, place in self._released:
            moves.add(work, place, work.chunk.route, work.attempt, 0.0)
            self._leave(work, place, touched)
        self._released.clear()
        self._first_tried.update((first, self._since(origin, clock)) for first, origin in moves.first_rows())
        return moves.chunks(), touched

    @staticmethod
    def _leave(work: Work, place: int, touched: set[Work]) -> None:
        work.settle(place, ledger.MOVED, was_under_way=False)
        touched.add(work)

    # -- events

    def show_delivered(self, transactions: list[Transaction], relay: Relay, lane: Lane) -> None:
        for tx in transactions:
            if tx.state == DONE and tx.rejected is None and tx.reply is not None and tx.judged and tx.reply.code < 300:
                for place, rcpt in zip([tx.at] if tx.positions is None else tx.positions, tx.rcpts, strict=True):
                    one = Ending(tx.tag, place, rcpt.decode(), tx, relay, lane, tx.reply, tx.command, "")
                    self._show("delivered", one)

    def _show(self, event: str, one: Ending) -> None:
        if self.on_event is None:
            return
        reply, tx = one.reply, one.tx
        self.on_event(
            {
                "ts": tx.done_at + self._offset,
                "event": event,
                "recipient": one.address,
                "attempt": one.work.attempt + 1,
                "relay": one.relay.name,
                "egress": one.lane.name,
                "code": reply.code if reply else None,
                "enhanced": reply.enhanced if reply else None,
                "reply": (reply.text if reply else one.why)[:MAX_REPLY_SHOWN],
                "message_id": self._message_id(one.work.numbers[one.place], one.address),
                "ms": round((tx.done_at - tx.mail_at) * 1000, 3),
            }
        )


def _what(one: Ending) -> tuple[str, bool]:
    """(the kind for reports, whether it is failed at once) of one that was refused."""
    if one.reply is None:
        error = one.tx.error
        ours = error.kind if isinstance(error, BulkmailError) else None
        return (ours or "unsupported", True) if one.tx.state == DONE else ("connection", False)
    meaning = classify(one.reply, one.command)
    if meaning is None:
        return "protocol", False
    # a 4xx that says it is for good (Yahoo has one) is about us: nobody is burnt for it
    return meaning.kind, meaning.permanent and one.reply.code >= 500


def unsent_event(event: str, ts: float, recipient: str, attempt: int, why: str) -> dict[str, Any]:
    """The event of a recipient for whom no relay was asked."""
    unknown = dict.fromkeys(("relay", "egress", "code", "enhanced"))
    what = {"ts": ts, "event": event, "recipient": recipient, "attempt": attempt}
    return what | unknown | {"reply": why[:MAX_REPLY_SHOWN], "message_id": None, "ms": None}


class _Moves:
    """Recipients on their way to new chunks: one for each route, attempt, time and chunk that they leave."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int, float, Work], list[tuple[int, int]]] = {}

    def add(self, work: Work, place: int, route: str, attempt: int, not_before: float) -> None:
        rows = self._groups.setdefault((route, attempt, not_before, work), [])
        rows.append((work.numbers[place], work.offsets[place]))

    def first_rows(self) -> list[tuple[int, Work]]:
        """(the first row number of each new chunk, the chunk that its recipients leave)."""
        return [(min(rows)[0], work) for (*_, work), rows in self._groups.items()]

    def chunks(self) -> list[NewChunk]:
        """Their recipients in the order of the source."""
        made = []
        for (route, attempt, not_before, work), rows in self._groups.items():
            rows.sort()
            packed = ledger.pack([number for number, _ in rows], [offset for _, offset in rows])
            made.append(NewChunk(route, packed, len(rows), attempt, not_before, work.no))
        return made
