"""What a caller is asked before it is done: a yes changes nothing, a no is all that is said, a pause nothing."""

from __future__ import annotations

from typing import Any

import pytest

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
    PAUSED,
)
from unit.wire.server_talk import HELLO, LOGIN, MAIL, OPEN, RCPT, Talk, b64, codes

ALL = ASK_MAIL | ASK_RCPT | ASK_END | ASK_HELLO | ASK_STARTTLS | ASK_LOGIN | ASK_DATA | ASK_QUIT
AUTH = b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n"
NO = 451, b"", b"4.7.1 No, and no more"
SAID = b"451 4.7.1 No, and no more\r\n"

SCRIPTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "data": (OPEN + b"x\r\n.\r\n" + MAIL + RCPT * 2 + b"DATA\r\n..\r\n.\r\nQUIT\r\n", {}),
    "chunks": (HELLO + MAIL + RCPT + b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n" + MAIL + RCPT + b"BDAT 0 LAST\r\nNOOP\r\n", {}),
    "lmtp": (b"LHLO me\r\n" + MAIL + RCPT * 3 + b"DATA\r\nx\r\n.\r\nQUIT\r\n", {"lmtp": True}),
    "login": (HELLO + AUTH + MAIL + RCPT + b"DATA\r\n.\r\n", {"auth": LOGIN, "secure": True}),
    "wrong login": (HELLO + AUTH.replace(b"P", b"Q", 1) + b"AUTH LOGIN\r\n*\r\n", {"auth": LOGIN, "secure": True}),
    "in clear before tls": (HELLO + b"STARTTLS\r\n" + MAIL + RCPT, {"starttls": True}),
    "helo, twice": (b"HELO me\r\n" + MAIL + b"EHLO me\r\n" + MAIL, {}),
}


class Pausing(Talk):
    """Pauses at each answer, and looks that nothing is said before it goes on."""

    def say(self, data: bytes) -> bytes:
        self.note(self.codec.feed(data))
        while self.codec.asking:
            self.codec.pause()
            self.note(self.codec.accept())
            if self.codec.asking in (0, PAUSED):
                self.replies += self.codec.output()
                self.note(self.codec.feed(b""))
                assert self.codec.output() == b""
                self.note(self.codec.resume())
        self.replies += self.codec.output()
        return self.replies


@pytest.mark.parametrize("kind", [Talk, Pausing])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_yes_changes_nothing(name: str, kind: type[Talk]) -> None:
    script, options = SCRIPTS[name]
    plain, asked = Talk(**options), kind(ask=ALL, **options)
    plain.say(script)
    asked.say(script)
    asked.events = [event for event in asked.events if event[0] != "ask"]
    assert asked.settled() == plain.settled()
    assert asked.codec.dropped == plain.codec.dropped


NOES = {
    "ehlo": (ASK_HELLO, b"", HELLO, ("ask", "ehlo", "client.test")),
    "helo": (ASK_HELLO, b"", b"HELO x\r\n", ("ask", "ehlo", "x")),
    "starttls": (ASK_STARTTLS, HELLO, b"STARTTLS\r\n", ("ask", "starttls", None)),
    "auth": (ASK_LOGIN, HELLO, AUTH, ("ask", "auth", "user")),
    "mail": (ASK_MAIL, HELLO, MAIL, ("mail", "a@example.com", {})),
    "rcpt": (ASK_RCPT, HELLO + MAIL, RCPT, ("rcpt", "b@example.com", {})),
    "data": (ASK_DATA, HELLO + MAIL + RCPT, b"DATA\r\n", ("ask", "data", None)),
    "chunk": (ASK_DATA, HELLO + MAIL + RCPT, b"BDAT 3\r\nx\r\n", ("ask", "data", None)),
    "last chunk": (ASK_DATA, HELLO + MAIL + RCPT, b"BDAT 3 LAST\r\nx\r\n", ("ask", "data", None)),
    "body": (ASK_END, OPEN, b"x\r\n.\r\n", ("end", 3)),
    "quit": (ASK_QUIT, HELLO, b"QUIT\r\n", ("ask", "quit", None)),
}


@pytest.mark.parametrize("name", NOES)
def test_a_no_is_said_word_for_word_and_the_conversation_goes_on(name: str) -> None:
    question, before, asked, event = NOES[name]
    talk = Talk(ask=question, starttls=True, auth=LOGIN if name == "auth" else None, local=True)
    talk.say(before)
    talk.events.clear()
    talk.note(talk.codec.feed(asked))
    assert talk.events[-1] == event
    assert talk.codec.asking == question
    assert talk.codec.output() == b""
    talk.note(talk.codec.refuse(*NO))
    assert talk.codec.output() == SAID
    assert talk.counts.refused == 1
    assert codes(talk.say(b"NOOP\r\nRSET\r\n")) == [250, 250]
    assert not talk.codec.closed
    assert talk.counts.messages == 0


