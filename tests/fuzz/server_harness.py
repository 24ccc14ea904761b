"""One input for the server's codec: eight bytes that say what the server is and how its caller behaves, and the stream.

`run(data)` holds several conversations about the same stream, each cut otherwise, and raises AssertionError where their
sessions differ, or where one breaks what is promised anywhere. scripts/fuzz compiles this file; pytest runs it, too.

byte 0      what it offers, and which events are wanted
byte 1      its limits, and which extensions it has not
bytes 2, 3  the questions it asks (ASK_ flags)
bytes 4, 5  the answers, three bits each, again from the first when they are used up
byte 6      how the stream is cut
byte 7      how many pieces later a question is answered

In the stream 0x16 and 0x03 stand for the client's handshake (as in TLS), 0x16 and 0x18 for the moment when the caller
hangs up, 0x16 and 0x19 for that when it wants to leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from bulkmail.wire import server_settings
from bulkmail.wire.reply import ReplyReader
from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ASK_AUTH, ASK_END, ASK_MAIL, ASK_RCPT, PAUSED, ServerCounts, ServerSettings

try:
    from fuzz.codec_state import feed  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # not in a sanitized build

    def feed(codec: ServerCodec, data: bytes) -> Sequence[Any]:
        return codec.feed(data)


HEADER = 8
MAX_INPUT = 512
MARK, SECURED, HANG_UP, LEAVE = 0x16, 0x03, 0x18, 0x19
USER, PASSWORD = "user", "pass word"
MAX_REPLY_LINE = 512  # RFC 5321 section 4.5.3.1.5, CR LF included
MOST_REPLIES = 8000  # bytes, besides twenty for each byte of the client's
NO_QUESTION = 0

WITHOUT = (
    (),
    ("PIPELINING", "CHUNKING", "SIZE", "DSN", "ENHANCEDSTATUSCODES"),
    ("SIZE", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "LIMITS", "BINARYMIME"),
    ("AUTH", "STARTTLS", "8BITMIME"),
)
AUTHS = ((False, False), (True, False), (False, True), (True, True))  # known credentials, asks the caller
WANTED = ((True, True), (True, False), (False, False), (True, True))  # envelopes, content
REFUSALS = ((550, b"5.7.1", b"No"), (450, b"", b"4.2.0 Later"), (421, b"4.3.2", b"Going"))
ALL_QUESTIONS = sum(value for name, value in vars(server_settings).items() if name.startswith("ASK_"))

Events = list[tuple[Any, ...]]

_settings: dict[bytes, ServerSettings] = {}
MAX_SETTINGS = 4096  # kept for inputs to come: making them takes longer than a conversation
_sound_replies: set[tuple[bool, bool, bytes]] = set()
MAX_REPLIES = 10000


def settings_of(header: bytes) -> ServerSettings:
    known = _settings.get(header)
    if known is None:
        if len(_settings) >= MAX_SETTINGS:
            _settings.clear()
        known = _settings[header] = _make_settings(header[0], header[1], header[2] | header[3] << 8)
    return known


def _make_settings(offers: int, limits: int, questions: int) -> ServerSettings:
    known, asks = AUTHS[offers >> 4 & 3]
    envelopes, content = WANTED[offers >> 6]
    return ServerSettings(
        "mx.test",
        lmtp=bool(offers & 1),
        starttls=bool(offers & 2),
        auth=(USER, PASSWORD) if known else None,
        envelopes=envelopes,
        content=content,
        max_size=(1 << 26, 60, 0, 300)[limits & 3],
        max_recipients=3 if limits & 4 else 1000,
        without=WITHOUT[limits >> 4 & 3],
        lenient=bool(limits & 8),
        ask=(questions & ALL_QUESTIONS & ~ASK_AUTH) | (ASK_AUTH if asks else 0),
    )


class Case:
    """An input, read."""

    def __init__(self, data: bytes) -> None:
        self.offers = data[0]
        self.settings = settings_of(data[:4])
        self.answers = data[4] | data[5] << 8
        self.cut = data[6]
        self.late = data[7] & 3
        self.acts = split(data[HEADER:])
        self.stream = b"".join([part for part, _ in self.acts])


def split(stream: bytes) -> list[tuple[bytes, int]]:
    """What is read at a stretch, with what the caller does then: SECURED, HANG_UP, LEAVE or 0."""
    acts = []
    start = 0
    at = stream.find(MARK)
    while 0 <= at < len(stream) - 1:
        act = stream[at + 1]
        if act in (SECURED, HANG_UP, LEAVE):
            acts.append((stream[start:at], act))
            start = at + 2
        at = stream.find(MARK, at + 1)
    acts.append((stream[start:], 0))
    return acts


# --- the ways to cut a stretch


def whole(part: bytes, cut: int) -> list[bytes]:
    return [part]


def bytewise(part: bytes, cut: int) -> list[bytes]:
    return [part[i : i + 1] for i in range(len(part))]


def once(part: bytes, cut: int) -> list[bytes]:
    at = cut * len(part) // 255
    return [part[:at], part[at:]]


def before_line_ends(part: bytes, cut: int) -> list[bytes]:
    """Each CR ends a piece: of the pairs CR LF the halves come apart."""
    pieces = part.split(b"\r")
    return [piece + b"\r" for piece in pieces[:-1]] + pieces[-1:]


def lines(part: bytes, cut: int) -> list[bytes]:
    return part.splitlines(True)


def drawn(part: bytes, cut: int) -> list[bytes]:
    pieces = []
    at = 0
    state = cut + 1
    while at < len(part):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        size = (state >> 16) % (3 if state >> 24 & 1 else 70)
        pieces.append(part[at : at + size])  # of no bytes, too
        at += size
    return pieces


OPENED = b"MAIL FROM:<p@q>\r\nRCPT TO:<r@s>\r\n"
LAST_TAKEN = OPENED + b"DATA\r\nz\r\n.\r\n"
PASTS = (
    OPENED + b"DATA\r\nx\r\n.\ry\r\n.\r\n",
    OPENED * 2 + b"RSET\r\nDATA\r\n",
    OPENED + b"DATA\r\n" + b"x" * 70 + b"\r\n.\r\n",
    OPENED + b"BDAT 3 LAST\r\nab\r",
    OPENED + b"BDAT 3\r\nab\rRSET\r\n",
    OPENED + b"BDAT 2\r\n\n\rBDAT 1\r\nxNOOP\r\nRSET\r\n",
    b"MAIL FROM:<p@q> BODY=BINARYMIME\r\nRCPT TO:<r@s>\r\nBDAT 1 LAST\r\n\r",
    b"MAIL FROM:<p@q> SMTPUTF8 SIZE=5 RET=HDRS\r\nRCPT TO:<r@s> NOTIFY=NEVER\r\nRSET\r\n",
    OPENED + b"BDAT 0\r\nBDAT 5\r\nabcdeBDAT 0 LAST\r\n",
)
PASTS_BY_DATA = 3

WAYS = (bytewise, once, before_line_ends, lines, drawn)


# --- a conversation


class Talk:
    """What came of a case, the stream cut in one of the ways."""

    def __init__(self, case: Case, cut: Any, late: int, past: bytes = b"") -> None:
        self.case = case
        self.counts = ServerCounts()
        self.codec = ServerCodec(case.settings, self.counts, secure=bool(case.offers & 4), local=bool(case.offers & 8))
        self.events: Events = []
        self.answers = case.answers
        self.late = late
        self.waited = 0
        self.left = False
        if case.late == 3 and case.cut == 255:
            self.codec.refuse(554, b"5.7.1", b"Go away")
        else:
            self.codec.start("id")
        self.replies = self.codec.output()
        if past:
            self.live_through(past)
        for part, act in case.acts:
            for piece in cut(part, case.cut):
                self.hear(piece)
            self.do(act)
        self.end()

    def live_through(self, past: bytes) -> None:
        self.codec.feed(past)
        assert self.codec.output().endswith(b"250 2.0.0 Ok\r\n" if self.enhanced() else b"250 Ok\r\n")
        for name, value in self.counts.as_dict().items():
            if name != "connections":
                setattr(self.counts, name, 0)
                assert name == "refused" or value > 0

    def enhanced(self) -> bool:
        return "ENHANCEDSTATUSCODES" not in self.case.settings.without

    def hear(self, piece: bytes) -> None:
        events = feed(self.codec, piece)
        if events:
            self.note(events)
        if self.codec.asking:
            self.waited += 1
            if self.waited > self.late:
                self.answer()
            return
        self.waited = 0

    def answer(self) -> None:
        """All questions, also those that the answers bring up."""
        while self.codec.asking:
            self.waited = 0
            self.note(self.codec.resume() if self.codec.asking == PAUSED else self.reply_to(self.codec.asking))

    def reply_to(self, question: int) -> Sequence[Any]:
        kind = self.answers & 7
        self.answers = (self.answers >> 3) | kind << 13
        if kind == 3 and question == ASK_END and self.case.settings.lmtp:
            return self.settle()
        self.note([("answer", question, kind < 4)])
        if kind == 7:
            self.left = True
            self.codec.hang_up(b"4.3.2", b"Going")
            self.codec.settle([])  # an answer that comes too late, as the next one
        elif kind > 3:
            return self.codec.refuse(*REFUSALS[kind - 4])
        elif kind == 2:
            self.codec.pause()
        return self.codec.accept(b"Ok, really") if kind == 1 else self.codec.accept()

    def settle(self) -> Sequence[Any]:
        """Takes the message for every other recipient."""
        recipients = recipients_of(self.events)
        if recipients < 0:  # these events are not wanted
            self.note([("answer", ASK_END, True)])
            return self.codec.accept()
        self.note([("settled", (recipients + 1) // 2)])
        return self.codec.settle([(None, b"451 4.2.1 Later", None, b"")[i & 3] for i in range(recipients)])

    def do(self, act: int) -> None:
        """What the caller does at the end of a stretch."""
        self.answer()
        self.codec.late(3, 100)  # which is to change nothing
        assert not (self.codec.in_transaction and self.codec.closed)
        self.left = self.left or act in (HANG_UP, LEAVE)
        if act == HANG_UP:
            self.codec.hang_up(b"4.3.2", b"Going")
        elif act == LEAVE:
            self.codec.leave(b"4.3.2", b"Going")
        elif act == SECURED and self.events and self.events[-1] == ("starttls",) and not self.codec.closed:
            self.note([("secured",)])
            self.codec.secured()

    def note(self, events: Sequence[Any]) -> None:
        for event in events:
            if event[0] == "content" and self.events and self.events[-1][0] == "content":
                self.events[-1] = ("content", self.events[-1][1] + event[1])
            else:
                self.events.append(event)

    def end(self) -> None:
        self.replies += self.codec.output()
        assert self.codec.output() == b"", "output is given twice"
        if self.codec.closed:
            assert not feed(self.codec, b"\r\nNOOP\r\n") and not self.codec.output(), "life after the end"

    def settled(self) -> tuple[Any, ...]:
        """All that must not depend on the cuts. Of refused messages the content may, and of one without an end, which
        may be refused yet."""
        events: Events = []
        for event in self.events:
            if event[0] == "abort" and events[-1][0] == "content":
                events.pop()
            events.append(event)
        if events and events[-1][0] == "content":
            events.pop()
        codec = self.codec
        # hang_up() does not count what it throws away: of a client that is left nobody asks.
        dropped = None if self.left else codec.dropped
        return events, self.replies, self.counts.as_dict(), codec.closed, codec.user, codec.helo, codec.secure, dropped


def recipients_of(events: Events) -> int:
    """How many were taken since the last MAIL; -1 where no events tell."""
    taken = 0
    for i in range(len(events) - 1, -1, -1):
        kind = events[i][0]
        if kind == "mail":
            return taken
        if kind == "rcpt" and (events[i + 1][0] != "answer" or events[i + 1][2]):
            taken += 1
    return -1


# --- what is promised of each


class Course:
    """Follows the events of a conversation: whether they may come in this order, and what counts as taken."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.open = self.text = False
        self.recipients = self.content = 0
        self.messages = self.taken_recipients = self.taken_bytes = 0
        self.texts: list[bytes] = []
        self.asked: tuple[Any, ...] | None = None
        self.chunks = b"bdat" in case.stream.lower()

    def follow(self, events: Events) -> None:
        ask = self.case.settings.ask
        question = {"mail": ASK_MAIL, "rcpt": ASK_RCPT, "end": ASK_END, "auth": ASK_AUTH, "ask": ALL_QUESTIONS}
        for event in events:
            kind = event[0]
            assert self.asked is None or kind in ("answer", "settled"), (self.asked, event)
            if kind in ("answer", "settled"):
                if self.asked is not None:
                    self.decided(self.asked, event[-1])
                self.asked = None
                continue
            self.before(event)
            if ask & question.get(kind, NO_QUESTION):
                self.asked = event
            else:
                self.decided(event, True)

    def before(self, event: tuple[Any, ...]) -> None:
        """Whether it may come now."""
        kind = event[0]
        if kind in ("mail", "auth", "starttls", "secured"):
            assert not self.open, event
        elif kind in ("rcpt", "reset"):
            assert self.open and (not self.text or (kind == "reset" and self.chunks)), event
        elif kind == "data":
            assert self.open and not self.text and self.recipients, event
        elif kind in ("content", "end"):
            assert self.text, event
        elif kind == "abort":
            assert self.open, event

    def decided(self, event: tuple[Any, ...], yes: int) -> None:
        """`yes`: whether it was accepted; a number of an "end" that was settled: for how many."""
        kind = event[0]
        if kind == "mail" and yes:
            self.open, self.text, self.recipients, self.content = True, False, 0, 0
        elif kind == "rcpt" and yes:
            self.recipients += 1
            assert self.recipients <= self.case.settings.max_recipients
        elif kind == "data":
            self.text = True
            self.content = 0
        elif kind == "content":
            self.check_content(event[1])
        elif kind == "end":
            self.end(event[1], yes)
        elif kind in ("abort", "reset"):
            self.open = self.text = False

    def check_content(self, content: bytes) -> None:
        assert content, "content of no bytes"
        self.content += len(content)
        if not self.chunks:
            self.texts.append(content)

    def end(self, size: int, yes: int) -> None:
        settings = self.case.settings
        assert not settings.max_size or size <= settings.max_size
        if settings.content:
            assert size == self.content, (size, self.content)
        self.open = self.text = False
        if yes:
            self.messages += 1
            self.taken_recipients += self.recipients if yes is True else yes
            self.taken_bytes += size


