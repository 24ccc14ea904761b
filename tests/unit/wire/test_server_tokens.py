"""Logins by a token: XOAUTH2 and OAUTHBEARER, as our own client and others say them."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest

from bulkmail.smtp.auth import oauthbearer, xoauth2
from bulkmail.smtp.auth.mechanism import Credentials
from bulkmail.wire.server_settings import ASK_AUTH
from bulkmail.wire.server_state import MAX_ERRORS
from unit.wire.server_talk import HELLO, LOGIN, MAIL, Talk, b64, codes

GMAIL = b"user=someuser@example.com\1auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\1\1"
RFC = b"n,a=user@example.com,\1host=server.example.com\1port=587\1auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGE==\1\1"


def begun(mechanism: bytes, response: bytes, **settings: object) -> Talk:
    """A talk that has asked who this is."""
    talk = Talk(**{"ask": ASK_AUTH, "secure": True} | settings)  # type: ignore[arg-type]
    talk.say(HELLO)
    talk.note(talk.codec.feed(b"AUTH " + mechanism + b" " + b64(response) + b"\r\n"))
    return talk


def test_tokens_are_offered_where_there_is_somebody_to_judge_them() -> None:
    assert b"250-AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER\r\n" in Talk(ask=ASK_AUTH, secure=True).say(HELLO)
    assert b"250-AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER\r\n" in Talk(ask=ASK_AUTH, auth=LOGIN, secure=True).say(HELLO)
    talk = Talk(auth=LOGIN, secure=True)
    assert b"250-AUTH PLAIN LOGIN\r\n" in talk.say(HELLO)
    assert codes(talk.say(b"AUTH XOAUTH2 " + b64(GMAIL) + b"\r\nAUTH OAUTHBEARER\r\n")) == [504, 504]


@pytest.mark.parametrize("mechanism, response, user, token", [
    (b"XOAUTH2", GMAIL, "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"),
    (b"OAUTHBEARER", RFC, "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGE=="),
    (b"oauthbearer", b"n,,\1auth=bearer t\1\1", "", "t"),
    (b"OAUTHBEARER", b"y,a=a=2Cb=3D2C,\1auth=Bearer t\1\1", "a,b=2C", "t"),
])  # fmt: skip
def test_who_says_what(mechanism: bytes, response: bytes, user: str, token: str) -> None:
    talk = begun(mechanism, response)
    assert talk.events == [("auth", mechanism.decode().upper(), user, token)]
    assert (talk.codec.accept(), talk.codec.output()[:3]) == ((), b"235")
    assert talk.codec.user == user


def test_a_token_on_a_line_of_its_own() -> None:
    talk = Talk(ask=ASK_AUTH, secure=True)
    talk.say(HELLO)
    assert talk.say(b"AUTH XOAUTH2\r\n") == b"334 \r\n"
    assert codes(talk.say(b64(GMAIL) + b"\r\n" + MAIL)) == [235, 250]


@pytest.mark.parametrize("respond, mechanism", [(xoauth2.respond, b"XOAUTH2"), (oauthbearer.respond, b"OAUTHBEARER")])
def test_our_own_clients_words_are_understood(respond: object, mechanism: bytes) -> None:
    steps = respond(Credentials("a=b,c@example.com", token="t0k=", host="h", port=25))  # type: ignore[operator]
    talk = begun(mechanism, next(steps))
    assert talk.events == [("auth", mechanism.decode(), "a=b,c@example.com", "t0k=")]
    talk.note(talk.codec.refuse(535, b"5.7.8", b"No"))
    challenge = b64decode(talk.codec.output()[4:])
    answer = steps.send(challenge)
    assert json.loads(challenge)["status"] in answer.text
    assert talk.say(b64(answer) + b"\r\n") == b"535 5.7.8 No\r\n"


@pytest.mark.parametrize("mechanism, response, trouble", [
    (b"XOAUTH2", GMAIL, {"status": "401", "schemes": "bearer"}),
    (b"OAUTHBEARER", RFC, {"status": "invalid_token"}),
])  # fmt: skip
@pytest.mark.parametrize("answer", [b"", b"AQ==", b"*", b"what?"])
def test_a_refused_token_is_explained_first(
    mechanism: bytes, response: bytes, trouble: dict[str, str], answer: bytes
) -> None:
    talk = begun(mechanism, response)
    assert talk.codec.refuse(535, b"5.7.8", b"Expired") == ()
    said = talk.codec.output()
    assert said.startswith(b"334 ") and json.loads(b64decode(said[4:])) == trouble
    assert talk.say(answer + b"\r\nNOOP\r\n") == b"535 5.7.8 Expired\r\n250 2.0.0 Ok\r\n"
    assert talk.codec.user is None
    assert talk.counts.refused == 1
    assert codes(talk.say(b"AUTH " + mechanism + b" " + b64(response) + b"\r\n")) == [235]


def test_a_refusal_for_now_and_a_goodbye_need_no_explanation() -> None:
    talk = begun(b"XOAUTH2", GMAIL)
    talk.codec.refuse(454, b"4.7.0", b"Later")
    assert talk.codec.output() == b"454 4.7.0 Later\r\n"
    talk.note(talk.codec.feed(b"AUTH OAUTHBEARER " + b64(RFC) + b"\r\n"))
    talk.codec.refuse(421, b"4.7.0", b"Bye")
    assert talk.codec.output() == b"421 4.7.0 Bye\r\n"
    assert talk.codec.closed


@pytest.mark.parametrize("line", [b"x" * 13000, b"\x00"])
def test_an_answer_that_cannot_be_read_leaves_no_refusal_behind(line: bytes) -> None:
    talk = begun(b"XOAUTH2", GMAIL)
    talk.codec.refuse(535, b"5.7.8", b"Expired")
    talk.codec.output()
    assert codes(talk.say(line + b"\r\nNOOP\r\n"))[1:] == [250]
    assert codes(talk.say(b"AUTH XOAUTH2 " + b64(GMAIL) + b"\r\n")) == [235]


@pytest.mark.parametrize("mechanism, response", [
    (b"XOAUTH2", b"user=a\1auth=Bearer t\1"), (b"XOAUTH2", b"user=a\1auth=Basic t\1\1"),
    (b"XOAUTH2", b"auth=Bearer t\1\1"), (b"XOAUTH2", b"user=a\1\1"), (b"XOAUTH2", b"user=\xff\1auth=Bearer t\1\1"),
    (b"XOAUTH2", b"user=a\1auth=Bearer \1\1"), (b"XOAUTH2", b"user\1auth=Bearer t\1\1"),
    (b"XOAUTH2", b"user=a\1auth=Bearer t\1\1x"),
    (b"OAUTHBEARER", b"n,,\1\1"), (b"OAUTHBEARER", b"n,\1auth=Bearer t\1\1"),
    (b"OAUTHBEARER", b"p=tls-unique,,\1auth=Bearer t\1\1"), (b"OAUTHBEARER", b"n,user,\1auth=Bearer t\1\1"),
    (b"OAUTHBEARER", b"n,a=b,c,\1auth=Bearer t\1\1"), (b"OAUTHBEARER", b"n,,auth=Bearer t\1\1"),
])  # fmt: skip
def test_what_is_no_token_asks_nobody(mechanism: bytes, response: bytes) -> None:
    talk = begun(mechanism, response)
    assert talk.events == []
    assert codes(talk.codec.output()) == [501]


def test_refused_logins_are_errors() -> None:
    talk = Talk(ask=ASK_AUTH, secure=True)
    talk.say(HELLO)
    for _ in range(MAX_ERRORS):
        talk.codec.feed(b"AUTH PLAIN " + b64(b"\0user\0guess") + b"\r\n")
        assert not talk.codec.closed
        talk.codec.refuse(535, b"5.7.8", b"No")
    assert codes(talk.codec.output()) == [535] * (MAX_ERRORS - 1) + [421]
    assert talk.codec.closed
