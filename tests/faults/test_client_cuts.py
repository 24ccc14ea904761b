"""The line is cut after any byte, in either direction: what the client then says of each message is true.

Without sockets: the codec talks to a server of forty lines that knows what it took.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConnectionLost, InDoubt
from bulkmail.wire.body import encode_message
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import DONE, IN_DOUBT, NOT_TAKEN, Transaction

MAIL_NO, DATA_NO, DOT_NO = b"550 5.7.1 not you\r\n", b"451 4.3.0 not now\r\n", b"554 5.7.1 spam\r\n"


@dataclass(frozen=True)
class Way:
    """How client and server talk."""

    pipelining: bool = True
    chunking: bool = False
    lmtp: bool = False
    keeps: bool = False  # the server keeps a transaction open whose BDAT LAST it refused for want of recipients (Exim)


WAYS = {
    "data": Way(),
    "data, one by one": Way(pipelining=False),
    "bdat": Way(chunking=True),
    "bdat, one by one": Way(pipelining=False, chunking=True),
    "bdat, transactions kept open": Way(chunking=True, keeps=True),
    "lmtp": Way(lmtp=True),
    "lmtp, one by one": Way(pipelining=False, lmtp=True),
    "lmtp, bdat": Way(chunking=True, lmtp=True),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@dataclass(frozen=True)
class Plan:
    """What the server will say to one message. rcpts: which recipients it knows; empty_data: 354 though to nobody.

    full   LMTP: these recipients are refused after the content
    """

    rcpts: tuple[bool, ...] = (True,)
    mail: bool = True
    data: bool = True
    dot: bool = True
    empty_data: bool = False
    full: tuple[int, ...] = ()


@dataclass
class Model:
    """An SMTP or LMTP server: bytes in, bytes out. `took`: {message: its recipients}, as it answered for them."""

    plans: list[Plan]
    way: Way
    took: dict[int, list[int]] = field(default_factory=dict)
    buffer: bytes = b""
    at: int = -1
    mailing: bool = False
    accepted: list[int] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)  # messages whose end it has seen
    rcpts: int = 0
    reading: bool = False
    text: list[bytes] = field(default_factory=list)
    chunk: int | None = None
    last: bool = False

    def feed(self, data: bytes) -> bytes:
        self.buffer += data
        out = b""
        while True:
            if self.chunk is not None:
                if len(self.buffer) < self.chunk:
                    return out
                content, self.buffer = self.buffer[: self.chunk], self.buffer[self.chunk :]
                self.chunk = None
                out += self.end_of_chunk(content)
            elif b"\r\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\r\n")
                out += self.content(line) if self.reading else self.command(line)
            else:
                return out

    def content(self, line: bytes) -> bytes:
        assert self.accepted or line == b".", "a message for nobody"
        if line != b".":
            self.text.append(line.removeprefix(b".") + b"\r\n")
            return b""
        self.reading = self.mailing = False
        self.ended.add(self.at)
        if not self.accepted:
            return b"" if self.way.lmtp else b"554 5.5.1 nobody\r\n"
        return self.verdict(b"".join(self.text))

    def verdict(self, content: bytes) -> bytes:
        """For the message, or by LMTP for each of its recipients."""
        plan = self.plans[self.at]
        self.contents[self.at] = content
        if not self.way.lmtp:
            if not plan.dot:
                return DOT_NO
            self.took[self.at] = self.accepted
            return b"250 2.0.0 taken %d\r\n" % self.at
        out = b""
        for place in self.accepted:
            if plan.dot and place not in plan.full:
                self.took.setdefault(self.at, []).append(place)
                out += b"250 2.0.0 taken %d\r\n" % self.at
            else:
                out += DOT_NO
        return out

    def end_of_chunk(self, content: bytes) -> bytes:
        assert self.last
        self.ended.add(int(content[9 : content.index(b"\r\n")]))
        mailing, self.mailing = self.mailing, False
        if not mailing:
            return b"503 5.5.1 MAIL first\r\n"
        if not self.accepted:
            self.mailing = self.way.keeps
            return b"554 5.5.1 nobody\r\n"
        return self.verdict(content)

    def command(self, line: bytes) -> bytes:
        verb = line[:4]
        if verb == b"RSET":
            self.mailing = False
            return b"250 reset\r\n"
        if verb == b"BDAT":
            words = line.split()
            self.chunk, self.last = int(words[1]), words[2:] == [b"LAST"]
            return b""
        if verb == b"MAIL":
            if self.mailing:
                assert self.way.keeps, "MAIL within a transaction"
                return b"503 5.5.1 nested\r\n"
            self.at, self.rcpts, self.accepted, self.text = int(line[11:].split(b"@")[0]), 0, [], []
            self.mailing = self.plans[self.at].mail
            return b"250 ok\r\n" if self.mailing else MAIL_NO
        if not self.mailing:
            return b"503 5.5.1 MAIL first\r\n"
        return self.rcpt(line) if verb == b"RCPT" else self.data()

    def rcpt(self, line: bytes) -> bytes:
        place, message = (int(number) for number in line[9:].split(b"@")[0].split(b"-"))
        if message != self.at:  # of a message whose MAIL was refused since the one before was still open
            self.at, self.accepted = message, []
        if not self.plans[self.at].rcpts[place]:
            return b"550 5.1.1 nobody %d\r\n" % place
        self.accepted.append(place)
        return b"250 ok\r\n"

    def data(self) -> bytes:
        plan = self.plans[self.at]
        if not plan.data:
            return DATA_NO
        if not self.accepted and (self.way.lmtp or not plan.empty_data):
            return b"554 5.5.1 nobody\r\n"
        self.reading = True
        return b"354 go\r\n"


def transaction(number: int, plan: Plan) -> Transaction:
    rcpts = [b"%d-%d@x.test" % (place, number) for place in range(len(plan.rcpts))]
    return Transaction(b"%d@x.test" % number, rcpts, encode_message(content_of(number)), 0, None, number)


def content_of(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n.\r\n..%d\r\n" % (number, number)


@dataclass
class Line:
    """Client and server, joined by a line that carries `up` bytes to the server and `down` bytes back."""

    plans: list[Plan]
    way: Way
    up: int | None = None
    down: int | None = None
    written: int = 0
    heard: int = 0

    def run(self) -> None:
        way = self.way
        self.server = Model(self.plans, way)
        self.client = Client(way.pipelining, None, way.chunking, way.lmtp)
        for number, plan in enumerate(self.plans):
            self.client.push(transaction(number, plan), 1.0)
        while out := self.output():
            replies = self.server.feed(self.carried(out))
            self.client.feed(self.returned(replies), 2.0)

    def output(self) -> bytes:
        out = self.client.take_output()
        return b"".join(out) if isinstance(out, list) else out or b""

    def carried(self, out: bytes) -> bytes:
        room = len(out) if self.up is None else max(self.up - self.written, 0)
        self.written += len(out)
        return out[:room]

    def returned(self, replies: bytes) -> bytes:
        room = len(replies) if self.down is None else max(self.down - self.heard, 0)
        self.heard += len(replies)
        return replies[:room]

    def cut(self, unsent: int) -> None:
        self.client.lost(ConnectionLost("cut"), unsent, 3.0)


def check(line: Line, *, knows_unsent: bool = False) -> None:
    """What the client says, held against what the server did."""
    done = line.client.done
    assert sorted(tx.at for tx in done) == list(range(len(line.plans))), "each is settled, and once"
    assert line.way.chunking or sum(tx.state == IN_DOUBT for tx in done) <= 1
    assert all(content == content_of(number) for number, content in line.server.contents.items())
    for tx in done:
        took = set(line.server.took.get(tx.at, ()))
        known = {place for place in range(len(tx.rcpts)) if place not in (tx.rejected or {})}
        if tx.state == DONE and tx.reply is not None and tx.reply.code == 250:
            assert tx.judged and tx.reply.lines == (f"2.0.0 taken {tx.at}",)
            assert took == known
        elif tx.state == DONE:
            assert not took
            assert tx.reply is not None or len(tx.rejected) == len(tx.rcpts)
        elif tx.state == NOT_TAKEN:
            assert not took, "it would be sent a second time"
        else:
            assert isinstance(tx.error, InDoubt)
            decided = set(range(tx.decided))
            assert took & decided == known & decided, "a verdict that came before the loss counts"
            # where we know what never left, a doubt is one: the whole message was with the server
            assert not knows_unsent or tx.at in line.server.ended


PLANS = st.builds(
    Plan,
    rcpts=st.lists(st.booleans(), min_size=1, max_size=3).map(tuple),
    mail=st.sampled_from([True, True, True, False]),
    data=st.sampled_from([True, True, True, False]),
    dot=st.sampled_from([True, True, False]),
    empty_data=st.booleans(),
    full=st.sampled_from([(), (), (0,), (1,), (0, 2)]),
)
ANY_WAY = st.sampled_from(list(WAYS.values()))


@settings(max_examples=500)
@given(plans=st.lists(PLANS, min_size=1, max_size=5), way=ANY_WAY)
def test_whole_every_refusal_finds_its_message(plans, way):
    line = Line(plans, way)
    line.run()
    check(line)
    for tx in line.client.done:
        plan = plans[tx.at]
        if way.keeps and tx.state == NOT_TAKEN:
            continue  # it stood behind one that was left open; check() saw that it was not taken
        assert tx.state == DONE
        if not plan.mail and not (way.keeps and tx.judged):
            assert (tx.command, tx.reply.code, tx.rejected) == ("MAIL", 550, None)
        elif not any(plan.rcpts):
            assert {place: reply.lines for place, reply in tx.rejected.items()} == {
                place: (f"5.1.1 nobody {place}",) for place in range(len(plan.rcpts))
            }
        elif not plan.data and not way.chunking:
            assert (tx.command, tx.reply.code) == ("DATA", 451)
        elif way.lmtp:
            refused = {place for place in range(len(plan.rcpts)) if place in plan.full or not plan.dot}
            assert (tx.late or set()) == {place for place in refused if plan.rcpts[place]}
            assert all(tx.rejected[place].code == 554 for place in tx.late or ())
        else:
            assert (tx.command, tx.reply.code) == ("end of data", 250 if plan.dot else 554)


STORY = [
    Plan(),
    Plan(rcpts=(True, False, True)),
    Plan(rcpts=(False,), empty_data=True),
    Plan(),
    Plan(mail=False),
    Plan(dot=False),
    Plan(data=False),
    Plan(rcpts=(False, False)),
    Plan(rcpts=(True, True, True), full=(1,)),
    Plan(),
]
DIALOGUE = [*STORY, *reversed(STORY)]  # twenty messages


@every_way
def test_cut_after_each_byte_of_what_the_server_says(way):
    whole = Line(DIALOGUE, way)
    whole.run()
    for down in range(whole.heard + 1):
        line = Line(DIALOGUE, way, down=down)
        line.run()
        line.cut(unsent=0)
        check(line)


@pytest.mark.parametrize("told", [True, False], ids=["unsent known", "unsent unknown"])
@every_way
def test_cut_after_each_byte_of_what_we_say(way, told):
    whole = Line(DIALOGUE, way)
    whole.run()
    for up in range(whole.written + 1):
        line = Line(DIALOGUE, way, up=up)
        line.run()
        line.cut(unsent=max(line.written - up, 0) if told else 0)
        check(line, knows_unsent=told)


@settings(max_examples=500)
@given(data=st.data(), plans=st.lists(PLANS, min_size=1, max_size=5), way=ANY_WAY)
def test_cut_anywhere_in_any_story(data, plans, way):
    whole = Line(plans, way)
    whole.run()
    up = data.draw(st.integers(0, whole.written))
    down = data.draw(st.integers(0, whole.heard))
    line = Line(plans, way, up=up, down=down)
    line.run()
    line.cut(unsent=data.draw(st.integers(0, max(line.written - up, 0))))
    check(line)