def check_events(talk: Talk) -> None:
    case = talk.case
    events, _, counts = talk.settled()[:3]
    course = Course(case)
    course.follow(events)
    if case.settings.envelopes:
        taken = counts["messages"], counts["recipients"], counts["bytes"]
        assert taken == (course.messages, course.taken_recipients, course.taken_bytes), (taken, events)
    check_ends(case, counts["messages"])
    for i, event in enumerate(events):
        if event[0] == "end" and not course.chunks and case.settings.content:
            before = events[i - 1]
            check_text(case, before[1] if before[0] == "content" else b"")


def check_ends(case: Case, messages: int) -> None:
    """No two messages by one terminator."""
    ends = case.stream.count(b"\r\n.\r\n") + case.stream.upper().count(b" LAST")
    if case.settings.lenient:  # an LF alone ended the command
        ends += case.stream.count(b"A\n.\r\n") + case.stream.count(b"a\n.\r\n") + case.stream.count(b" \n.\r\n")
    assert messages <= ends, f"{messages} messages by {ends} terminators"


def check_text(case: Case, content: bytes) -> None:
    """Content that came by DATA is what stands in the stream behind a DATA, up to its terminator."""
    assert any(content == text for text in texts(case.stream, case.settings.lenient)), content
    bare = content.replace(b"\r\n", b"")
    assert b"\r" not in bare and b"\n" not in bare, content


