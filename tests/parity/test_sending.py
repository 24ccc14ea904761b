"""Messages as programs that used aiosmtplib or Nodemailer hand them over, and what of them reaches the server."""

from __future__ import annotations

import asyncio
import email
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

from bulkmail.errors import ConfigError, EnvelopeRefused, MessageError, MessageRefused
from bulkmail.message.message import to_wire
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Dsn, Envelope, Recipient
from faults.scripted import at, close, hello, scripted, send, serve

ALICE, BOB, UTF8 = "alice@example.test", "bob@example.test", "recipiënt@example.test"
ANN = Envelope("news@example.test", ["ann@example.test"])


def modern(**headers):
    message = EmailMessage()
    message.set_content("hello\n")
    return _with(message, {"From": ALICE, "To": BOB, "Subject": "x", **headers})


def legacy(**headers):
    message = Message()
    message.set_payload("hello\n")
    return _with(message, {"From": ALICE, "To": BOB, "Subject": "x", **headers})


def mime(**headers):
    message = MIMEMultipart()
    message.attach(MIMEText("hello\n"))
    return _with(message, {"From": ALICE, "To": BOB, "Subject": "x", **headers})


def _with(message, headers):
    for name, value in headers.items():
        if value is not None:
            message[name.replace("_", "-")] = value
    return message


KINDS = pytest.mark.parametrize("kind", [modern, legacy, mime])


async def delivered(message, *extensions, **options):
    """What the server took of one message: (MAIL's line, sender, recipients, header and body as parsed)."""
    async with scripted([*hello("PIPELINING", *extensions), serve()]) as server:
        async with Mailer(server.url) as mailer:
            await mailer.send(message, **options)
        (taken,) = server.messages
        mail = next(line for line in bytes(server.peers[0].said).split(b"\r\n") if line.startswith(b"MAIL"))
        rcpts = [rcpt.decode() for rcpt in taken.rcpts]
        return mail.decode(), taken.sender.decode(), rcpts, taken.content


# ---- forms of a message


@KINDS
def test_every_class_of_the_email_package(run, kind):
    _, sender, rcpts, content = run(delivered(kind()))
    parsed = email.message_from_bytes(content)
    assert (sender, rcpts, parsed["Subject"]) == (ALICE, [BOB], "x")
    part = parsed.get_payload(0) if parsed.is_multipart() else parsed
    assert part.get_payload(decode=True).strip() == b"hello"


@KINDS
def test_a_server_without_8bitmime_gets_seven_bits(run, kind):
    mail, _, _, content = run(delivered(kind(Subject="plain")))
    assert "BODY" not in mail and content.isascii()


@pytest.mark.parametrize("form", ["str", "bytes"])
def test_ready_text_with_its_envelope(run, form):
    text = "Subject: x\n\nhello\n"
    message = text if form == "str" else text.encode()
    _, sender, rcpts, content = run(delivered(message, envelope=Envelope(ALICE, BOB)))
    assert (sender, rcpts, content) == (ALICE, [BOB], b"Subject: x\r\n\r\nhello\r\n")


def test_flattened_with_crlf_and_the_header_as_it_was():
    assert to_wire(modern())[0] == (
        b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\nMIME-Version: 1.0\r\n'
        b"From: alice@example.test\r\nTo: bob@example.test\r\nSubject: x\r\n\r\nhello\r\n"
    )


# ---- who it is from and to


def test_to_cc_and_bcc_are_recipients_in_this_order_and_each_once(run):
    message = modern(Cc="cc1@example.test, cc2@example.test", Bcc=f"cc2@example.test, secret@example.test, {BOB}")
    _, _, rcpts, content = run(delivered(message))
    assert rcpts == [BOB, "cc1@example.test", "cc2@example.test", "secret@example.test"]
    assert b"Cc: cc1" in content and b"secret" not in content and b"Bcc" not in content


@pytest.mark.parametrize("to", [["one@example.test", "two@example.test"], "one@example.test"])
def test_recipients_of_the_call_take_the_place_of_those_in_the_header(run, to):
    _, sender, rcpts, content = run(delivered(modern(), to=to))
    assert (sender, rcpts) == (ALICE, [to] if isinstance(to, str) else to) and b"To: bob" in content


