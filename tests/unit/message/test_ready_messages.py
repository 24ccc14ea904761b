"""Messages composed elsewhere go out byte for byte, but for newlines and Bcc."""

from email.message import EmailMessage, Message

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.message import to_wire
from bulkmail.message.raw import crlf, from_wire, prepare, wire_ready
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
RAW = b"From: News <news@example.com>\nSubject:  odd   spacing \nMessage-ID: <1@x.example>\n\n{{ x }}\n.dot\n\xff"


def test_newlines_become_crlf_and_nothing_else_changes():
    assert crlf(b"a\nb\rc\r\nd\n\re") == b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"
    same = b"A: b\r\n\r\nc\r\n"
    assert crlf(same) is same and prepare(same) == same


@pytest.mark.parametrize(
    ("head", "left"),
    [
        (b"Bcc: a@b.example\nA: 1\n", b"A: 1\r\n"),
        (b"A: 1\nbCC : a@b.example,\n c@d.example\n\t e\nB: 2\n", b"A: 1\r\nB: 2\r\n"),
        (b"A: 1\nBcc:\n", b"A: 1\r\n"),
        (b"A: 1\nX-Bcc: a\nBcc: b\nBcc: c\n", b"A: 1\r\nX-Bcc: a\r\n"),
    ],
)
def test_bcc_is_taken_out_of_the_header_only(head, left):
    assert prepare(b"M: 0\n" + head + b"\nBcc: stays\n") == b"M: 0\r\n" + left + b"\r\nBcc: stays\r\n"


@pytest.mark.parametrize("bad", [b"", b"\n\nbody", b"no header here\n", b" A: b\n"])
def test_what_does_not_begin_with_a_header_is_no_message(bad):
    with pytest.raises(MessageError, match="begins with a header"):
        prepare(bad)


def test_a_nul_is_refused():
    with pytest.raises(MessageError, match="NUL at byte"):
        prepare(b"A: b\r\n\r\nc\0")


def test_wire_form_and_back():
    data = b".A: b\r\n..\r\n.\r\nx\r\n"
    assert wire_ready(data) == b"..A: b\r\n...\r\n..\r\nx\r\n.\r\n"
    assert from_wire(wire_ready(data)) == data


def test_a_ready_message_is_shared_and_keeps_its_id():
    message = compile_message(MessageSpec(raw=RAW), job="j")
    sender, body = message.compose_shared(DATE)
    assert message.shared and sender == b"news@example.com"
    assert body == RAW.replace(b"\n.dot", b"\n..dot").replace(b"\n", b"\r\n") + b"\r\n.\r\n"
    assert message.message_id(3, "a@example.net") == "<1@x.example>"
    row = {"email": "a@example.net"}
    assert message.render(row, 1, DATE).eml == from_wire(message.signed_copy(row, 1, DATE)[1]) == prepare(RAW)


def test_a_ready_message_may_have_a_sender_per_recipient():
    message = compile_message(MessageSpec(raw=RAW, envelope_from="b+{{ id }}@example.org"), job="j")
    assert not message.shared and message.fields == {"id"}
    rows = [{"email": f"u{n}@example.net", "id": n} for n in range(3)]
    made = message.compose(rows, [1, 2, 3], DATE)
    assert [sender for sender, _, _ in made] == [b"b+0@example.org", b"b+1@example.org", b"b+2@example.org"]
    assert {body for _, _, body in made} == {wire_ready(prepare(RAW))}


def test_a_ready_message_without_any_sender_needs_one():
    with pytest.raises(CompileError, match="envelope_from"):
        compile_message(MessageSpec(raw=b"Subject: x\n\ny"), job="j")
    assert compile_message(MessageSpec(raw=b"Subject: x\n\ny", envelope_from="a@b.example"), job="j").shared


# ---- to_wire


def test_an_email_message_with_its_envelope():
    message = EmailMessage()
    message["From"] = "Ann <ann@example.com>"
    message["Sender"] = "bot@example.com"
    message["To"] = "Böb <bob@example.net>, c@bücher.example"
    message["Bcc"] = "secret@example.net"
    message.set_content("héllo\n.\n")
    content, sender, recipients = to_wire(message)
    assert sender == "bot@example.com"
    assert recipients == ["bob@example.net", "c@xn--bcher-kva.example", "secret@example.net"]
    assert b"secret" not in content and b"\n" not in content.replace(b"\r\n", b"")
    assert message["Bcc"] == "secret@example.net"  # the caller's message is as it was


def test_bytes_and_text():
    assert to_wire(b"From: a@b.example\nTo: c@d.example, C@d.example\n\nx") == (
        b"From: a@b.example\r\nTo: c@d.example, C@d.example\r\n\r\nx\r\n",
        "a@b.example",
        ["c@d.example", "C@d.example"],
    )
    assert to_wire("Subject: ü\n\nx") == ("Subject: ü\r\n\r\nx\r\n".encode(), None, [])
    with pytest.raises(TypeError, match="not int"):
        to_wire(5)


@pytest.mark.parametrize("bad", ["x\nBcc: evil@example.org", "x\r\nY: z", "x\0y", "x\r y"])
def test_a_line_break_in_a_legacy_messages_header_is_refused(bad):
    message = Message()
    message["From"] = "a@b.example"
    message["Subject"] = bad
    message.set_payload("x")
    with pytest.raises(MessageError, match="Subject"):
        to_wire(message)


def test_a_folded_header_of_a_parsed_message_is_no_injection():
    message = Message()
    message["From"] = "a@b.example"
    message["Subject"] = "x\r\n folded"
    message.set_payload("x")
    assert b"Subject: x" in to_wire(message)[0]


def test_an_address_that_cannot_be_used_is_refused_by_header():
    with pytest.raises(MessageError, match="header To"):
        to_wire(b"From: a@b.example\nTo: nobody\n\nx")


@pytest.mark.parametrize("place", ["name", "part", "nested"])
def test_a_line_break_in_any_header_of_any_part_is_refused(place):
    message, part = Message(), Message()
    message["From"], part["Content-Type"] = "a@b.example", "text/plain"
    if place == "name":
        message._headers.append(("X\r\nBcc", "evil@example.org"))
    else:
        part["Content-Disposition"] = 'attachment; filename="a\r\n\r\nanother body"'
        inner = Message()
        inner["Content-Type"] = "multipart/mixed"
        inner.set_payload([part])
        message["Content-Type"] = "multipart/mixed"
        message.set_payload([inner if place == "nested" else part])
    with pytest.raises(MessageError, match="a line break or NUL cannot stand in a header"):
        to_wire(message)