def texts(stream: bytes, lenient: bool) -> Iterator[bytes]:
    """A plain model of RFC 5321 section 4.5.2: what each DATA of the stream would bring. Leniently, a CR or LF of its
    own is a line end, but no dot behind it means anything."""
    for data in re.finditer(rb"DATA *\r?\n" if lenient else rb"DATA *\r\n", stream, re.IGNORECASE):
        text = b"\r\n" + stream[data.end() :]
        text = text[: text.find(b"\r\n.\r\n") + 2].replace(b"\r\n.", b"\r\n")[2:]
        yield re.sub(rb"\r\n|\r|\n", b"\r\n", text) if lenient else text


def check_replies(talk: Talk) -> None:
    """Our own client reads them to the end, and no line is longer than the standard has it."""
    key = talk.codec.closed, "ENHANCEDSTATUSCODES" in talk.case.settings.without, talk.replies
    assert len(talk.replies) <= MOST_REPLIES + 20 * len(talk.case.stream), "replies without bound"
    if key in _sound_replies:
        return
    reader = ReplyReader()
    replies = reader.replies(talk.replies)
    assert reader.unread == 0
    enhanced = "ENHANCEDSTATUSCODES" not in talk.case.settings.without
    for line in talk.replies.splitlines(True):
        assert line.endswith(b"\r\n") and len(line) <= MAX_REPLY_LINE, line
    for reply in replies:
        assert 200 <= reply.code <= 599
        if enhanced and reply.enhanced is not None:
            assert reply.enhanced[0] == str(reply.code)[0], reply
    if talk.codec.closed:
        assert replies[-1].code in (221, 421, 501, 502, 554), replies[-1]
    if len(_sound_replies) >= MAX_REPLIES:
        _sound_replies.clear()
    _sound_replies.add(key)


