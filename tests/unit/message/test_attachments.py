"""Attachments: what is read, what it is called, where it hangs in the message, and what is refused."""

import base64
from email import message_from_bytes
from email.policy import SMTP

import pytest

from bulkmail.errors import MessageError
from bulkmail.message import mime
from bulkmail.message.attach import load_attachment
from bulkmail.message.message import Attachment, Message
from bulkmail.message.spec import AttachmentSpec


def parsed(text="t", html=None, attachments=()):
    message = Message("n@example.com", "a@example.net", text=text, html=html, attachments=attachments)
    return message_from_bytes(message.as_bytes(), policy=SMTP)


TEXT = [mime.TextPart("text", "text/plain")]


def joined(frame):
    return b"".join(b"hole\r\n" if isinstance(piece, int) else piece for piece in frame)


def shape(message):
    if not message.is_multipart():
        return message.get_content_type()
    return [message.get_content_type(), *(shape(part) for part in message.iter_parts())]


def test_the_tree_of_every_combination():
    logo, terms = Attachment(b"png", name="logo.png", cid="logo"), Attachment(b"pdf", name="terms.pdf")
    assert shape(parsed()) == "text/plain"
    assert shape(parsed(text=None, html="h")) == "text/html"
    assert shape(parsed(html="h")) == ["multipart/alternative", "text/plain", "text/html"]
    assert shape(parsed(attachments=[terms])) == ["multipart/mixed", "text/plain", "application/pdf"]
    assert shape(parsed(text=None, html="h", attachments=[logo])) == ["multipart/related", "text/html", "image/png"]
    related = ["multipart/related", "text/html", "image/png"]
    both = ["multipart/alternative", "text/plain", related]
    assert shape(parsed(html="h", attachments=[terms, logo])) == ["multipart/mixed", both, "application/pdf"]
    # Without HTML nothing refers to it: it is shown by itself.
    assert shape(parsed(attachments=[logo])) == ["multipart/mixed", "text/plain", "image/png"]
    assert shape(parsed(text=None, attachments=[terms])) == ["multipart/mixed", "text/plain", "application/pdf"]


def test_name_type_disposition_and_content(tmp_path):
    file = tmp_path / "übersicht.pdf"
    file.write_bytes(bytes(range(256)))
    given = [Attachment(file), Attachment(b"x", name="a.png", cid="<c1>"), Attachment(b"y", name="b", inline=True)]
    message = parsed(html="h", attachments=given)
    found = {part.get_filename(): part for part in message.walk() if part.get_filename()}
    assert found["übersicht.pdf"].get_content() == bytes(range(256))
    assert found["übersicht.pdf"]["Content-Disposition"].content_disposition == "attachment"
    assert (found["a.png"]["Content-ID"], found["a.png"].get_content_disposition()) == ("<c1>", "inline")
    assert (found["b"].get_content_type(), found["b"].get_content_disposition()) == (
        "application/octet-stream",
        "inline",
    )


def test_the_three_sources_of_a_manifest(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("file")
    assert load_attachment(AttachmentSpec(file=file)).data == b"file"
    text = load_attachment(AttachmentSpec(content="näh", name="x.txt"))
    assert (text.data, text.parameters) == ("näh".encode(), {"charset": "utf-8"})
    encoded = base64.encodebytes(bytes(range(100))).decode()
    assert load_attachment(AttachmentSpec(base64=encoded)).data == bytes(range(100))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "found none"),
        ({"content": "x", "base64": "eA=="}, "found 'content' and 'base64'"),
        ({"base64": "e"}, "not base64"),
        ({"base64": "****"}, "not base64"),
        ({"content": "x", "type": "pdf"}, "type 'pdf'"),
        ({"content": "x", "type": "text/plain\r\nX: y"}, "type"),
        ({"content": "x", "type": "multipart/mixed"}, "type"),
        ({"content": "x", "name": "a\r\nb"}, "line break"),
        ({"content": "x", "cid": "a b"}, "cid"),
        ({"content": "x", "cid": "a\r\nX: y"}, "cid"),
    ],
)
def test_what_cannot_be_attached(spec, words):
    with pytest.raises(MessageError, match=words) as caught:
        load_attachment(AttachmentSpec(**spec), "attachments[3]")
    assert str(caught.value).startswith("attachments[3]: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MessageError, match=r"gone\.pdf cannot be read: No such file"):
        load_attachment(AttachmentSpec(file=tmp_path / "gone.pdf"))


def test_a_type_with_parameters():
    found = load_attachment(AttachmentSpec(content=b"x", type='text/calendar; method=REQUEST; name="a b"'))
    assert (found.type, found.parameters) == ("text/calendar", {"method": "REQUEST", "name": "a b"})


def test_an_attached_message_is_not_encoded_and_its_dots_are_escaped_for_the_wire():
    inner = b"From: a@example.com\r\nSubject: s\r\n\r\n.dot\r\n..two\r\n"
    attached = [load_attachment(AttachmentSpec(content=inner, type="message/rfc822", name="m.eml"))]
    _, _, after = mime.frame(TEXT, attached, dots=True)
    assert b"\r\n..dot\r\n...two\r\n" in after
    whole = message_from_bytes(joined(mime.frame(TEXT, attached, dots=False)), policy=SMTP)
    part = list(whole.iter_parts())[1]
    assert part.get_content_type() == "message/rfc822" and part.get("Content-Transfer-Encoding") != "base64"
    assert part.get_content().get_content() == ".dot\r\n..two\r\n"


def test_boundaries_are_the_same_again_and_in_no_part():
    given = [Attachment(b"--=_x\r\n" * 9, name="a.bin")]
    first, second = (
        mime.frame([*TEXT, mime.TextPart("html", "text/html")], [load_attachment(a.spec) for a in given], dots=True)
        for _ in "12"
    )
    assert first == second
    boundary = message_from_bytes(joined(first)).get_boundary()
    assert boundary.startswith("=_") and len(boundary) <= 70


def test_files_may_be_open_files(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"1,2")
    with path.open("rb") as file:
        assert load_attachment(Attachment(file).spec).name == "a.csv"
    with path.open() as file, pytest.raises(MessageError, match="binary"):
        Attachment(file)
