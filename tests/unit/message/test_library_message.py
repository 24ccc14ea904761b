"""`Message`: what a program states is what the bytes and the envelope say."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import SMTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConfigError, MessageError
from bulkmail.message.message import Message, to_wire
from bulkmail.message.spec import ListUnsubscribe


def parsed(*args, **kwargs):
    return message_from_bytes(Message(*args, **kwargs).as_bytes(), policy=SMTP)


def test_every_field_arrives():
    found = parsed(
        "Änn <ann@example.com>",
        ["Bob <bob@example.net>", "c@example.net, d@example.net"],
        "Grüße",
        "Hi\n",
        cc="e@example.net",
        reply_to="help@example.com",
        headers={"X-A": "1"},
        sender="bot@example.com",
        date=datetime(2026, 11, 1, 8, tzinfo=UTC),
        message_id="1@example.com",
        list_unsubscribe=ListUnsubscribe("https://e.com/u", one_click=True),
        list_id="news.example.com",
        feedback_id="a:b",
    )
    assert {name: str(value) for name, value in found.items()} == {
        "From": "Änn <ann@example.com>",
        "Sender": "bot@example.com",
        "Reply-To": "help@example.com",
        "To": "Bob <bob@example.net>, c@example.net, d@example.net",
        "Cc": "e@example.net",
        "Subject": "Grüße",
        "Date": "Sun, 01 Nov 2026 08:00:00 +0000",
        "Message-ID": "<1@example.com>",
        "List-Unsubscribe": "<https://e.com/u>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "List-Id": "<news.example.com>",
        "Feedback-ID": "a:b",
        "X-A": "1",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
    }
    assert found.get_content() == "Hi\r\n"


def test_the_envelope_has_everybody_once_and_bcc_is_only_there():
    message = Message("n@example.com", "a@e.net", "s", "t", cc=["A <a@e.net>", "b@e.net"], bcc="c@e.net")
    assert message.envelope() == ("n@example.com", ["a@e.net", "b@e.net", "c@e.net"])
    assert b"c@e.net" not in message.as_bytes() and b"Bcc" not in message.as_bytes()
    assert to_wire(message) == (message.as_bytes(), "n@example.com", ["a@e.net", "b@e.net", "c@e.net"])


def test_the_envelopes_sender():
    assert Message("n@e.com", sender="S <s@e.com>").envelope()[0] == "s@e.com"
    assert Message("n@e.com", sender="s@e.com", envelope_from="b@e.com").envelope()[0] == "b@e.com"
    assert Message("n@e.com", envelope_from="").envelope() == ("", [])


def test_date_and_id_are_made_once():
    message = Message("n@bücher.example", "a@e.net", text="t")
    assert message.as_bytes() == message.as_bytes()
    assert message.message_id.endswith("@xn--bcher-kva.example>")
    assert Message("n@e.com", text="t").as_bytes() != message.as_bytes()


def test_without_recipients_in_the_header_it_says_so():
    assert parsed("n@example.com", bcc="a@e.net")["To"] == "undisclosed-recipients:;"
    assert parsed("n@example.com", cc="a@e.net")["To"] is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"from_": None}, "from_: it is missing"),
        ({"from_": "a@e.com, b@e.com"}, "from_"),
        ({"to": "a@e.net\r\nBcc: evil@e.org"}, "to: a line break"),
        ({"to": "nobody"}, "to: "),
        ({"cc": "A <a@e.net"}, "cc: "),
        ({"subject": "x\ny"}, "subject: a line break"),
        ({"subject": "x\ud800"}, "subject"),
        ({"text": "x\ud800"}, "text: it is not valid Unicode"),
        ({"headers": {"X-A": "b\rc"}}, "headers.X-A"),
        ({"headers": {"X\nA": "b"}}, "not a header name"),
        ({"headers": [("Cc", "b@e.net")]}, "use 'cc'"),
        ({"headers": {"message-id": "<x@y>"}}, "use 'message_id'"),
        ({"headers": {"Content-Type": "x"}}, "made from the content"),
        ({"message_id": "no at"}, "message_id"),
        ({"message_id": "a@b>\r\nX: y"}, "message_id: a line break"),
        ({"date": "x\ny"}, "date: a line break"),
        ({"list_unsubscribe": "http://e.com\n"}, "list_unsubscribe"),
        ({"list_unsubscribe": ListUnsubscribe("http://e.com", one_click=True)}, "https"),
        ({"list_id": "a b"}, "list_id"),
        ({"attachments": ["/nonexistent/file"]}, "attachments\\[0\\]: .* cannot be read"),
    ],
)
def test_what_cannot_be_composed_is_refused_naming_the_field(fields, words):
    given = {"from_": "n@example.com", "to": "a@e.net", "text": "t"}
    with pytest.raises(MessageError, match=words):
        Message(**{**given, **fields}).as_bytes()


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="'sujet'"):
        Message("n@e.com", sujet="x")


def test_defaults_fill_what_is_not_given():
    defaults = {"from_": "d@e.com", "subject": "default", "headers": {"X-A": "d", "X-B": "d"}, "reply_to": "r@e.com"}
    merged = Message(to="a@e.net", subject="own", headers={"x-a": "own"}, text="t").with_defaults(defaults)
    assert (merged.from_, merged.subject, merged.reply_to) == ("d@e.com", "own", ["r@e.com"])
    assert merged.headers == [("x-a", "own"), ("X-B", "d")]
    assert Message("n@e.com", subject="").with_defaults(defaults).subject == ""
    with pytest.raises(ConfigError, match="no 'sujet'"):
        merged.with_defaults({"sujet": "x"})


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_bodies_come_back(text):
    found = parsed("n@example.com", "a@e.net", text=text, html=text)
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    expected = expected if expected.endswith("\n") else expected + "\n"
    for part in found.iter_parts():
        assert part.get_payload(decode=True).decode().replace("\r\n", "\n") == expected
