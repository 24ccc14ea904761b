"""Ready MIME parts go out byte for byte, and one that would break the message is refused."""

from email import message_from_bytes
from email.policy import SMTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.attach import load_attachment
from bulkmail.message.compile import compile_message
from bulkmail.message.message import Attachment, Message
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import AttachmentSpec, MessageSpec

PART = (
    b"Content-Type: application/x-own;\r\n\tname=a\r\nContent-Transfer-Encoding: 8bit\r\nX-Odd:   spaced  \r\n"
    b"\r\n.dot\r\n..two\r\n--=_boundary\r\n\xff\xfe binary enough \r\n\r\n"
)


def test_a_part_is_in_the_message_as_it_was_given():
    data = Message("n@example.com", text="t", attachments=[Attachment(part=PART)]).as_bytes()
    assert PART in data
    _, part = message_from_bytes(data, policy=SMTP).iter_parts()
    assert part.get_payload(decode=True) == PART.partition(b"\r\n\r\n")[2]
    spec = MessageSpec(from_="n@example.com", text="{{ email }}", attachments=(AttachmentSpec(part=PART),))
    ((_, _, body),) = compile_message(spec, job="j").compose([{"email": "a@example.net"}], [1], b"")
    assert PART in from_wire(body) and b"\r\n...two\r\n" in body and b"\r\n..dot\r\n" in body


LINES = st.lists(st.binary(max_size=40).map(lambda line: line.translate(None, b"\r\n\0")), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(LINES)
def test_any_content_of_a_part_is_kept(lines):
    part = b"Content-Type: application/x-own\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    data = Message("n@example.com", text="t", attachments=[Attachment(part=part)]).as_bytes()
    boundary = message_from_bytes(data).get_boundary().encode()
    assert data.endswith(b"\r\n--" + boundary + b"\r\n" + part + b"\r\n--" + boundary + b"--\r\n")


def test_bare_newlines_become_crlf_and_an_end_is_added():
    made = load_attachment(AttachmentSpec(part=b"A: b\n\nx\ny"))
    assert made.body == b"A: b\r\n\r\nx\r\ny\r\n" and made.encoding == "7bit"
    assert load_attachment(AttachmentSpec(part=b"A: b\n\n\xff")).encoding == "8bit"


def test_a_part_with_a_content_id_belongs_to_the_page():
    part = b"Content-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\neA==\r\n"
    found = message_from_bytes(
        Message("n@example.com", html="<img src='cid:logo'>", attachments=[{"part": part}]).as_bytes(), policy=SMTP
    )
    assert found.get_content_type() == "multipart/related"
    assert [one.get_content_type() for one in found.iter_parts()] == ["text/html", "image/png"]


MULTI = b'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain; charset=nope\n\nx\n--b--\n'


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (b"", "line 1 of the part is no header field: b''"),
        (b"\r\nx", "line 1 of the part is no header field: b''"),
        (b"no header\n\nx", "line 1 of the part is no header field: b'no header'"),
        (b"A: b\nBad Name: x\n\nx", "line 2 of the part"),
        (b" folded first\n\nx", "line 1 of the part"),
        (b"A: b\n \nC: d\n\nx", "line 2 of the part"),
        (b"A: b\n\na\0b", "a NUL at byte"),
        (b"A: b\n\n" + b"x" * 999, "line 3 has more than 998 bytes"),
        (b"A: " + b"x" * 999 + b"\n\nx", "line 1 has more than 998 bytes"),
        (b"Content-Type: text/plain; charset=klingon\n\nx", "the charset 'klingon' is unknown"),
        (MULTI, "the charset 'nope' is unknown"),
    ],
)
def test_what_is_no_part(part, words):
    with pytest.raises(MessageError, match=words) as caught:
        load_attachment(AttachmentSpec(part=part), "attachments[2]")
    assert str(caught.value).startswith("attachments[2]: ")


@pytest.mark.parametrize("key", ["name", "type", "cid"])
def test_what_the_part_says_is_not_said_again(key):
    with pytest.raises(MessageError, match=f"expected no '{key}' beside it"):
        load_attachment(AttachmentSpec(part=PART, **{key: "x"}))


def test_an_attached_message_goes_byte_for_byte_and_its_lines_are_bounded():
    inner = b"From: a@example.com\r\nSubject:   odd   spacing\r\nX: y\r\n z\r\n\r\n.dot\r\n"
    data = Message("n@example.com", text="t", attachments=[Attachment(inner, type="message/rfc822")]).as_bytes()
    assert inner in data
    with pytest.raises(MessageError, match=r"attachments: line 3 has more than 998 bytes"):
        load_attachment(AttachmentSpec(content=b"A: b\r\n\r\n" + b"x" * 999, type="message/rfc822"))
