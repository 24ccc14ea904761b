"""What a message goes through, one piece after the other, without a server: bytes in, bytes out.

A piece is a generator function of how many messages it is to handle: it prepares, yields, works, yields, and looks at
what came of it. Only what lies between the two yields is counted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bulkmail.job.cutting import Cutter
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import DELIVERED, Advance, Chunk, pack
from bulkmail.job.personal import Addresses
from bulkmail.job.recipients import Source
from bulkmail.job.rows import RowParser
from bulkmail.job.settle import Work, personal_transactions, settle_delivered
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec
from bulkmail.net.hub import hub_of
from bulkmail.net.stream import Stream
from bulkmail.smtp.session import Session, Turn
from bulkmail.wire.client import Client
from bulkmail.wire.reply import ReplyReader
from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ServerCounts, ServerSettings
from bulkmail.wire.transaction import DONE, Transaction

Steps = Callable[[int], Iterator[None]]

BATCH = 100  # messages of one turn of the loop, one commit: what a job at full speed has
SHARED = 100  # recipients of a shared message in one transaction
WINDOW = 16  # transactions that a session has ahead
SENDER = b"news@example.test"
OK = b"250 2.1.0 Ok\r\n"
QUEUED = b"250 2.0.0 Ok: queued as 4cXyZ1234567890\r\n"
GO = b"354 End data with <CR><LF>.<CR><LF>\r\n"
BODY = b"Subject: x\r\n\r\n" + b"a line of text that is as long as most of them are\r\n" * 40 + b".\r\n"
DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
PROSE = "The quick brown fox jumps over the lazy dog, and a newsletter goes on for quite a while.\n"


def address(number: int) -> bytes:
    return b"subscriber-%d@example.test" % number


def transactions(count: int) -> list[Transaction]:
    return [Transaction(SENDER, [address(number)], BODY, 0, None, number) for number in range(count)]


def all_delivered(done: list[Transaction], count: int) -> bool:
    return len(done) == count and all(tx.state == DONE and tx.judged for tx in done)


# -- the wire


def replies(count: int) -> Iterator[None]:
    """Cut out of the stream and made into objects."""
    reader, stream = ReplyReader(), QUEUED * count
    yield
    found = reader.replies(stream)
    yield
    assert len(found) == count


def talk(client: Client, batch: list[Transaction], envelope: bytes, turn: bytes) -> None:
    """A steady connection: the body, its dot and the next envelope are written, one read brings all their replies."""
    for tx in batch:
        client.push(tx, 1.0)
    client.take_output()
    client.feed(envelope, 2.0)
    for _ in repeat(None, len(batch) - 1):
        client.take_output()
        client.feed(turn, 3.0)
    client.take_output()
    client.feed(QUEUED, 4.0)


def client_by_data(count: int) -> Iterator[None]:
    client, batch = Client(True), transactions(count)
    yield
    talk(client, batch, OK + OK + GO, QUEUED + OK + OK + GO)
    yield
    assert all_delivered(client.done, count)


def client_by_bdat(count: int) -> Iterator[None]:
    """As many ahead as a window takes; their replies come together."""
    client, batch = Client(True, None, True), transactions(count)
    first, other = OK + OK + QUEUED, OK + OK + OK + QUEUED  # a RSET goes before each that is sent ahead
    answer = first + other * (WINDOW - 1)
    yield
    for start in range(0, count, WINDOW):
        for tx in batch[start : start + WINDOW]:
            client.push(tx, 1.0)
        client.take_output()
        client.feed(answer, 2.0)
    yield
    assert all_delivered(client.done, count)


def client_shared(count: int) -> Iterator[None]:
    """One message to many. What each recipient adds is a hundredth of it."""
    client, people = Client(True), [address(number) for number in range(SHARED)]
    batch = [Transaction(SENDER, people, BODY) for _ in range(count)]
    envelope = OK + OK * SHARED + GO
    turn = QUEUED + envelope
    yield
    talk(client, batch, envelope, turn)
    yield
    assert all_delivered(client.done, count)


class StillLoop(asyncio.SelectorEventLoop):
    """Never runs: a piece calls what the hub wants called when its descriptor is ready. Its clock is C, as uvloop's."""

    time = staticmethod(time.monotonic)  # type: ignore[assignment]

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self.ready = callback


class Nowhere:
    """A transport that forgets; it passes for one with TLS, so that the session writes through it."""

    def get_extra_info(self, name: str) -> object:
        return self

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def writelines(self, pieces: list[Any]) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...


def greeted(one: Session, count: int) -> list[list[Transaction]]:
    """Begin `one`, which has its greeting, with one message more than are written; what to push later, one by one."""
    one.wire.replies.clear()
    one.wire.pipelining, one.left = True, count
    batch = transactions(count)
    one.push(batch[:3])
    return [[tx] for tx in batch[3:]]


