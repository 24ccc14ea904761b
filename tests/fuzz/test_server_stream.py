"""The wire server against anything: events and replies do not depend on the cuts, and we can read every reply.

The scripts of `test_server_codec.py` are what clients mean; here commands are drawn, and what they are made of.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.wire.reply import ReplyReader
from bulkmail.wire.server_settings import (
    ASK_AUTH,
    ASK_DATA,
    ASK_END,
    ASK_HELLO,
    ASK_LOGIN,
    ASK_MAIL,
    ASK_QUIT,
    ASK_RCPT,
    ASK_STARTTLS,
)
from unit.wire.server_talk import LOGIN, Talk, b64

EXAMPLES = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "100"))  # of each test and way; more for a long run
ALL = ASK_MAIL | ASK_RCPT | ASK_END | ASK_AUTH
EARLY = ASK_HELLO | ASK_LOGIN | ASK_DATA | ASK_QUIT | ASK_STARTTLS

WAYS: dict[str, dict[str, Any]] = {
    "events": {"max_size": 60, "max_recipients": 3},
    "counts only": {"envelopes": False},
    "no content": {"content": False, "max_size": 60},
    "every question": {"ask": ALL, "secure": True},
    "lmtp, every question": {"ask": ALL, "lmtp": True, "max_recipients": 3},
    "every fault": {"ask": ALL | EARLY, "secure": True},
    "lmtp, faults": {"ask": EARLY | ASK_END, "lmtp": True, "max_size": 60},
    "login, tls, faults": {"auth": LOGIN, "starttls": True, "ask": EARLY | ASK_RCPT},
    "login": {"auth": LOGIN, "secure": True},
    "login, tls": {"auth": LOGIN, "starttls": True},
    "lenient": {"lenient": True, "max_size": 60, "max_recipients": 3},
    "lenient, every question": {"lenient": True, "ask": ALL, "secure": True},
    "lenient, counts only": {"lenient": True, "envelopes": False},
    "few extensions": {"without": ["PIPELINING", "CHUNKING", "SIZE", "DSN", "ENHANCEDSTATUSCODES"]},
}

BEGINS = {False: b"EHLO me\r\n", True: b"LHLO me\r\n"}
MAILS = [b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<> BODY=8BITMIME SIZE=50\r\n", b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n"]
RCPTS = [b"RCPT TO:<c@d>\r\n", b"RCPT TO:<c@d> NOTIFY=NEVER\r\n", b"RCPT TO:<>\r\n", b"RCPT TO:<Postmaster>\r\n"]
TEXTS = [b"a line\r\n", b"..\r\n", b"\r\n.\r\n", b".\r\n", b"\n", b"\r", b".", b"x" * 70 + b"\r\n", b"\0\xff\r\n"]
OTHERS = [
    b"EHLO me\r\n", b"HELO me\r\n", b"LHLO me\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", b"QUIT\r\n",
    b"HELP\r\n", b"STARTTLS\r\n", b"GET / HTTP/1.1\r\n", b"\r\n", b"mail from:<a@b>\r\n", b"EHLO \xff\r\n",
    b"NOOP " + b"x" * 3000 + b"\r\n", b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n", b"AUTH LOGIN\r\n",
    b64(b"user") + b"\r\n", b64(b"pass word") + b"\r\n", b"*\r\n", b"AUTH PLAIN\r\n", b"NOOP\n", b"DATA\n",
    b"AUTH XOAUTH2 " + b64(b"user=u\1auth=Bearer t\1\1") + b"\r\n", b"AUTH OAUTHBEARER\r\n", b"BDAT 3\nx\r\r\n",
]  # fmt: skip


def chunk(content: bytes, last: bool, wrong: int) -> bytes:
    return b"BDAT %d%s\r\n" % (max(0, len(content) + wrong), b" LAST" if last else b"") + content


def message(mail: bytes, rcpts: list[bytes], texts: list[bytes], bdat: bool) -> bytes:
    content = b"".join(texts)
    return b"".join([mail, *rcpts, chunk(content, True, 0) if bdat else b"DATA\r\n" + content + b"\r\n.\r\n"])


texts = st.lists(st.sampled_from(TEXTS), max_size=5)
parts = st.one_of(
    st.sampled_from(MAILS + RCPTS + TEXTS + OTHERS),
    st.builds(message, st.sampled_from(MAILS), st.lists(st.sampled_from(RCPTS), max_size=5), texts, st.booleans()),
    st.builds(chunk, texts.map(b"".join), st.booleans(), st.sampled_from([0, 0, 0, -1, 1, 20])),
    st.binary(max_size=6),
)


class Answering(Talk):
    """A talk that answers what the codec asks as drawn: the n-th question with the n-th answer."""

    def __init__(self, answers: Iterable[int], **settings: Any) -> None:
        super().__init__(**settings)
        self.answers: Iterator[int] = chain(answers, repeat(0))

    def say(self, data: bytes) -> bytes:
        self.note(self.codec.feed(data))
        while self.codec.asking:
            answer = next(self.answers)
            self.note((self.codec.accept, self.yes, self.no, self.no, self.going, self.slowly)[answer]())
        replies = self.codec.output()
        self.replies += replies
        return replies

    def yes(self) -> Any:
        return self.codec.accept(b"Ok, really")

    def slowly(self) -> Any:
        self.codec.pause()
        return [*self.codec.accept(), *self.codec.resume()]

    def no(self) -> Any:
        return self.codec.refuse(550, b"5.7.1", b"No")

    def going(self) -> Any:
        return self.codec.refuse(421, b"4.3.2", b"Going")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@settings(max_examples=EXAMPLES)
@given(
    said=st.lists(parts, max_size=12),
    answers=st.lists(st.integers(0, 5), max_size=8),
    sizes=st.lists(st.integers(1, 60), max_size=30),
)
def test_whatever_is_said_events_and_replies_do_not_depend_on_the_cuts(
    way: dict[str, Any], said: list[bytes], answers: list[int], sizes: list[int]
) -> None:
    data = BEGINS[way.get("lmtp", False)] + b"".join(said)

    def talk(sizes: Iterable[int]) -> Answering:
        talk, at = Answering(answers, **way), 0
        for size in chain(sizes, repeat(len(data))):
            talk.say(data[at : at + size])
            at += size
            if at >= len(data):
                return talk
        raise AssertionError

    whole = talk(())
    expected = whole.settled()
    assert talk(sizes).settled() == expected
    assert talk(repeat(1)).settled() == expected
    reader = ReplyReader()
    reader.replies(whole.replies)
    assert reader.unread == 0