def test_an_envelope_takes_the_place_of_both(run):
    envelope = Envelope("bounce@example.test", ["one@example.test", "two@example.test"])
    _, sender, rcpts, content = run(delivered(modern(), envelope=envelope))
    assert (sender, rcpts) == ("bounce@example.test", ["one@example.test", "two@example.test"])
    assert b"From: alice" in content


def test_sender_comes_before_from(run):
    assert run(delivered(modern(Sender="bot@example.test")))[1] == "bot@example.test"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"From": None}, "no From"),
        ({"From": "undisclosed-recipients:;"}, "no From"),
        ({"To": None}, "no recipients"),
        ({"To": "undisclosed-recipients:;"}, "no recipients"),
    ],
)
def test_from_nobody_or_to_nobody_is_refused_here(run, headers, words):
    async def main():
        async with scripted([*hello(), serve()]) as server, Mailer(server.url) as mailer:
            with pytest.raises(EnvelopeRefused, match=words):
                await mailer.send(modern(**headers))
            return len(server.peers)

    assert run(main()) == 0


NAMED = {
    "in quotes": ('"A.Smith" <a+foo@example.test>', "a+foo@example.test"),
    "beyond ASCII": ("Pepé Le Pew <pepe@example.test>", "pepe@example.test"),
    "no name": ("<a@new.topleveldomain>", "a@new.topleveldomain"),
    "a literal": ("a@[192.0.2.1]", "a@[192.0.2.1]"),
    "underscores": ("_______@example.test", "_______@example.test"),
    "an open bracket": ("B. Smith <b@example.test", "b@example.test"),
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("kind", [modern, legacy])
def test_names_beside_addresses(kind, case):
    header, address = NAMED[case]
    assert to_wire(kind(From=header, To=header))[1:] == (address, [address])


@pytest.mark.parametrize("address", ["me", "a@", "@@", ">not an addr<", "a@b@example.test"])
def test_what_is_no_address_is_refused_here_and_named(run, address):
    async def main():
        async with scripted([*hello(), serve()]) as server, Connection(server.url) as connection:
            for envelope in (Envelope(ALICE, [address]), Envelope(address, [BOB])):
                with pytest.raises(EnvelopeRefused, match=r"is no|is not"):
                    await connection.send(envelope, b"x")
            assert (await connection.send(ANN, b"x")).accepted  # nothing was said, so there is nothing to reset
            return bytes(server.peers[0].said).count(b"MAIL"), b"RSET" in server.peers[0].said

    assert run(main()) == (1, False)


# ---- sent on (RFC 5322 section 3.6.6)

RESENT = {
    "Cc": "claire@example.test",
    "Bcc": "dustin@example.test",
    "Resent_Date": "Mon, 20 Nov 2017 21:04:27 -0000",
    "Resent_From": "hubert@example.test",
    "Resent_To": "eliza@example.test",
    "Resent_Cc": "fred@example.test",
    "Resent_Bcc": "gina@example.test",
}


@KINDS
def test_a_message_that_is_sent_on_goes_to_those_it_is_sent_on_to(run, kind):
    _, sender, rcpts, content = run(delivered(kind(**RESENT)))
    assert sender == "hubert@example.test"
    assert rcpts == ["eliza@example.test", "fred@example.test", "gina@example.test"]
    assert b"dustin" not in content and b"gina" not in content
    assert b"Resent-Cc: fred" in content and b"To: bob" in content


def test_resent_sender_comes_before_resent_from():
    assert to_wire(modern(**RESENT, Resent_Sender="bot@example.test"))[1] == "bot@example.test"


def test_sent_on_twice_its_envelope_is_not_certain():
    message = modern(**RESENT)
    message["Resent-Date"] = "Mon, 20 Nov 2016 21:04:27 -0000"
    with pytest.raises(MessageError, match="sent on 2 times"):
        to_wire(message)


# ---- beyond ASCII


@KINDS
def test_a_sender_beyond_ascii(run, kind):
    mail, sender, _, content = run(delivered(kind(From="sénder@example.test"), "SMTPUTF8", "8BITMIME"))
    assert sender == "sénder@example.test" and mail.endswith(" BODY=8BITMIME SMTPUTF8")
    assert "From: sénder@example.test\r\n".encode() in content


@KINDS
def test_a_recipient_beyond_ascii(run, kind):
    _, _, rcpts, content = run(delivered(kind(To=f"Récip <{UTF8}>, {BOB}"), "SMTPUTF8"))
    assert rcpts == [UTF8, BOB] and f"<{UTF8}>".encode() in content


def test_a_legacy_header_object_beyond_ascii(run):
    message = legacy(To=Header(f"{UTF8}".encode(), "utf-8"), Cc=Header("Bøb <bøb@example.test>"))
    _, _, rcpts, content = run(delivered(message, "SMTPUTF8"))
    assert rcpts == [UTF8, "bøb@example.test"] and f"To: {UTF8}\r\n".encode() in content


def test_without_smtputf8_an_address_beyond_ascii_is_refused_here(run):
    async def main():
        async with scripted([*hello("8BITMIME"), serve()]) as server, Mailer(server.url) as mailer:
            with pytest.raises(EnvelopeRefused, match="SMTPUTF8"):
                await mailer.send(modern(To=UTF8))
            return b"MAIL" in server.peers[0].said

    assert run(main()) is False


@pytest.mark.parametrize(
    "message",
    [
        modern(To="Récip <bob@example.test>"),
        modern(To=Address("Récip", "bob", "example.test")),
        legacy(To=Header("Récip <bob@example.test>", "utf-8")),
        legacy(To="Récip <bob@example.test>"),
        legacy(To="=?utf-8?q?R=C3=A9cip?= <bob@example.test>"),
    ],
    ids=["text", "Address", "Header", "legacy text", "encoded already"],
)
def test_a_name_beyond_ascii_needs_nothing_of_the_server(run, message):
    mail, _, rcpts, content = run(delivered(message))
    assert rcpts == [BOB] and "SMTPUTF8" not in mail and content.isascii()
    assert b"<bob@example.test>\r\n" in content  # the address stands outside of the encoded name
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert parsed["To"].addresses[0].display_name == "Récip"


def test_a_domain_beyond_ascii_becomes_a_labels_in_the_header_too(run):
    mail, _, rcpts, content = run(delivered(modern(To=Address("Bob", "bob", "bücher.example"))))
    assert rcpts == ["bob@xn--bcher-kva.example"] and "SMTPUTF8" not in mail
    assert b"To: Bob <bob@xn--bcher-kva.example>\r\n" in content


def test_raw_bytes_of_a_parsed_header_stay(run):
    raw = f"From: {ALICE}\nTo: Récip <{BOB}>\n\nhello\n".encode()
    for policy in (email.policy.compat32, email.policy.default):
        content = run(delivered(email.message_from_bytes(raw, policy=policy)))[3]
        assert f"To: Récip <{BOB}>".encode() in content


# ---- nothing breaks out


def test_a_sender_with_a_whole_transaction_in_it_is_refused_here(run):
    sender = "a@b.test>\r\nMAIL FROM:<e@b.test>\r\nRCPT TO:<eve@b.test>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<x@b.test"

    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server, Connection(server.url) as connection:
            before = len(server.peers[0].said)
            for envelope in (Envelope(sender, [BOB]), Envelope(ALICE, [sender])):
                with pytest.raises(EnvelopeRefused):
                    await connection.send(envelope, b"x")
            with pytest.raises(EnvelopeRefused):
                await connection.mail(sender)
            return bytes(server.peers[0].said)[before:], server.messages

    assert run(main()) == (b"", [])


@pytest.mark.parametrize("character", ["\r\n", "\r", "\n", "\0", "\t", "\x7f", " "])
def test_no_control_character_of_an_address_reaches_the_wire(run, character):
    async def main():
        async with scripted([*hello(), serve()]) as server, Connection(server.url) as connection:
            with pytest.raises(EnvelopeRefused):
                await connection.send(Envelope(ALICE, [f"a{character}b@example.test"]), b"x")
            return b"MAIL" in server.peers[0].said

    assert run(main()) is False


def test_a_line_break_in_a_legacy_header_is_refused_here():
    message = Message()
    message["From"] = f"{ALICE}\r\nRCPT TO:<eve@example.test>"
    message["To"] = BOB
    with pytest.raises(MessageError, match="From"):
        to_wire(message)


@pytest.mark.parametrize("size", ["100\r\nRCPT TO:<eve@example.test>", "100", -1, 1.5])
def test_a_size_that_is_no_number_is_refused_when_it_is_made(size):
    with pytest.raises(ConfigError, match="size"):
        Envelope(ALICE, [BOB], size=size)


# ---- one after another, side by side


def test_a_dozen_connections_at_the_same_time(run):
    async def one(url, number):
        async with Connection(url) as connection:
            await connection.noop()
            receipt = await connection.send(ANN, b"%d\r\n" % number)
            await connection.reset()
            return receipt.accepted

    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server:
            results = await asyncio.gather(*(one(server.url, number) for number in range(12)))
            return results, sorted(server.contents())

    results, contents = run(main())
    assert results == [["ann@example.test"]] * 12 and contents == sorted(b"%d\r\n" % n for n in range(12))


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("8BITMIME",)])
def test_what_is_not_offered_is_not_asked_for(run, extensions):
    mail = run(delivered(modern(), *extensions))[0]
    assert mail == f"MAIL FROM:<{ALICE}>"


