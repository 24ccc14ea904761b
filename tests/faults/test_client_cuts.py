"""The line is cut after any byte, in either direction: what the client then says of each message is true.

Without sockets: the codec talks to a server of forty lines that knows what it took.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConnectionLost, InDoubt
from bulkmail.wire.client import DONE, IN_DOUBT, NOT_TAKEN, Client, Transaction

MAIL_NO, DATA_NO, DOT_NO = b"550 5.7.1 not you\r\n", b"451 4.3.0 not now\r\n", b"554 5.7.1 spam\r\n"


@dataclass(frozen=True)
class Plan:
    """What the server will say to one message. rcpts: which recipients it knows; empty_data: 354 though to nobody."""

    rcpts: tuple[bool, ...] = (True,)
    mail: bool = True
    data: bool = True
    dot: bool = True
    empty_data: bool = False


@dataclass
class Model:
    """An SMTP server: bytes in, bytes out. `took`: (message, its accepted recipients), as it answered for them."""

    plans: list[Plan]
    took: dict[int, list[int]] = field(default_factory=dict)
    buffer: bytes = b""
    at: int = -1
    mailing: bool = False
    accepted: list[int] = field(default_factory=list)
    rcpts: int = 0
    reading: bool = False

    def feed(self, data: bytes) -> bytes:
        self.buffer += data
        out = b""
        while b"\r\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            out += self.content(line) if self.reading else self.command(line)
        return out

    def content(self, line: bytes) -> bytes:
        assert self.accepted or line == b".", "a message for nobody"
        if line != b".":
            return b""
        self.reading = self.mailing = False
        if not self.accepted:
            return b"554 5.5.1 nobody\r\n"
        if not self.plans[self.at].dot:
            return DOT_NO
        self.took[self.at] = self.accepted
        return b"250 2.0.0 taken %d\r\n" % self.at

    def command(self, line: bytes) -> bytes:
        verb = line[:4]
        if verb == b"RSET":
            self.mailing = False
            return b"250 reset\r\n"
        if verb == b"MAIL":
            assert not self.mailing, "MAIL within a transaction"
            self.at, self.rcpts, self.accepted = int(line[11:].split(b"@")[0]), 0, []
            self.mailing = self.plans[self.at].mail
            return b"250 ok\r\n" if self.mailing else MAIL_NO
        if not self.mailing:
            return b"503 5.5.1 MAIL first\r\n"
        return self.rcpt() if verb == b"RCPT" else self.data()

    def rcpt(self) -> bytes:
        place, self.rcpts = self.rcpts, self.rcpts + 1
        if not self.plans[self.at].rcpts[place]:
            return b"550 5.1.1 nobody %d\r\n" % place
        self.accepted.append(place)
        return b"250 ok\r\n"

    def data(self) -> bytes:
        plan = self.plans[self.at]
        if not plan.data:
            return DATA_NO
        if not self.accepted and not plan.empty_data:
            return b"554 5.5.1 nobody\r\n"
        self.reading = True
        return b"354 go\r\n"


def transaction(number: int, plan: Plan) -> Transaction:
    rcpts = [b"%d@x.test" % place for place in range(len(plan.rcpts))]
    return Transaction(b"%d@x.test" % number, rcpts, b"Subject: %d\r\n\r\n..\r\n.\r\n" % number, 0, None, number)


@dataclass
class Line:
    """Client and server, joined by a line that carries `up` bytes to the server and `down` bytes back."""

    plans: list[Plan]
    pipelining: bool
    up: int | None = None
    down: int | None = None
    written: int = 0
    heard: int = 0

    def run(self) -> None:
        self.server, self.client = Model(self.plans), Client(self.pipelining)
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
    assert sum(tx.state == IN_DOUBT for tx in done) <= 1
    for tx in done:
        took = line.server.took.get(tx.at)
        if tx.state == DONE and tx.reply is not None and tx.reply.code == 250:
            assert tx.judged and tx.reply.lines == (f"2.0.0 taken {tx.at}",)
            assert took == [place for place in range(len(tx.rcpts)) if place not in (tx.rejected or {})]
        elif tx.state == DONE:
            assert took is None
            assert tx.reply is not None or len(tx.rejected) == len(tx.rcpts)
        elif tx.state == NOT_TAKEN:
            assert took is None, "it would be sent a second time"
        else:
            assert isinstance(tx.error, InDoubt)
            # where we know what never left, a doubt is one: the whole message was with the server
            assert took is not None or not knows_unsent or not line.plans[tx.at].dot


PLANS = st.builds(
    Plan,
    rcpts=st.lists(st.booleans(), min_size=1, max_size=3).map(tuple),
    mail=st.sampled_from([True, True, True, False]),
    data=st.sampled_from([True, True, True, False]),
    dot=st.sampled_from([True, True, False]),
    empty_data=st.booleans(),
)


@settings(max_examples=300)
@given(plans=st.lists(PLANS, min_size=1, max_size=5), pipelining=st.booleans())
def test_whole_every_refusal_finds_its_message(plans, pipelining):
    line = Line(plans, pipelining)
    line.run()
    check(line)
    for tx in line.client.done:
        plan = plans[tx.at]
        assert tx.state == DONE
        if not plan.mail:
            assert (tx.command, tx.reply.code, tx.rejected) == ("MAIL", 550, None)
        elif not any(plan.rcpts):
            assert {place: reply.lines for place, reply in tx.rejected.items()} == {
                place: (f"5.1.1 nobody {place}",) for place in range(len(plan.rcpts))
            }
        elif not plan.data:
            assert (tx.command, tx.reply.code) == ("DATA", 451)
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
    Plan(),
    Plan(),
]


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_cut_after_each_byte_of_what_the_server_says(pipelining):
    whole = Line(STORY, pipelining)
    whole.run()
    for down in range(whole.heard + 1):
        line = Line(STORY, pipelining, down=down)
        line.run()
        line.cut(unsent=0)
        check(line)


@pytest.mark.parametrize("told", [True, False], ids=["unsent known", "unsent unknown"])
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_cut_after_each_byte_of_what_we_say(pipelining, told):
    whole = Line(STORY, pipelining)
    whole.run()
    for up in range(whole.written + 1):
        line = Line(STORY, pipelining, up=up)
        line.run()
        line.cut(unsent=max(line.written - up, 0) if told else 0)
        check(line, knows_unsent=told)


@settings(max_examples=300)
@given(data=st.data(), plans=st.lists(PLANS, min_size=1, max_size=5), pipelining=st.booleans())
def test_cut_anywhere_in_any_story(data, plans, pipelining):
    whole = Line(plans, pipelining)
    whole.run()
    up = data.draw(st.integers(0, whole.written))
    down = data.draw(st.integers(0, whole.heard))
    line = Line(plans, pipelining, up=up, down=down)
    line.run()
    line.cut(unsent=data.draw(st.integers(0, max(line.written - up, 0))))
    check(line)
