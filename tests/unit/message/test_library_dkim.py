"""DKIM in a program: what a Message, a Mailer and send() sign is what arrives, whatever kind of message it was."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

import bulkmail
from bulkmail import Dkim, Mailer, Message
from bulkmail.errors import ConfigError, MessageError
from bulkmail.message.message import to_wire
from bulkmail.sink import Server
from unit.message.dkim_corpus import both, ed25519_key, rsa_key, verdicts

RSA, ED = both()
GIVEN = {"from_": "news@example.com", "to": "ann@example.net", "subject": "Grüße", "text": ".\n.a  b\t\n\n\n"}


def test_the_bytes_of_a_message_are_signed():
    message = Message(**GIVEN, html="<p>Hi</p>", dkim=[RSA, ED], list_unsubscribe="https://example.com/u")
    assert verdicts(message.as_bytes(), (RSA, ED)) == [True, True]
    assert message.as_bytes().endswith(message.unsigned_bytes()) and b"DKIM" not in message.unsigned_bytes()
    assert to_wire(message)[0].count(b"DKIM-Signature:") == 2


def test_a_signature_may_be_given_in_any_form():
    options = {"domain": "example.com", "selector": "ed", "key": ed25519_key()}
    for given in (ED, [ED], options, [options], Dkim(**options)):
        assert verdicts(Message(**GIVEN, dkim=given).as_bytes(), [ED]) == [True]
    with pytest.raises(ConfigError, match="'selectr'"):
        Message(**GIVEN, dkim={"domain": "example.com", "selectr": "s"})
    with pytest.raises(MessageError, match="neither PEM nor base64"):
        Message(**GIVEN, dkim=Dkim("example.com", "s", key="x")).as_bytes()


def test_defaults_sign_what_has_no_signature_of_its_own():
    assert Message(**GIVEN).with_defaults({"dkim": [ED]}).dkim == [ED]
    assert Message(**GIVEN, dkim=RSA).with_defaults({"dkim": [ED]}).dkim == [RSA]


def email_message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Bcc"], made["Subject"] = "news@example.com", "ann@example.net", "b@example.net", "Ü"
    made.set_content(".\nHello  \n")
    return made


MESSAGES = {
    "Message": Message(**GIVEN),
    "EmailMessage": email_message(),
    "bytes": b"From: news@example.com\nTo: ann@example.net\nBcc: b@example.net\n\n.\nHello\n",
    "str": "From: news@example.com\nTo: ann@example.net\n\nGrüße\n",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_mailer_signs_whatever_it_sends(kind, run):
    async def go():
        async with Server() as server, Mailer(server.url, dkim=[RSA, ED]) as mailer:
            await mailer.send(MESSAGES[kind])
            return server.messages[0].content

    arrived = run(go())
    assert verdicts(arrived, (RSA, ED)) == [True, True]
    assert arrived.startswith(b"DKIM-Signature: ") and b"b@example.net" not in arrived


def test_the_messages_own_signature_wins(run):
    async def go():
        async with Server() as server, Mailer(server.url, dkim=RSA) as mailer:
            async for receipt in mailer.send_many([Message(**GIVEN, dkim=ED), Message(**GIVEN)]):
                assert receipt.error is None
            return sorted(message.content.count(b"s=ed;") for message in server.messages), server.messages

    counts, messages = run(go())
    assert counts == [0, 1] and all(message.content.count(b"DKIM-Signature:") == 1 for message in messages)


def test_a_mailer_with_a_key_that_cannot_be_used_is_not_made(tmp_path):
    for given, text in (
        ({"key": rsa_key()[:99]}, "does not parse"),
        ({"key_file": tmp_path / "none"}, "cannot be read"),
    ):
        with pytest.raises(MessageError, match=text):
            Mailer("smtp://127.0.0.1", dkim={"domain": "example.com", "selector": "s", **given})


def test_send_signs(run):
    import asyncio

    async def go():
        async with Server() as server:
            await asyncio.to_thread(bulkmail.send, Message(**GIVEN), via=server.url, dkim=ED)
            return server.messages[0].content

    assert verdicts(run(go()), [ED]) == [True]