@pytest.mark.parametrize("name", NOES)
def test_a_421_ends_it_at_every_question(name: str) -> None:
    question, before, asked, _ = NOES[name]
    talk = Talk(ask=question, starttls=True, auth=LOGIN if name == "auth" else None, local=True)
    talk.say(before)
    talk.codec.feed(asked + b"NOOP\r\n")
    talk.codec.refuse(421, b"", b"Gone")
    assert talk.codec.output() == b"421 Gone\r\n"
    assert talk.codec.closed


def test_chunks_behind_a_refused_one_are_thrown_away_until_the_last() -> None:
    talk = Talk(ask=ASK_DATA)
    talk.say(HELLO + MAIL + RCPT)
    talk.codec.feed(b"BDAT 6\r\nNOOP\r\nBDAT 6\r\nRSET\r\nBDAT 0 LAST\r\nNOOP\r\n")
    talk.note(talk.codec.refuse(*NO))
    assert talk.codec.output() == SAID * 3 + b"250 2.0.0 Ok\r\n"
    assert talk.of("abort") == [("abort", SAID.decode().rstrip())]
    assert talk.counts.refused == 1


def test_a_refused_login_is_none_and_an_allowed_one_is_judged() -> None:
    talk = Talk(ask=ASK_LOGIN, auth=LOGIN, secure=True)
    talk.say(HELLO)
    talk.codec.feed(AUTH)
    talk.codec.refuse(*NO)
    assert talk.codec.user is None
    assert codes(talk.codec.output() + talk.say(MAIL + AUTH + MAIL)) == [451, 530, 235, 250]


def test_the_caller_of_hooks_is_asked_behind_the_one_of_faults() -> None:
    talk = Talk(ask=ASK_LOGIN | ASK_AUTH, secure=True)
    talk.say(HELLO)
    talk.note(talk.codec.feed(AUTH))
    talk.note(talk.codec.accept())
    assert talk.events[-1] == ("auth", "PLAIN", *LOGIN)
    talk.codec.refuse(535, b"5.7.8", b"No")
    assert talk.codec.output() == b"535 5.7.8 No\r\n"


def test_each_recipient_of_lmtp_may_have_a_verdict_of_its_own() -> None:
    talk = Talk(ask=ASK_END, lmtp=True)
    talk.say(b"LHLO me\r\n" + MAIL + RCPT * 4 + b"DATA\r\n")
    talk.codec.feed(b"x\r\n.\r\nNOOP\r\n")
    with pytest.raises(ValueError, match="each recipient"):
        talk.codec.settle([None])
    talk.codec.settle([None, b"450 4.2.1 Later", b"", None], b"Kept")
    assert talk.codec.output() == b"250 2.0.0 Kept\r\n450 4.2.1 Later\r\n250 2.0.0 Kept\r\n250 2.0.0 Ok\r\n"
    assert talk.counts.as_dict() == {"connections": 1, "messages": 1, "recipients": 2, "bytes": 3, "refused": 1}


def test_nothing_pipelined_behind_starttls_is_read_after_a_pause() -> None:
    talk = Talk(ask=ASK_STARTTLS, starttls=True)
    talk.say(HELLO)
    talk.codec.feed(b"STARTTLS\r\n" + MAIL)
    talk.codec.pause()
    assert talk.codec.accept() == [("starttls",)]
    assert talk.codec.dropped == len(MAIL)
    talk.codec.secured()
    assert talk.codec.resume() == ()
    assert talk.codec.output() == b"220 2.0.0 Ready to start TLS\r\n"


def test_questions_asked_for_later_are_asked_of_open_connections() -> None:
    talk = Talk(envelopes=False)
    talk.say(HELLO + MAIL)
    talk.codec.settings.ask_also(ASK_RCPT)
    talk.codec.feed(RCPT)
    assert talk.codec.asking == ASK_RCPT


def asked_about_two() -> Talk:
    talk = Talk(ask=ASK_END, lmtp=True)
    talk.codec.feed(b"LHLO me\r\n" + MAIL + RCPT * 2 + b"DATA\r\nx\r\n.\r\n")
    talk.codec.output()
    return talk


def test_recipients_of_lmtp_are_settled_one_by_one() -> None:
    talk = asked_about_two()
    assert talk.codec.settle([None, b"451 4.2.1 Later"], b"Kept") == ()
    assert talk.codec.output() == b"250 2.0.0 Kept\r\n451 4.2.1 Later\r\n"


@pytest.mark.parametrize("refusals", [[], [None], [None] * 3])
def test_they_cannot_be_settled_by_another_number(refusals: list[bytes | None]) -> None:
    talk = asked_about_two()
    with pytest.raises(ValueError, match="for each recipient"):
        talk.codec.settle(refusals)
    assert talk.codec.asking == ASK_END and talk.codec.output() == b""


@pytest.mark.parametrize("answer", ["accept", "refuse", "settle"])
def test_an_answer_that_comes_after_the_end_is_not_given(answer: str) -> None:
    talk = asked_about_two()
    talk.codec.hang_up(b"4.3.2", b"Going")
    talk.codec.output()
    arguments = {"accept": (), "refuse": NO, "settle": ([None],)}
    assert getattr(talk.codec, answer)(*arguments[answer]) == ()
    assert talk.codec.output() == b"" and talk.codec.asking == 0