def session(count: int) -> Iterator[None]:
    """The codec, its window and its deadline, over a transport of somebody else's."""
    loop = StillLoop()
    one = Session(loop, Turn(loop, lambda: None, 1.0), 60, 60)
    one.connection_made(Nowhere())  # type: ignore[arg-type]
    one.data_received(b"220 mx.example.test\r\n")
    pushes, turn = greeted(one, count), QUEUED + OK + OK + GO
    one.data_received(OK + OK + GO)
    yield
    for push in pushes:
        one.data_received(turn)
        one.push(push)
    yield
    one.data_received(turn)
    one.data_received(turn)
    one.data_received(QUEUED)
    assert all_delivered(one.turn.take_done(), count)
    loop.close()


def stream(count: int) -> Iterator[None]:
    """The same over a socket in a hub, with nothing of an event loop's own: a send, an epoll and a read each."""
    loop, (ours, theirs) = StillLoop(), socket.socketpair()
    ours.setblocking(False)
    one = Session(loop, Turn(loop, lambda: None, 1.0), 60, 60)
    hub = hub_of(loop)
    assert hub is not None
    Stream(hub, ours, one)
    room, turn = bytearray(1 << 16), QUEUED + OK + OK + GO

    def say(what: bytes) -> None:
        theirs.send(what)
        loop.ready()

    say(b"220 mx.example.test\r\n")
    pushes = greeted(one, count)
    theirs.recv_into(room)
    say(OK + OK + GO)
    yield
    for push in pushes:
        theirs.recv_into(room)
        say(turn)
        one.push(push)
    yield
    for what in (turn, turn, QUEUED):
        theirs.recv_into(room)
        say(what)
    assert all_delivered(one.turn.take_done(), count)
    ours.close()
    theirs.close()
    loop.close()


def server(count: int) -> Iterator[None]:
    """The sink's side, for messages that nobody keeps."""
    counts = ServerCounts()
    codec = ServerCodec(ServerSettings(envelopes=False), counts)
    codec.feed(b"EHLO client.test\r\n")
    message = b"MAIL FROM:<news@example.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n" + BODY
    yield
    for _ in repeat(None, count):
        codec.feed(message)
        codec.output()
    yield
    assert counts.messages == count


# -- from the list to transactions


def rows_of(count: int) -> bytes:
    return b"".join(
        b'{"email": "user%d@example.test", "name": "Reader %d", "id": "r%07d"}\n' % ((n,) * 3) for n in range(count)
    )


def rows_checked(count: int) -> Iterator[None]:
    """The one pass over the list."""
    parser, data = RowParser("jsonl", required=("id", "name"), keep=False), rows_of(count)
    batch = SimpleNamespace(numbers=[], offsets=[], addresses=[], rows=[], problems=[], failed=[], cut=0)
    yield
    parser.take(data, 0, 0, True, batch, count + 1)
    yield
    assert len(batch.addresses) == count and not batch.problems


def rows_cut(count: int) -> Iterator[None]:
    """The same where nothing is asked about a recipient: straight into chunks."""
    parser, data, cutter = RowParser("jsonl", keep=False), rows_of(count), Cutter(1000)
    batch = SimpleNamespace(numbers=[], offsets=[], addresses=[], rows=[], problems=[], failed=[], cut=0)
    yield
    parser.take(data, 0, 0, True, batch, count + 1, cutter)
    yield
    assert batch.cut == count and not batch.addresses


