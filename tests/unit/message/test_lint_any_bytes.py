"""No bytes make the lint fail, and what it takes apart is what the standard library sees in a good message."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.message import lint_message
from bulkmail.message.lint import Sample, fields, lint, page, parts
from unit.message.lint_examples import EXAMPLES, NOW, Example

# Pieces that mean something to a parser of mail or of HTML, in any order.
TOKENS = [
    b"From: ", b"Subject: ", b"Date: ", b"List-Unsubscribe: <", b"Content-Type: multipart/mixed; boundary=b", b"--b",
    b"--b--", b"Content-Type: text/html; charset=", b"utf-7", b"utf-16", b"idna", b"\r\n", b"\n", b"\r", b"\r\n\r\n",
    b"\t", b"=?utf-8?B?", b"=?x?Q?", b"?=", b"=E9", b"\0", b"\xff", b"\xc3\xa9", b'<a href="', b"<img src=", b" ",
    b"<![CDATA[", b"<!--", b"<!", b"</", b"&#x", b"<style>", b"https://[", b"http://a@b:99999999/", b'">', b"a@b.c",
    b",", b";", b"(", b")", b"<", b">", b'"', b"\\", b"::", b"%", b"{{", b"[[",
]  # fmt: skip
hostile = st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8)), max_size=60).map(b"".join)
changed = st.builds(
    lambda made, at, cut, new: made[: at % len(made)] + new + made[at % len(made) + cut :],
    st.sampled_from([example.eml()[:20_000] for example in EXAMPLES.values()]),
    st.integers(0, 20_000),
    st.integers(0, 40),
    hostile,
)


@given(st.one_of(st.binary(max_size=300), hostile, changed), st.booleans())
def test_any_bytes_get_findings_and_no_exception(data, utf8):
    findings = lint([Sample(data, str, NOW, sender="a@example.com", smtputf8=utf8)])
    assert all(finding.text.isprintable() and len(finding.text) < 500 for finding in findings)
    assert all(finding.id in EXAMPLES for finding in findings)


@given(st.one_of(st.binary(max_size=300), hostile))
def test_ready_bytes_are_told_of_and_never_refused(data):
    assert isinstance(lint_message(data), list)


@given(st.text(st.sampled_from("<>!-[]/=\"' &#;abhrefimgscpt\n\0é"), max_size=200))
def test_any_page_is_read(source):
    assert page.read(source).text is not None


def test_headers_are_read_as_the_standard_library_does():
    message = EmailMessage(policy=SMTP)
    message["Subject"] = "Grüße aus Köln 🎉 " * 12
    message["From"] = "Jürgen Müller <j@example.com>"
    message["To"] = '"Doe, Ann" <ann@example.net>, bob@example.net'
    message.set_content("x")
    read, strays = fields.parse(fields.split(message.as_bytes())[0])
    assert (strays, [field.name for field in read]) == ([], list(message.keys()))
    subject = next(field for field in read if field.key == "subject")
    assert fields.decoded(subject.value) == (message["Subject"].strip(), [])
    boxes = {field.key: fields.mailboxes(field.value) for field in read if field.key in ("from", "to")}
    assert [(box.name, box.address) for box in boxes["from"]] == [("Jürgen Müller", "j@example.com")]
    assert [(box.name, box.address) for box in boxes["to"]] == [
        ("Doe, Ann", "ann@example.net"),
        ("", "bob@example.net"),
    ]


def test_parts_are_those_of_the_standard_library():
    message = EmailMessage(policy=SMTP)
    message.set_content("Grüße\n" * 50)
    message.add_alternative("<p>Grüße</p>\n" * 50, subtype="html", cte="base64")
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo>", filename="lögo.png")
    message.add_attachment(b"%PDF" * 100, maintype="application", subtype="pdf", filename="terms.pdf")
    eml = message.as_bytes()
    head, body = fields.split(eml)
    tree = parts.walk(fields.parse(head)[0], body)
    leaves = [part for part in message_from_bytes(eml, policy=SMTP).walk() if not part.is_multipart()]
    assert tree.problems == []
    assert [(one.type, one.name, one.content()) for one in tree.parts] == [
        (leaf.get_content_type(), leaf.get_filename(), leaf.get_payload(decode=True)) for leaf in leaves
    ]
    assert [(one.cid, one.related) for one in tree.parts] == [
        (None, False),
        (None, True),
        ("logo", True),
        (None, False),
    ]


@pytest.mark.parametrize(
    ("value", "text", "broken"),
    [
        ("=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab", 0),
        ("=?utf-8?Q?=C3?= =?utf-8?Q?=A9?= c", "é c", 0),
        ("a =?iso-8859-1?q?=E9?= b", "a é b", 0),
        ("=?utf-8?B?4pyF?=", "✅", 0),
        ("=?utf-8?Q?=FF?=", "\ufffd", 1),
        ("=?none?Q?a?=", "=?none?Q?a?=", 1),
        ("=?utf-8?X?a?=", "=?utf-8?X?a?=", 1),
        ("=?utf-8*en?Q?a?=", "a", 0),
        ("1 =? 2", "1 =? 2", 0),
    ],
)
def test_encoded_words(value, text, broken):
    found, bad = fields.decoded(value)
    assert (found, len(bad)) == (text, broken)


def test_multiparts_have_an_end():
    deep = b"".join(b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (n, n + 1) for n in range(1000))
    eml = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n" + deep
    head, body = fields.split(eml)
    assert any("deep" in problem for problem in parts.walk(fields.parse(head)[0], body).problems)
    many = Example("", parts=(("Content-Type: text/x-a\r\n", "a"),) * 1200).eml()
    head, body = fields.split(many)
    tree = parts.walk(fields.parse(head)[0], body)
    assert len(tree.parts) == parts.MAX_PARTS
    assert tree.problems
