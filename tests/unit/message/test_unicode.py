"""Other scripts: addresses by RFC 6531 and IDNA 2008, names, right-to-left text."""

import asyncio
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import SMTP

import pytest

from bulkmail.errors import EnvelopeRefused, MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.message import Message
from bulkmail.message.spec import MessageSpec
from bulkmail.pool.mailer import Mailer
from bulkmail.sink import Server

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
UTF8 = "jürgen@bücher.example"
WIRE = "jürgen@xn--bcher-kva.example"


def test_domains_are_a_labels_everywhere():
    message = Message(
        "a@faß.example", "b@日本語.example", text="t", reply_to="c@BÜCHER.example", sender="d@faß.example"
    )
    data = message.as_bytes()
    assert data.isascii() and b"xn--fa-hia.example" in data  # IDNA 2008: not fass.example
    found = message_from_bytes(data, policy=SMTP)
    assert (found["To"], found["Reply-To"]) == ("b@xn--wgv71a119e.example", "c@xn--bcher-kva.example")
    assert message.envelope() == ("d@xn--fa-hia.example", ["b@xn--wgv71a119e.example"])
    with pytest.raises(MessageError, match="not a domain name"):
        Message("a@☃-.example", text="t").as_bytes()


def test_a_local_part_beyond_ascii_stands_in_a_header_where_the_envelope_asks_for_smtputf8():
    message = Message(f"Jürgen <{UTF8}>", "b@example.net", text="t", reply_to=UTF8)
    assert f"From: =?utf-8?q?J=C3=BCrgen?= <{WIRE}>\r\nReply-To: {WIRE}\r\n".encode() in message.as_bytes()
    assert message.envelope()[0] == WIRE
    Message("a@example.com", UTF8, text="t", reply_to=UTF8).as_bytes()
    for fields in ({"from_": UTF8, "envelope_from": "a@example.com"}, {"from_": "a@example.com", "reply_to": UTF8}):
        with pytest.raises(MessageError, match="nothing asks for SMTPUTF8"):
            Message(to="b@example.net", text="t", **fields).as_bytes()


def test_the_same_in_a_manifests_message():
    compiled = compile_message(MessageSpec(from_=f"Jürgen <{UTF8}>", text="t {{ email }}", reply_to=UTF8), job="j")
    ((sender, _, body),) = compiled.compose([{"email": "b@example.net"}], [1], DATE)
    assert sender == WIRE.encode() and body.count(f"{WIRE}".encode()) == 2
    with pytest.raises(CompileError, match="nothing asks for SMTPUTF8") as caught:
        compile_message(MessageSpec(from_=UTF8, envelope_from="a@example.com", text="t"), job="j")
    assert caught.value.problems[0][0] == "$.message.from"


def test_smtputf8_is_asked_for_and_refused_where_it_is_not_offered():
    message = Message(UTF8, "b@example.net", text="t")

    async def main():
        async with Server() as server, Mailer(server.url) as mailer:
            await mailer.send(message)
            (taken,) = server.messages
        async with Server(without=["SMTPUTF8"]) as server, Mailer(server.url) as mailer:
            with pytest.raises(EnvelopeRefused, match="SMTPUTF8"):
                await mailer.send(message)
            return taken, len(server.messages)

    taken, others = asyncio.run(main())
    assert taken.sender == WIRE and f"From: {WIRE}\r\n".encode() in taken.content and others == 0


@pytest.mark.parametrize(
    "name",
    [
        "שרה לוי", "محمد الأحمد", 'Ann "The Boss" O\'Hara', "Doe, Ann", "a@b", "=?utf-8?q?x?=", "田中 さん", "x" * 200,
        "  two  blanks ", "(comment)", "<angle>", "back\\slash", "👩‍👩‍👧‍👦 family", "\u202eevil\u202c", "İstanbul",
        "e\u0301",
    ],
)  # fmt: skip
def test_a_display_name_is_one_name_whatever_it_holds(name):
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    data = Message(f"{quoted} <a@example.com>", f"{quoted} <b@example.net>, c@example.net", text="t").as_bytes()
    assert data.isascii()
    compiled = compile_message(MessageSpec(from_="a@example.com", to="{{ n }} <{{ email }}>", text="t"), job="j")
    ((_, _, body),) = compiled.compose([{"email": "b@example.net", "n": name}], [1], DATE)
    (to,) = message_from_bytes(body, policy=SMTP)["To"].addresses
    first, second = message_from_bytes(data, policy=SMTP)["To"].addresses
    assert (first.addr_spec, second.addr_spec, to.addr_spec) == ("b@example.net", "c@example.net", "b@example.net")
    # The newer policies put a blank between the encoded-words of a name (RFC 2047 section 6.2 has none).
    for found in (first.display_name, to.display_name):
        assert found.replace(" ", "") == name.replace(" ", "")


@pytest.mark.parametrize(
    "subject",
    [
        "مرحبا بالعالم — שלום",
        "\u200fימין\u200e left",
        "👩‍👩‍👧‍👦" * 30,
        "ß" * 300,
        "Ω" + " blank" * 40,
        "\u2066isolate\u2069",
    ],
)
def test_a_subject_in_any_script_comes_back_and_its_lines_are_short(subject):
    data = Message("a@example.com", "b@example.net", subject, text=subject).as_bytes()
    head = data.partition(b"\r\n\r\n")[0]
    assert head.isascii() and all(len(line) <= 78 for line in head.split(b"\r\n"))
    found = message_from_bytes(data)
    assert str(make_header(decode_header(found["Subject"]))) == subject
    assert found.get_payload(decode=True).decode() == subject + "\r\n"
