"""The wire client against servers that answer anything: what it says of each message is true, however they are cut.

`test_client_cuts.py` has servers that behave; here replies are drawn, and in the last tests the bytes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConnectionLost, ProtocolError
from bulkmail.wire.body import encode_message
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import DONE, IN_DOUBT, NOT_TAKEN, Transaction

BINARY = 8  # a flag of Transaction
EXAMPLES = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "100"))  # of each test and way; more for a long run
LOST = ConnectionLost("cut")
RECIPIENT = re.compile(rb"RCPT TO:<u(\d+)-(\d+)@")


class Way(NamedTuple):
    """How the client is made, which says how it talks."""

    pipelining: bool
    chunking: bool
    lmtp: bool

    def client(self, trace: Any = None) -> Client:
        client = Client(self.pipelining, trace, self.chunking, self.lmtp)
        client.extensions = {
            "8BITMIME": "",
            "SIZE": "0",
            **({"CHUNKING": "", "BINARYMIME": ""} if self.chunking else {}),
        }
        return client


WAYS = [Way(p, c, m) for p in (True, False) for c in (False, True) for m in (False, True)]
every_way = pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: "-".join(k for k, v in way._asdict().items() if v) or "plain"
)


# What is answered to each kind of command; the first is what a server says that takes everything.
CODES = {
    "MAIL": [250, 250, 250, 250, 550, 451, 503, 421, 354],
    "RCPT": [250, 250, 251, 550, 452, 421, 354],
    "DATA": [354, 354, 354, 354, 451, 554, 421, 250],
    "BDAT": [250, 250, 250, 250, 552, 503, 421, 500, 354],
    "end": [250, 250, 250, 250, 554, 451, 421, 354],
    "RSET": [250, 250, 250, 421, 500],
}
FORMS = [
    b"%d 2.0.0 text\r\n",
    b"%d\r\n",
    b"%d-first\r\n%d last\n",
    b"%d-\r\n%d-a\0\xff\r\n%d\r\n",
    b"%d " + b"x" * 5000 + b"\r\n",
]


@dataclass
class Server:
    """Answers each command as `draws` say, one byte a reply, and with success when they are used up.

    took   {message: its recipients whom it told 2xx for the content}
    """

    draws: Iterator[int]
    lmtp: bool
    took: dict[int, set[int]] = field(default_factory=dict)
    seen: bytes = b""
    buffer: bytes = b""
    mailing: bool = False
    accepted: list[tuple[int, int]] = field(default_factory=list)
    content: bool = False
    chunk: tuple[int, bool] | None = None
    closed: bool = False

    def feed(self, data: bytes) -> bytes:
        self.seen += data
        self.buffer += data
        out = b""
        while not self.closed and (reply := self.step()) is not None:
            out += reply
        return out

    def step(self) -> bytes | None:
        if self.chunk is not None:
            size, last = self.chunk
            if len(self.buffer) < size:
                return None
            self.buffer, self.chunk = self.buffer[size:], None
            if last:
                return self.end("BDAT")
            code, reply = self.answer("BDAT")
            self.mailing = self.mailing and code < 300
            return reply
        line, end, rest = self.buffer.partition(b"\r\n")
        if not end:
            return None
        self.buffer = rest
        if not self.content:
            return self.command(line)
        if line != b".":
            return b""
        self.content = False
        return self.end("end")

    def command(self, line: bytes) -> bytes:
        word = line[:4].decode()
        if word == "BDAT":
            _, size, *last = line.split()
            self.chunk = int(size), bool(last)
            return b""
        code, reply = self.answer(word)
        if word == "MAIL":
            self.mailing, self.accepted = code < 300, []
        elif word == "RCPT" and code < 300:
            found = RECIPIENT.match(line)
            assert found
            self.accepted.append((int(found[1]), int(found[2])))
        elif word == "DATA" and 300 <= code < 400:
            self.content = True
        elif word == "RSET":
            self.mailing, self.accepted = False, []
        return reply

    def end(self, kind: str) -> bytes:
        out = b""
        # RFC 2033 does not say how often the last chunk is answered behind one that was refused.
        once = not self.accepted or (not self.mailing and next(self.draws) % 2)
        if not self.lmtp or (kind == "BDAT" and once):
            code, out = self.answer(kind)
            self.take(self.accepted if code < 300 else [])
        else:
            for one in self.accepted:
                code, reply = self.answer(kind)
                out += reply
                self.take([one] if code < 300 else [])
                if self.closed:
                    break
        self.mailing, self.accepted = False, []
        return out

    def take(self, recipients: Iterable[tuple[int, int]]) -> None:
        for message, place in recipients:
            self.took.setdefault(message, set()).add(place)

    def answer(self, kind: str) -> tuple[int, bytes]:
        draw = next(self.draws)
        codes = CODES[kind]
        code = codes[draw % len(codes)]
        if kind not in ("MAIL", "RSET") and not self.mailing and code < 400:
            code = 503  # no server goes on after it refused MAIL or a chunk
        self.closed = code == 421
        form = FORMS[draw // len(codes) % len(FORMS)]
        return code, form.replace(b"%d", b"%d" % code)


# What a caller may stream, dots and line ends in every unlucky place.
PIECES = [b"", b"a", b".\n", b"\r\n.\r\n", b"\r", b"\n", b"."]


class Letter(NamedTuple):
    """What is pushed."""

    rcpts: int
    pieces: tuple[bytes, ...]
    streamed: bool
    binary: bool
    abandoned: bool


letters = st.lists(
    st.builds(
        Letter,
        st.integers(1, 3),
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(tuple),
        st.booleans(),
        st.booleans(),
        st.sampled_from([False, False, True]),
    ),
    min_size=1,
    max_size=5,
)
# A few answers of another kind among those of a server that takes everything.
draws = st.dictionaries(st.integers(0, 40), st.integers(1, 255), max_size=10).map(
    lambda drawn: bytes(drawn.get(place, 0) for place in range(41))
)


def transaction(letter: Letter, at: int, way: Way) -> Transaction:
    rcpts = [b"u%d-%d@example.test" % (at, place) for place in range(letter.rcpts)]
    binary = letter.binary and way.chunking
    content = b"".join(letter.pieces)
    body = None if letter.streamed else content if binary else encode_message(content)
    return Transaction(b"news@example.test", rcpts, body, BINARY if binary else 0, letter, at)


def outcome(tx: Transaction) -> tuple[Any, ...]:
    rejected = {place: str(reply) for place, reply in (tx.rejected or {}).items()}
    return tx.at, tx.state, str(tx.reply), tx.command, tx.judged, rejected, tx.late, tx.decided, str(tx.error)


def stream(client: Client) -> bool:
    """Write what is asked for; False: the connection must end."""
    while (tx := client.streaming) is not None:
        for piece in tx.tag.pieces:
            client.write_content(piece)
        if not tx.tag.abandoned:
            client.end_content(1.0)
        elif not client.abandon(LOST, 1.0):
            return False
    return True


class Talk:
    """A client that sends `letters`; `sizes` say how many bytes of the replies it gets at a time."""

    def __init__(self, way: Way, plan: list[Letter], drawn: bytes, sizes: Iterable[int]) -> None:
        self.traced = b""
        self.got = b""
        self.client = way.client(self.trace)
        self.server = Server(chain(drawn, repeat(0)), way.lmtp)
        self.sent = [transaction(letter, at, way) for at, letter in enumerate(plan)]
        self.error: BaseException | None = None
        for tx in self.sent:
            self.client.push(tx, 1.0)
        try:
            self.talk(chain(sizes, repeat(1 << 20)))
        except (ProtocolError, ConnectionLost) as error:
            self.error = error
        self.client.lost(self.error or LOST, 0, 3.0)

    def trace(self, who: str, data: bytes) -> None:
        if who == "S":
            self.traced += data

    def talk(self, sizes: Iterator[int]) -> None:
        coming = self.write()
        while coming and not self.client.closing:
            size = next(sizes)
            piece, coming = coming[:size], coming[size:]
            self.got += piece
            self.client.feed(piece, 2.0)
            if not stream(self.client):
                raise LOST
            coming += self.write()

    def write(self) -> bytes:
        out = self.client.take_output()
        return self.server.feed(b"".join(out) if isinstance(out, list) else out or b"")


def check_settled(client: Client, sent: list[Transaction]) -> None:
    assert Counter(tx.at for tx in client.done) == Counter(range(len(sent)))
    assert client.load() == 0 and client.streaming is None
    for tx in sent:
        assert tx.state in (DONE, NOT_TAKEN, IN_DOUBT)
        assert tx.error is not None or tx.state == DONE
        if tx.state == DONE:
            refused = set(tx.rejected or ())
            assert refused <= set(range(len(tx.rcpts)))
            assert tx.error is not None or tx.reply is not None or refused == set(range(len(tx.rcpts)))


def check_truth(talk: Talk) -> None:
    """Taken by the client's word is taken by the server's, and whoever it took is not said to be refused or free."""
    for tx in talk.sent:
        took = talk.server.took.get(tx.at, set())
        accepted = {place for place in range(len(tx.rcpts)) if place not in (tx.rejected or {})}
        if tx.state == DONE and tx.reply is not None and tx.reply.code < 300:
            assert accepted == took
        elif tx.state != IN_DOUBT:
            assert not took


@every_way
@settings(max_examples=EXAMPLES)
@example(
    [Letter(3, (b"a", b"b"), True, True, False), *[Letter(2, (b"a",), False, False, False)] * 2], b"\0\0\0\0\4", []
)
@given(plan=letters, drawn=draws, sizes=st.lists(st.integers(1, 60), max_size=30))
def test_whatever_a_server_answers_the_outcome_is_true_and_does_not_depend_on_the_cuts(
    way: Way, plan: list[Letter], drawn: bytes, sizes: list[int]
) -> None:
    whole = Talk(way, plan, drawn, ())
    check_settled(whole.client, whole.sent)
    check_truth(whole)
    assert whole.got.startswith(whole.traced)
    for cut in (sizes, repeat(1)):
        other = Talk(way, plan, drawn, cut)
        assert [outcome(tx) for tx in other.client.done] == [outcome(tx) for tx in whole.client.done]
        assert str(other.error) == str(whole.error)
        assert other.traced == whole.traced
        assert other.server.seen == whole.server.seen


TOKENS = [
    b"250 ok\r\n", b"250 ok\r\n", b"250-a\r\n250 b\r\n", b"354 go\r\n", b"550 5.1.1 no\r\n", b"451 later\n",
    b"421 4.3.2 bye\r\n", b"251 x\r\n", b"199 x\r\n", b"600 x\r\n", b"2500\r\n", b"x" * 70_000,
    b"250", b"250-", b" ", b"\r\n", b"\n", b"\r", b"\0",
]  # fmt: skip
garbage = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8), max_size=30).map(b"".join)


@every_way
@settings(max_examples=EXAMPLES)
@given(
    acts=st.lists(
        letters | st.lists(st.sampled_from(TOKENS), max_size=6).map(b"".join) | st.binary(max_size=8), max_size=12
    ),
    unsent=st.integers(0, 2000),
)
def test_whatever_bytes_come_each_message_is_settled_once(way: Way, acts: list[Any], unsent: int) -> None:
    got, traced = b"", []
    client = way.client(lambda who, data: traced.append(data) if who == "S" else None)
    sent: list[Transaction] = []
    why: BaseException = LOST
    for act in acts:
        if isinstance(act, bytes):
            got += act
            try:
                client.feed(act, 1.0)
            except ProtocolError as error:
                why = error
                break
        else:
            for letter in act:
                sent.append(transaction(letter, len(sent), way))
                client.push(sent[-1], 1.0)
        client.waiting(), client.awaited(), client.begins_at_once(), client.take_output()
        if not stream(client) or client.closing:
            break
    client.lost(why, unsent, 2.0)
    check_settled(client, sent)
    assert got.startswith(b"".join(traced))
    kept = [reply for tx in sent for reply in (tx.reply, *(tx.rejected or {}).values()) if reply is not None]
    assert all(len(str(reply)) < 5000 for reply in kept)


@settings(max_examples=5 * EXAMPLES)
@given(data=garbage, sizes=st.lists(st.integers(1, 60), max_size=30), awaited=st.integers(0, 12))
def test_whatever_bytes_come_the_replies_to_commands_do_not_depend_on_the_cuts(
    data: bytes, sizes: list[int], awaited: int
) -> None:
    def read(sizes: Iterable[int]) -> tuple[list[Any], str, bool]:
        client, rest, error = Client(True), data, ""
        for number in range(awaited):
            client.expect(f"greeting {number}")
        try:
            for size in chain(sizes, repeat(1 << 20)):
                client.feed(rest[:size], 1.0)
                rest = rest[size:]
                if not rest:
                    break
        except ProtocolError as wrong:
            error = str(wrong)
        return client.replies, error, client.closing

    whole = read(())
    assert read(sizes) == whole
    assert read(repeat(1 if len(data) < 1000 else 997)) == whole