def run(data: bytes) -> None:
    """AssertionError: something does not hold for this input."""
    if not HEADER <= len(data) <= MAX_INPUT:
        return
    case = Case(data)
    first = Talk(case, whole, 0)
    expected = first.settled()
    check_events(first)
    check_replies(first)
    with_a_past(case, first)
    way = WAYS[case.cut % len(WAYS)]
    compare(case, expected, way, case.late)
    if case.cut & 0x80:
        compare(case, expected, bytewise if way is not bytewise else drawn, 0)


def with_a_past(case: Case, first: Talk) -> None:
    """Nothing of a transaction survives it: after others, of which the last was taken, everything is as it was."""
    settings = case.settings
    greeted = first.replies.partition(b"\r\n")[2].startswith(b"250")
    if settings.ask or settings.auth is not None or not greeted or case.stream[:4].upper() not in (b"EHLO", b"LHLO"):
        return
    past = PASTS[case.cut % (len(PASTS) if "CHUNKING" not in settings.without else PASTS_BY_DATA)]
    after = Talk(case, whole, 0, (b"LHLO x\r\n" if settings.lmtp else b"EHLO x\r\n") + past + LAST_TAKEN)
    assert after.settled() == first.settled(), f"after {past!r}:\n {after.settled()}\nat once:\n {first.settled()}"


def compare(case: Case, expected: tuple[Any, ...], way: Any, late: int) -> None:
    got = Talk(case, way, late).settled()
    assert got == expected, f"cut by {way.__name__}, answers {late} pieces late:\n {got}\nin one piece:\n {expected}"


def mutate(data: bytes, seed: int, room: int) -> bytes:
    from fuzz.server_mutator import mutate

    return mutate(data, seed, room)
