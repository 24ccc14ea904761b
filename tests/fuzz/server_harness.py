"""One input for the server's codec: eight bytes that say what the server is and how its caller behaves, then the stream.

`run(data)` holds several conversations about the same stream, each cut otherwise, and raises AssertionError where their
sessions differ, or where one breaks what is promised anywhere. scripts/fuzz compiles this file; pytest runs it as it is.

byte 0      what it offers, and which events are wanted
byte 1      its limits, and which extensions it has not
bytes 2, 3  the questions it asks (ASK_ flags)
bytes 4, 5  the answers, three bits each, again from the first when they are used up
byte 6      how the stream is cut
byte 7      how many pieces later a question is answered

In the stream TLS_HERE stands for the client's handshake, GONE_HERE for the moment when the caller hangs up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from bulkmail.wire import server_settings
from bulkmail.wire.reply import ReplyReader
from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ASK_AUTH, ASK_END, ASK_MAIL, ASK_RCPT, ServerCounts, ServerSettings

try:
    from fuzz.codec_state import feed  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # not in a sanitized build

    def feed(codec: ServerCodec, data: bytes) -> Sequence[Any]:
        return codec.feed(data)


HEADER = 8
MAX_INPUT = 512
TLS_HERE = b"\x16\x03"  # as a TLS record of a handshake begins
GONE_HERE = b"\x16\x18"
USER, PASSWORD = "user", "pass word"
MAX_REPLY_LINE = 512  # RFC 5321 section 4.5.3.1.5, CR LF included
CLOSING = b"421 4.3.2 Going"

WITHOUT = (
    (),
    ("PIPELINING", "CHUNKING", "SIZE", "DSN", "ENHANCEDSTATUSCODES"),
    ("SIZE", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "LIMITS", "BINARYMIME"),
    ("AUTH", "STARTTLS", "8BITMIME"),
)
AUTHS = ((False, False), (True, False), (False, True), (True, True))  # known credentials, asks the caller
WANTED = ((True, True), (True, False), (False, False), (True, True))  # envelopes, content
ALL_QUESTIONS = 0
for _name in dir(server_settings):
    if _name.startswith("ASK_"):
        ALL_QUESTIONS |= getattr(server_settings, _name)

Events = list[tuple[Any, ...]]

_settings: dict[bytes, ServerSettings] = {}
MAX_SETTINGS = 4096  # kept for inputs to come: making them takes longer than a conversation


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
    """What is read at a stretch, with what the caller does then: 0x03 TLS, 0x18 hang up, 0 nothing."""
    acts = []
    start = 0
    at = stream.find(b"\x16")
    while at >= 0:
        if stream[at : at + 2] == TLS_HERE or stream[at : at + 2] == GONE_HERE:
            acts.append((stream[start:at], stream[at + 1]))
            start = at + 2
        at = stream.find(b"\x16", at + 1)
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


WAYS = (bytewise, once, before_line_ends, lines, drawn)


# --- a conversation


class Talk:
    """What came of a case, the stream cut in one of the ways."""

    def __init__(self, case: Case, cut: Any, late: int) -> None:
        self.case = case
        self.counts = ServerCounts()
        self.codec = ServerCodec(
            case.settings, self.counts, secure=bool(case.offers & 4), local=bool(case.offers & 8)
        )
        self.events: Events = []
        self.answers = case.answers
        self.late = late
        self.waited = 0
        if case.late == 3 and case.cut == 255:
            self.codec.refuse(554, b"5.7.1", b"Go away")
        else:
            self.codec.start("id")
        self.replies = self.codec.output()
        for part, act in case.acts:
            for piece in cut(part, case.cut):
                self.hear(piece)
            self.do(act)
        self.end()

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
        while self.codec.asking:
            # With no late answers each question is answered in the call that reads it; so it must be for the others.
            self.waited = 0
            self.note(self.reply_to(self.codec.asking))

    def reply_to(self, question: int) -> Sequence[Any]:
        kind = self.answers & 7
        self.answers = (self.answers >> 3) | kind << 13
        self.note([("answer", question, kind < 4)])
        if kind < 3:
            return self.codec.accept()
        if kind == 3:
            return self.codec.accept(b"Ok, really")
        if kind == 7:
            self.codec.hang_up(b"4.3.2", b"Going")
            return self.codec.accept()
        return self.codec.refuse(*((550, b"5.7.1", b"No"), (450, b"4.2.0", b"Later"), (421, b"4.3.2", b"Going"))[kind - 4])

    def do(self, act: int) -> None:
        """What the caller does at the end of a stretch."""
        self.answer()
        if act == 0x18:
            self.codec.hang_up(b"4.3.2", b"Going")
        elif act == 3 and self.events and self.events[-1] == ("starttls",) and not self.codec.closed:
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
        return events, self.replies, self.counts.as_dict(), codec.closed, codec.user, codec.helo, codec.secure


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
        question = {"mail": ASK_MAIL, "rcpt": ASK_RCPT, "end": ASK_END, "auth": ASK_AUTH}
        for event in events:
            kind = event[0]
            assert self.asked is None or kind == "answer", (self.asked, event)
            if kind == "answer":
                if self.asked is not None:
                    self.decided(self.asked, event[2])
                self.asked = None
            elif ask & question.get(kind, 0):
                self.before(event)
                self.asked = event
            else:
                self.before(event)
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

    def decided(self, event: tuple[Any, ...], yes: bool) -> None:
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

    def end(self, size: int, yes: bool) -> None:
        settings = self.case.settings
        assert not settings.max_size or size <= settings.max_size
        if settings.content:
            assert size == self.content, (size, self.content)
        self.open = self.text = False
        if yes:
            self.messages += 1
            self.taken_recipients += self.recipients
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
    assert messages <= ends, f"{messages} messages by {ends} terminators"


def check_text(case: Case, content: bytes) -> None:
    """Content that came by DATA is what stands in the stream behind a DATA, up to its terminator."""
    assert any(content == text for text in texts(case.stream)), content
    bare = content.replace(b"\r\n", b"")
    assert b"\r" not in bare and b"\n" not in bare, content


def texts(stream: bytes) -> Iterator[bytes]:
    """A plain model of RFC 5321 section 4.5.2: what each DATA of the stream would bring."""
    for data in re.finditer(rb"DATA *\r\n", stream, re.IGNORECASE):
        text = b"\r\n" + stream[data.end() :]
        text = text[: text.find(b"\r\n.\r\n") + 2]
        yield text.replace(b"\r\n.", b"\r\n")[2:]


def check_replies(talk: Talk) -> None:
    """Our own client reads them to the end, and no line is longer than the standard has it."""
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


def run(data: bytes) -> None:
    """AssertionError: something does not hold for this input."""
    if not HEADER <= len(data) <= MAX_INPUT:
        return
    case = Case(data)
    first = Talk(case, whole, 0)
    expected = first.settled()
    check_events(first)
    check_replies(first)
    way = WAYS[case.cut % len(WAYS)]
    compare(case, expected, way, case.late)
    if case.cut & 0x80:
        compare(case, expected, bytewise if way is not bytewise else drawn, 0)


def compare(case: Case, expected: tuple[Any, ...], way: Any, late: int) -> None:
    got = Talk(case, way, late).settled()
    assert got == expected, f"cut by {way.__name__}, answers {late} pieces late:\n {got}\nin one piece:\n {expected}"


def seeds() -> Iterator[bytes]:
    from fuzz.server_mutator import seeds

    return seeds()


def mutate(data: bytes, seed: int, room: int) -> bytes:
    from fuzz.server_mutator import mutate

    return mutate(data, seed, room)