def addresses(count: int) -> Iterator[None]:
    """Of a chunk's rows, for a message that is the same for all."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "list.jsonl", rows_of(count)
        path.write_bytes(data)
        offsets = [0, *accumulate(len(line) for line in data.splitlines(keepends=True))][:count]
        work, found = Work(Chunk(1, "*", pack(range(1, count + 1), offsets), count)), list[bytes]()
        with Source(path) as source:
            window = source.window()
            assert window is not None
            reader = Addresses(source, window)
            yield
            for _ in range(0, count, SHARED):
                found = reader.read(work, work.claim(SHARED))
            yield
        assert found[-1] == b"user%d@example.test" % (count - 1)


def rows_read(count: int) -> Iterator[None]:
    """Rows of a chunk, read again for their messages."""
    parser, data, rows = RowParser("jsonl", required=("id", "name")), rows_of(count), []
    offsets = [0, *accumulate(len(line) for line in data.splitlines(keepends=True))][:count]
    yield
    parser.parse_at(data, 0, offsets, 0, True, rows)
    yield
    assert len(rows) == count


def compose(size: int) -> Steps:
    """A personalised message of about `size` bytes, with a value for each 700 of them."""
    html = "".join(f"<p>{PROSE}{mark}</p>\n" for mark in ["{{ name }}" + PROSE * 6] * (size // 700))
    spec = MessageSpec(
        from_="News <news@example.com>", to="{{ name }} <{{ email }}>", subject="Hello {{ name }}", html=html
    )
    compiled = compile_message(spec, job="counts")

    def piece(count: int) -> Iterator[None]:
        rows = [{"email": f"user{n}@example.net", "name": f"Reader {n}"} for n in range(count)]
        numbers, made = list(range(1, count + 1)), []
        yield
        for at in range(0, count, BATCH):
            made = compiled.compose(rows[at : at + BATCH], numbers[at : at + BATCH], DATE)
        yield
        assert all(size * 0.7 < len(body) < size * 1.5 for _, _, body in made)

    return piece


def work_of(count: int) -> Work:
    return Work(Chunk(1, "*", pack(range(1, count + 1), range(0, count * 90, 90)), count))


def envelopes(count: int) -> Iterator[None]:
    """Claimed, and made into transactions."""
    work, composed = work_of(count), [(SENDER, address(n), BODY) for n in range(count)]
    made: list[Transaction] = []
    yield
    for at in range(0, count, BATCH):
        made, _ = personal_transactions(composed[at : at + BATCH], work, work.claim(BATCH), False)
    yield
    assert len(made) == BATCH and work.waiting() == 0


# -- from outcomes to the journal


def delivered(count: int) -> tuple[list[Transaction], Work]:
    work, client = work_of(count), Client(True)
    composed = [(SENDER, address(n), BODY) for n in range(count)]
    batch, _ = personal_transactions(composed, work, work.claim(count), False)
    for tx in batch:
        client.push(tx, 1.0)
        client.feed(OK + OK + GO, 1.0)
        client.take_output()
        client.feed(QUEUED, 2.0)
    return client.done, work


def settle(count: int) -> Iterator[None]:
    """Outcomes and details of what was delivered."""
    finished, _ = delivered(count)
    details, dirty, rest = DetailBuffer(), set(), []
    yield
    for at in range(0, count, BATCH):
        rest += settle_delivered(finished[at : at + BATCH], details, 1, 0, dirty)[0]
        details.flush()
    yield
    assert not rest and len(dirty) == 1


def details(count: int) -> Iterator[None]:
    """Kept and encoded, without the transactions around it."""
    buffer, texts = DetailBuffer(), [b"250 2.0.0 Ok: queued as %011X\r\n" % n for n in range(count)]
    places, sections = list(range(count)), 0
    yield
    for at in range(0, count, BATCH):
        for place in places[at : at + BATCH]:
            buffer.add(1, place, 1, 1, 1, 10.0, 10.05, 250, texts[place], DELIVERED)
        sections += len(buffer.flush())
    yield
    assert sections == count // BATCH


class Pin:
    path, format, size, mtime_ns, digest = "/lists/news.jsonl", "jsonl", 1, 1, "d"


def advance(count: int) -> Iterator[None]:
    """Commits of the writer's thread, without what fills them."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder, "news.journal"), job="news", manifest_digest="m", pin=Pin)
        with journal.fill() as filler:
            filler.add_chunk("*", pack(range(1, count + 1), range(0, count * 90, 90)), count)
        (chunk,) = journal.lease(1, 1.0)
        batches = list(advances(chunk, count))
        yield
        for batch in batches:
            journal.advance(batch)
        yield
        assert journal.counts().delivered == count
        journal.close()


def advances(chunk: Chunk, count: int) -> Iterator[Advance]:
    """One to claim the first batch, then one for each batch that is delivered while the next one is claimed."""
    buffer = DetailBuffer()
    for serial, end in enumerate(range(0, count + 1, BATCH), 1):
        for place in range(max(0, end - BATCH), end):
            buffer.add(
                chunk.no, place, 1, 1, 1, 10.0, 10.05, 250, b"250 2.0.0 Ok: queued as %011X\r\n" % place, DELIVERED
            )
        outcome = b"D" * end + b"." * (count - end)
        row = (chunk.no, chunk.fence, min(count, end + BATCH), outcome)
        yield Advance([row], details=buffer.flush(), serial=serial)


# -- what the tests must see


def a_list_for_each(count: int) -> Iterator[None]:
    """Two allocations: the list and its room."""
    kept: list[list[None]] = [[]] * count
    yield
    for place, _ in enumerate(kept):
        kept[place] = [None]
    yield


def a_call_for_each(count: int) -> Iterator[None]:
    """One system call."""
    yield
    for _ in repeat(None, count):
        os.getppid()
    yield


PIECES: dict[str, Steps] = {
    "replies": replies,
    "client, DATA": client_by_data,
    "client, BDAT": client_by_bdat,
    "client, shared": client_shared,
    "session": session,
    "stream": stream,
    "server": server,
    "rows checked": rows_checked,
    "rows cut": rows_cut,
    "addresses": addresses,
    "rows read": rows_read,
    "compose, 2 KB": compose(2000),
    "compose, 20 KB": compose(20000),
    "envelopes": envelopes,
    "settle": settle,
    "details": details,
    "advance": advance,
    "a list for each": a_list_for_each,
    "a call for each": a_call_for_each,
}
