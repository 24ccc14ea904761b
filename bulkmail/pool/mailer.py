"""`Mailer`: messages in, receipts out, over a pool of connections to one relay; `send`: one message, synchronously."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from bulkmail.egress import Egress, check_ways, is_egress, parse_egresses
from bulkmail.errors import (
    BulkmailError,
    ConnectionLost,
    EnvelopeRefused,
    InDoubt,
    MessageError,
    TimedOut,
)
from bulkmail.pool.domains import parse_pins
from bulkmail.pool.lane import Lane
from bulkmail.pool.limits import Alarm, Limit, grant_all
from bulkmail.pool.outbox import Outbox
from bulkmail.pool.parcel import MAX_TRIES, Parcel, Ticket, part_of, refused_receipt, tear_up
from bulkmail.pool.pool import Pool
from bulkmail.pool.posting import Clerk, Said, Stream, give_receipts, hand_out
from bulkmail.pool.signing import SigningStage
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope, Receipt, ServerInfo
from bulkmail.smtp.outcome import fitting, over_the_limit, receipt
from bulkmail.smtp.session import Session
from bulkmail.smtp.wirelog import LOGGER
from bulkmail.url import parse_endpoint
from bulkmail.wire.transaction import NOT_TAKEN, Transaction

if TYPE_CHECKING:
    from bulkmail.message.dkim import Dkim
    from bulkmail.message.spec import Access

CLOSED = "the Mailer is closed"
# What send_many takes from its input ahead keeps the connections busy and bounds the memory: for each connection as
# many messages as it asks for, FIRST_AHEAD at least and at most what a long line takes (smtp.session: MAX_LONG_WINDOW)
# and some more; and so many bytes in all. No more than that: what waits should be in the processor's cache when it is
# sent.
FIRST_AHEAD = 32
FIRST_IN_ALL = 4096  # of thousands of connections few are busy where the server is fast; one message for each at least
AHEAD = 160
AHEAD_BYTES = 32 << 20
PAUSES = (0.05, 0.2, 1.0, 5.0, 15.0)  # seconds before the next connection after that many failures in a row


class Mailer:
    """Send messages over pooled connections.

    url       the relay (docs/manifest.md lists the options, here keyword arguments)
    defaults  Message fields merged into every message
    egress    the ways to it, in place of proxy=: a list, or an object of them by name; docs/egress.md
    domains   recipients' domains that only some egresses may carry mail to: {"gmail.com": ["a"]}
    dkim      signatures for every message that has none of its own: `Dkim(domain, selector, key_file=)`, or several

    `async with` opens connections as they are needed and ends them with QUIT. send() raises if nobody was accepted;
    send_many() yields a Receipt for every message, in order of completion.
    """

    def __init__(
        self,
        url: str,
        *,
        defaults: dict[str, Any] | None = None,
        egress: Any = None,
        domains: dict[str, Any] | None = None,
        dkim: Any = None,
        **options: Any,
    ) -> None:
        if egress is None and is_egress(options.get("proxy")):
            egress = [options.pop("proxy")]
        self._endpoint = parse_endpoint(url if "://" in url else f"smtp://{url}", **options)
        self._egresses = parse_egresses(egress, "egress") if egress is not None else ()
        check_ways(self._endpoint, self._egresses)
        self._pins = parse_pins(domains or {}, "domains", [way.name for way in self._egresses])
        self._outbox = Outbox(self._pins)
        self._url = url
        self._options = options
        self._defaults = dict(defaults or {})
        self._dkim = _ready_to_sign(dkim)
        self._signing = SigningStage(self._dkim)
        self._unsigned: dict[Ticket, list[str]] = {}  # whose signature is being made: their recipients
        rate = self._endpoint.options.rate
        self._limit = Limit(rate.per_second if rate else None)
        rates = [one for one in (rate, *(way.rate for way in self._egresses)) if one]
        # a transaction is granted whole, so it is no larger than what may leave at once
        self._batch = min([self._endpoint.options.batch, *(Limit(one.per_second).burst for one in rates)])
        # what has to be signed, or has a route of its own, is not plain
        self._clerk = Clerk(self._batch if not self._dkim and not self._pins.rules else 0)
        self._streams: set[Stream] = set()
        self._said: dict[Session | None, Said] = {}
        self._pool: Pool | None = None
        self._alarm: Alarm | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._closed = False
        self._started()
        return self

    async def __aexit__(self, kind: Any, *rest: Any) -> None:
        await self._end(abort=kind is not None)

    def _started(self) -> Pool:
        if self._closed:
            raise ConnectionLost(CLOSED)
        if self._pool is None:
            self._alarm = Alarm(asyncio.get_running_loop(), self._wake)
            self._pool = Pool(self._endpoint, self, paced=self._limit.rate is not None, egresses=self._egresses)
        if self._pool.dead is not None:
            raise self._pool.dead
        return self._pool

    async def close(self) -> None:
        """Begin nothing more, wait for the end of what is being sent, say goodbye. What waited in the queue fails."""
        await self._end(abort=False)

    async def _end(self, *, abort: bool) -> None:
        self._closed = True
        pool, self._pool = self._pool, None
        if self._alarm is not None:
            self._alarm.cancel()
        if pool is None:
            return
        self._outbox.put_back(pool.recall())
        self._fail_queue(ConnectionLost(CLOSED))
        await self._stop_signing(ConnectionLost(CLOSED))
        try:
            if not abort:
                await pool.finished()
        finally:
            await pool.close(abort=abort)

    async def verify(self) -> ServerInfo:
        """Connect, negotiate TLS, log in, say goodbye; by each egress, one after the other. Raises what is wrong.

        Returns what the server offers by the first of them.
        """
        found = [await self._look_at(way) for way in self._egresses or (None,)]
        return found[0]

    async def _look_at(self, way: Egress | None) -> ServerInfo:
        options = dict(self._options)
        if way is not None:
            options |= {"proxy": way.proxy} if way.proxy is not None else {}
            options |= {"local_address": way.local_address} if way.local_address is not None else {}
        async with Connection(self._url, **options) as connection:
            return connection.info

    # -- messages

    async def send(
        self,
        message: Any,
        *,
        envelope: Envelope | None = None,
        to: list[str] | str | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """One message. Raises if nobody was accepted. If it is cancelled, what was not begun is not sent.

        message        Message, EmailMessage, bytes or str
        envelope, to   sender and recipients, or just the recipients, instead of those of the message
        timeout        seconds for all of it: TimedOut if it had not begun by then, InDoubt if it had
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def finish(result: Receipt) -> None:
            if not future.done():
                future.set_result(result)

        ticket = self._submit_plain(message, envelope, finish) if to is None else None
        if ticket is None:
            ticket = self._submit(0, await self._ready(message), envelope, finish, to)
        try:
            if timeout is None:
                result = await future
            else:
                async with asyncio.timeout(timeout):
                    result = await future
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        except TimeoutError:
            raise self._late(ticket, timeout or 0) from None
        if result.error is not None:
            raise result.error
        return result

    async def send_many(self, messages: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Receipt]:
        """A Receipt per message, in order of completion; `.index` is its place in the input, `.error` None or why not.

        messages  Message, EmailMessage, bytes, str, or (Envelope, one of these); at most AHEAD x connections are
                  held, and about AHEAD_BYTES.
        Raises only when the run cannot go on: the login was refused, or the input itself failed.
        """
        each = self._endpoint.options.connections
        first = max(each, min(FIRST_AHEAD * each, FIRST_IN_ALL))
        stream = Stream(asyncio.get_running_loop(), first, AHEAD * each, AHEAD_BYTES)
        self._streams.add(stream)
        feeder = asyncio.ensure_future(self._feed(messages, stream))
        feeder.add_done_callback(stream.fed)
        try:
            while not stream.over:
                await stream.news()
                for receipt in stream:
                    yield receipt
            await feeder
        finally:
            feeder.cancel()
            self._streams.discard(stream)

    async def _feed(self, messages: Iterable[Any] | AsyncIterable[Any], stream: Stream) -> None:
        if not isinstance(messages, AsyncIterable):
            await self._feed_by_batch(iter(messages), stream)
            return
        async for message in messages:
            while stream.full():
                await stream.room()
            left = self._post_plain(iter((message,)), stream)
            if left:
                await self._post_other(left[0], stream)

    async def _feed_by_batch(self, source: Iterator[Any], stream: Stream) -> None:
        left: tuple[Any, ...] | None = None
        while left != ():
            if left is None:
                await asyncio.sleep(0)  # an input that never blocks must not keep the loop from sending
            while stream.full():
                await stream.room()
            left = self._post_plain(source, stream)
            if left:
                await self._post_other(left[0], stream)

    def _post_plain(self, source: Iterator[Any], stream: Stream) -> tuple[Any, ...] | None:
        """As Clerk.take(), and off they go."""
        pool = self._started()
        made: list[Transaction] = []
        try:
            return self._clerk.take(source, stream, made)
        finally:
            self._send_off(pool, made)  # also when the input failed behind them

    def _send_off(self, pool: Pool, made: list[Transaction]) -> None:
        if pool is self._pool and pool.dead is None:
            self._outbox.extend(made)
            pool.wake()
            return
        error = pool.dead if isinstance(pool.dead, BulkmailError) else ConnectionLost(CLOSED)
        for tx in made:
            tear_up(tx.tag, tx.positions, error)

    async def _post_other(self, item: Any, stream: Stream) -> None:
        envelope, message = item if isinstance(item, tuple) else (None, item)
        try:
            ticket = self._submit(stream.index, await self._ready(message), envelope, stream)
        except (MessageError, EnvelopeRefused) as error:
            stream.add(Receipt(index=stream.index, error=error))
        else:
            stream.count(ticket)
        stream.take_in()

    def _access(self) -> Access:
        from bulkmail.message.spec import Access

        options = self._endpoint.options
        return Access(options.allow_files, options.allow_urls)

    async def _ready(self, message: Any) -> Any:
        """With the defaults; what its URLs stand for is fetched in a thread, where nobody else waits for it."""
        from bulkmail.message.message import Message

        if not isinstance(message, Message):
            return message
        if self._defaults:
            message = message.with_defaults(self._defaults)
        if message.has_urls:
            return await asyncio.to_thread(message.fetched, self._access())
        return message

    def _submit_plain(
        self, message: Any, envelope: Envelope | None, finish: Callable[[Receipt], None]
    ) -> Ticket | None:
        pool = self._started()
        tx = self._clerk.one(0, (envelope, message), finish)
        if tx is None:
            return None
        self._send_off(pool, [tx])
        ticket: Ticket = tx.tag
        return ticket

    def _submit(
        self,
        index: int,
        message: Any,
        envelope: Envelope | None,
        finish: Callable[[Receipt], None] | Stream,
        to: list[str] | str | None = None,
    ) -> Ticket:
        pool = self._started()
        parcel = Parcel(message, envelope, to, self._access(), self._dkim)
        groups = self._groups(parcel.addresses)
        ticket = parcel.ticket(index, groups, finish)

        def post(fields: bytes = b"", error: BulkmailError | None = None) -> None:
            self._unsigned.pop(ticket, None)
            if error is None and isinstance(pool.dead, BulkmailError):
                error = pool.dead
            if error is not None:
                tear_up(ticket, parcel.named, error)
            elif ticket.parts:  # else nobody waits for it any more
                for tx in parcel.transactions(ticket, groups, fields):
                    self._outbox.add(tx)
                pool.wake()

        if parcel.specs:
            self._unsigned[ticket] = parcel.named
            self._signing.add(parcel.specs, parcel.body, post)
        else:
            post()
        return ticket

    async def _stop_signing(self, error: BulkmailError) -> None:
        unsigned, self._unsigned = self._unsigned, {}
        for ticket, addresses in unsigned.items():
            tear_up(ticket, addresses, error)
        await self._signing.close()

    def _groups(self, addresses: list[bytes]) -> list[list[int]]:
        """Which recipients go together: of one route and at most `batch`; nothing if that is all of them."""
        routes = self._outbox.routes(addresses)
        if routes is None and len(addresses) <= self._batch:
            return []
        size = self._batch
        return [
            route[at : at + size]
            for route in (routes or [list(range(len(addresses)))])
            for at in range(0, len(route), size)
        ]

    def _withdraw(self, ticket: Ticket) -> int:
        """Nobody waits for it any more: what of it was not begun is not sent. How many transactions that were."""
        if ticket in self._unsigned:
            unsent, ticket.parts = ticket.parts, 0
            return unsent
        return self._outbox.drop(lambda tx: tx.tag is ticket)

    def _late(self, ticket: Ticket, timeout: float) -> BulkmailError:
        late = TimedOut(f"the message was not sent within {timeout:g} s", phase="command")
        parts = ticket.parts
        if self._withdraw(ticket) == parts and not ticket.accepted:
            return late
        doubt = InDoubt(f"{late}: it is under way", command="end of data")
        doubt.__cause__ = late
        return doubt

    # -- the pool's Source

    def backlog(self, lane: Lane) -> int:
        queues = self._outbox.open_to(lane.name)
        if not queues:
            return 0
        now, first = asyncio.get_running_loop().time(), len(queues[0][0].rcpts)
        room = min(self._limit.room(now), lane.pace.room(now))
        if room < first:
            self._wait_for(lane, first, now)  # there may be no session that would ask
            return 0
        return int(min(sum(map(len, queues)), room))

    def take(self, lane: Lane, room: int) -> list[Transaction]:
        taken: list[Transaction] = []
        now = asyncio.get_running_loop().time()
        for queue in self._outbox.turn(lane.name):
            if self._limit.rate is None and lane.pace.rate is None:
                hand_out(queue, taken, room)
            while queue and len(taken) < room:
                wanted = len(queue[0].rcpts)
                if not grant_all((self._limit, lane.pace), wanted, now):
                    self._wait_for(lane, wanted, now)
                    return taken
                taken.append(queue.popleft())
        for stream in self._streams:
            stream.widen(2 * room)  # what is taken now, and what comes while that is sent
        return taken

    def _wait_for(self, lane: Lane, count: int, now: float) -> None:
        if self._alarm is not None:
            self._alarm.ring_in(max(self._limit.wait(now, count), lane.pace.wait(now, count)))

    def _wake(self) -> None:
        if self._pool is not None:
            self._pool.wake()

    def settle(self, lane: Lane, finished: list[Transaction]) -> None:
        if not LOGGER.isEnabledFor(logging.INFO):
            finished = give_receipts(finished, self._said)
        again: list[Transaction] = []
        for tx in finished:
            ticket, addresses = tx.tag, tx.positions
            left = tx.at - bool(tx.mail_at)  # one that was never begun has not been tried
            alive = lane.pool is self._pool and lane.pool.dead is None
            elsewhere = over_the_limit(tx) if alive else []
            if elsewhere:
                again += self._regroup(tx, elsewhere)
            if tx.state == NOT_TAKEN and left and alive:
                again.append(part_of(tx, list(range(len(tx.rcpts))), left))
            elif len(elsewhere) < len(addresses):
                ticket.add(receipt(tx, addresses, frozenset(elsewhere)))
        self._outbox.put_back(again)

    def _regroup(self, tx: Transaction, places: list[int]) -> list[Transaction]:
        """Further transactions for the recipients that did not fit into this one. Smaller ones are made from now on."""
        self._batch = min(self._batch, fitting(tx))
        self._clerk.batch = min(self._clerk.batch, self._batch)  # 0 stays: nothing is plain
        groups = [places[at : at + self._batch] for at in range(0, len(places), self._batch)]
        tx.tag.parts += len(groups) - (len(places) == len(tx.rcpts))
        return [part_of(tx, group, tx.at) for group in groups]

    def failed(self, lane: Lane, error: BulkmailError, failures: int) -> float | None:
        pool = lane.pool
        hopeless = pool.hopeless()
        # one connection that was lost may be chance; nothing that answers is not worth waiting for
        if hopeless and not pool.connected:
            self._fail_queue(pool.failure(error))
        elif failures >= MAX_TRIES or not isinstance(error, ConnectionLost):
            self._fail_stranded(pool, error)
        return None if hopeless else PAUSES[min(failures, len(PAUSES)) - 1]

    def event(self, lane: Lane, name: str, session: Session | None, error: BaseException | None) -> None:
        if name == "connected" and session is not None:
            self._said[session] = Said(session.label)
        elif name == "disconnected":
            self._said.pop(session, None)
        # a Mailer's user is told by receipts
        if isinstance(lane.pool.dead, BulkmailError) and not lane.pool.connected:
            self._fail_queue(lane.pool.dead)

    def _fail_stranded(self, pool: Pool, error: BulkmailError) -> None:
        """What no egress that works, or has a chance to, may carry."""
        for route in self._outbox.stranded([lane.name for lane in pool.lanes if not lane.out or lane.hoping()]):
            lanes = [lane for lane in pool.lanes if self._pins.allows(route, lane.name)]
            self._fail_queue(pool.failure(error, lanes), route)

    def _fail_queue(self, error: BulkmailError, route: str | None = None) -> None:
        for tx in self._outbox.empty(route):
            tx.tag.add(refused_receipt(tx.positions, error))


def _ready_to_sign(dkim: Any) -> tuple[Dkim, ...]:
    """raises  MessageError  for a key that cannot be used"""
    if dkim is None:
        return ()
    from bulkmail.message.dkim import dkim_specs
    from bulkmail.message.dkim_sign import signer_of

    specs = dkim_specs(dkim)
    signer_of(specs)
    return specs


def send(
    message: Any, *, to: list[str] | str | None = None, via: str, envelope: Envelope | None = None, **options: Any
) -> Receipt:
    """Send one message and wait for the end of it (not from a running event loop: use Mailer there).

    to    recipients instead of those of the message; via: the relay's URL
    """
    from bulkmail.net.loop import run

    async def go() -> Receipt:
        async with Mailer(via, **{"connections": 1, **options}) as mailer:
            return await mailer.send(message, envelope=envelope, to=to)

    return run(go())