def test_data_refused_by_a_server_that_hangs_up_is_the_refusal(run):
    async def main():
        faults = at("DATA", [send(b"554 5.7.1 no\r\n"), close()])
        async with scripted([*hello(), serve(faults)]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(MessageRefused, match=r"5\.7\.1 no"):
                await connection.send(ANN, b"x")

    run(main())


def test_requiretls_and_dsn_together(run, certificates):
    async def main():
        context = certificates.server_context()
        async with scripted([*hello("REQUIRETLS", "DSN"), serve()], implicit_tls=context) as server:
            envelope = Envelope(ALICE, [Recipient(BOB, notify="failure")], dsn=Dsn("hdrs", "id1"), require_tls=True)
            async with Connection(server.url, ca_file=str(certificates.ca_file)) as connection:
                await connection.send(envelope, b"x")
            return [line for line in bytes(server.peers[0].said).split(b"\r\n") if b":<" in line]

    mail, rcpt = run(main())
    assert sorted(mail.split()[2:]) == [b"ENVID=id1", b"REQUIRETLS", b"RET=HDRS"]
    assert rcpt == b"RCPT TO:<bob@example.test> NOTIFY=FAILURE"


# ---- size, eight bits, idleness


@pytest.mark.parametrize("form", ["bytes", "declared stream"])
def test_what_is_larger_than_the_server_takes_is_refused_here(run, form):
    async def main():
        async with (
            scripted([*hello("PIPELINING", "SIZE 1000"), serve()]) as server,
            Connection(server.url) as connection,
        ):
            envelope = Envelope(ALICE, [BOB], size=None if form == "bytes" else 1001)
            with pytest.raises(MessageRefused, match="1000") as caught:
                await connection.send(envelope, b"x" * 1001 if form == "bytes" else iter([b"x" * 1001]))
            assert (await connection.send(ANN, b"x" * 900)).accepted
            return caught.value.permanent, bytes(server.peers[0].said).count(b"MAIL")

    assert run(main()) == (True, 1)


def test_what_the_server_finds_too_large_at_mail_is_its_refusal(run):
    async def main():
        full = at("MAIL", b"452 4.3.1 no room\r\n")
        async with scripted([*hello("SIZE"), serve(full)]) as server, Connection(server.url) as connection:
            with pytest.raises(EnvelopeRefused, match="no room") as caught:
                await connection.send(ANN, b"x" * 70_000)
            return caught.value.permanent, b" SIZE=70" in server.peers[0].said

    assert run(main()) == (False, True)


def test_eight_bits_that_the_server_does_not_take_are_its_refusal(run):
    async def main():
        faults = at("dot", b"554 5.6.1 8 bit content not allowed\r\n")
        async with scripted([*hello("8BITMIME"), serve(faults)]) as server, Connection(server.url) as connection:
            envelope = Envelope(ALICE, [BOB], body="7bit")
            with pytest.raises(MessageRefused, match="8 bit content not allowed"):
                await connection.send(envelope, "õõõõ")
            return b"BODY" in server.peers[0].said

    assert run(main()) is False


def test_a_connection_that_waits_for_nothing_does_not_run_out_of_time(run):
    async def main():
        async with (
            scripted([*hello(), serve()]) as server,
            Connection(server.url, command_timeout=0.1, data_timeout=0.1) as connection,
        ):
            await asyncio.sleep(0.3)
            return (await connection.send(ANN, b"x")).accepted

    assert run(main()) == ["ann@example.test"]
