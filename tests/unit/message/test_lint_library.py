"""`Message.lint()` and lint_message: findings named by argument or header field, and no exceptions."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from bulkmail import Message
from bulkmail.message import ListUnsubscribe, lint_message

GIVEN = {
    "from_": "News <news@example.com>",
    "to": "Ann <ann@example.net>",
    "subject": "What is new",
    "text": "Hello, to unsubscribe: https://example.com/u/1",
    "html": '<p>Hello, <a href="https://example.com/u/1">unsubscribe</a></p>',
    "list_unsubscribe": ListUnsubscribe("https://example.com/u/1", one_click=True),
}


def found(message, **options):
    return [(one.id, one.path) for one in lint_message(message, **options)]


def test_a_good_message_lacks_only_a_signature():
    assert found(Message(**GIVEN)) == [("dkim-missing", "dkim")]
    assert [one.id for one in Message(**GIVEN).lint()] == ["dkim-missing"]


def test_a_message_to_few_is_not_asked_for_what_lists_are():
    few = Message("news@example.com", "ann@example.net", "What is new", "Hello")
    assert few.lint(bulk=False) == []
    assert {one.id for one in few.lint()} == {"dkim-missing", "one-click", "unsubscribe-link"}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"from_": "me@gmail.com"}, ("from-freemail", "from_")),
        ({"subject": " "}, ("subject", "subject")),
        ({"date": "tomorrow"}, ("date", "date")),
        ({"envelope_from": "b@mailer.net"}, ("from-unaligned", "envelope_from")),
        ({"headers": {"Precedence": "first-class"}}, ("precedence", "headers.Precedence")),
        ({"text": None}, ("text-part", "text")),
        ({"reply_to": "no-reply@example.com"}, ("no-reply", "reply_to")),
    ],
)
def test_paths_are_arguments(change, finding):
    assert finding in found(Message(**{**GIVEN, **change}))


@pytest.mark.parametrize(
    ("change", "path"),
    [({"from_": None}, "from_"), ({"subject": "a\nb"}, "subject"), ({"attachments": ["/no"]}, "attachments[0]")],
)
def test_what_cannot_be_composed_is_a_finding(change, path):
    (one,) = Message(**{**GIVEN, **change}).lint()
    assert (one.id, one.severity, one.path) == ("message", "error", path)


def test_an_address_beyond_ascii_needs_smtputf8_and_is_no_fault():
    assert found(Message(**{**GIVEN, "to": "jürgen@example.net"})) == [("dkim-missing", "dkim")]


def test_email_messages_and_ready_bytes_are_linted_by_field():
    message = EmailMessage()
    message["From"], message["Subject"] = "me@gmail.com", "Re: hello"
    message.set_content("hello")
    for given in (message, message.as_bytes(), message.as_string()):
        assert {("from-freemail", "From"), ("subject-reply", "Subject")} <= set(found(given))
    assert ("line-bare", "message") in found(message.as_bytes())
    assert ("nul", "message") in found(b"From: a@example.com\r\n\r\n\0\r\n")
    assert ("header-syntax", "message") in found(b"no header at all")


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="not int"):
        lint_message(1)
