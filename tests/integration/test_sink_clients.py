"""Foreign clients deliver to the sink, and what arrives is what they were given."""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from integration.sink_program import Sink, sink

StartSink = Callable[..., Sink]
TEXT = b"From: a@example.com\r\nSubject: dots\r\n\r\n.\r\n..\r\n.leading\r\nlast line\r\n"


@pytest.fixture
def start_sink(tmp_path: Path) -> Iterator[StartSink]:
    with ExitStack() as running:
        yield lambda *options, **more: running.enter_context(sink(tmp_path, *options, **more))


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_smtplib(start_sink: StartSink) -> None:
    server = start_sink()
    with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.sendmail("a@example.com", ["b@example.com", "c@example.com"], TEXT)
        client.sendmail("a@example.com", "b@example.com", "\r\n")
        assert client.has_extn("pipelining") and client.has_extn("8bitmime")
        assert client.verify("x")[0] == 252
    assert server.contents() == [TEXT, b"\r\n"]
    assert [envelope["to"] for envelope in server.envelopes()] == [
        ["b@example.com", "c@example.com"],
        ["b@example.com"],
    ]
    assert server.end() == {
        "connections": 1, "messages": 2, "recipients": 3, "bytes": len(TEXT) + 2, "refused": 0,
    }  # fmt: skip


def test_smtplib_sends_chunks(start_sink: StartSink) -> None:
    server = start_sink("--max-recipients", "50")
    content = bytes(range(256)) * 1000
    with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.ehlo()
        assert client.esmtp_features["limits"] == "RCPTMAX=50"
        assert {"chunking", "binarymime", "dsn"} <= client.esmtp_features.keys()
        assert client.mail("a@example.com", ["BODY=BINARYMIME", "RET=HDRS"])[0] == 250
        assert client.rcpt("b@example.com", ["NOTIFY=NEVER"])[0] == 250
        for piece, last in ((content[:70_000], ""), (content[70_000:], " LAST")):
            client.putcmd(f"BDAT {len(piece)}{last}")
            client.send(piece)
            assert client.getreply()[0] == 250
        client.sendmail("a@example.com", ["b@example.com"], TEXT)
    assert server.contents() == [content, TEXT]


def test_a_stream_of_chunks_that_reads_no_reply_until_its_end(start_sink: StartSink) -> None:
    server = start_sink(store=False)
    one = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nBDAT 2000 LAST\r\n" + b"x" * 1998 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"EHLO me\r\n" + one * 60 + b"QUIT\r\n")
        with client.makefile("rb") as replies:
            codes = [line[:3] for line in replies if line[3:4] == b" "]
    assert codes == [b"220", b"250"] + [b"250"] * 180 + [b"221"]
    counts = server.end()
    assert (counts["messages"], counts["bytes"], counts["refused"]) == (60, 120_000, 0)


def test_smtplib_with_tls_login_and_utf8(start_sink: StartSink, certificates: Any) -> None:
    server = start_sink("--tls-cert", str(certificates.chain_file), "--auth", "ann:s3cret", "--name", "mx.example.test")
    context: ssl.SSLContext = certificates.client_context()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.com", "jürgen@example.com", "Grüße"
    message.set_content("Grüße\n.\n")
    with smtplib.SMTP("localhost", server.port, timeout=20) as client:
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("ann@example.com", "b@example.com", TEXT)
        client.starttls(context=context)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("ann", "wrong")
        client.login("ann", "s3cret")
        client.send_message(message)
    (envelope,) = server.envelopes()
    assert (envelope["to"], envelope["auth"]) == (["jürgen@example.com"], "ann")
    assert envelope["tls"].startswith("TLSv1")
    assert "Subject: Grüße\r\n".encode() in server.contents()[0]
    assert server.end()["refused"] >= 2


def test_smtplib_over_implicit_tls_and_lmtp(start_sink: StartSink, tmp_path: Path, certificates: Any) -> None:
    server = start_sink("--tls-cert", str(certificates.chain_file), "--tls-implicit")
    with smtplib.SMTP_SSL("localhost", server.port, context=certificates.client_context(), timeout=20) as client:
        client.sendmail("a@example.com", "b@example.com", TEXT)
    assert server.contents() == [TEXT]
    (tmp_path / "lmtp").mkdir()
    with sink(tmp_path / "lmtp", "--lmtp") as server, smtplib.LMTP("127.0.0.1", server.port, timeout=20) as client:
        client.sendmail("a@example.com", ["b@example.com"], TEXT)
        assert server.contents() == [TEXT]


def test_aiosmtplib(start_sink: StartSink, run: Callable[[Any], Any], certificates: Any) -> None:
    aiosmtplib = pytest.importorskip("aiosmtplib")
    server = start_sink("--tls-cert", str(certificates.chain_file), "--auth", "ann:s3cret")

    async def main() -> None:
        client = aiosmtplib.SMTP(
            hostname="localhost", port=server.port, username="ann", password="s3cret", start_tls=True,
            tls_context=certificates.client_context(), timeout=20,
        )  # fmt: skip
        async with client:
            for _ in range(20):
                await client.sendmail("a@example.com", ["b@example.com"], TEXT)

    run(main())
    assert server.contents() == [TEXT] * 20
    assert {envelope["auth"] for envelope in server.envelopes()} == {"ann"}


def test_swaks(start_sink: StartSink, require: Callable[[str], str], tmp_path: Path) -> None:
    program = require("swaks")
    server = start_sink("--auth", "ann:s3cret")
    (tmp_path / "mail").write_bytes(b"Subject: from swaks\n\n.dot\nend\n")
    to = ["--server", f"127.0.0.1:{server.port}", "--from", "a@example.com", "--to", "b@example.com,c@d.test"]
    login = ["--auth-user", "ann", "--auth-password", "s3cret"]
    run(program, *to, *login, "--auth", "PLAIN", "--pipeline", "--data", f"@{tmp_path / 'mail'}")
    run(program, *to, *login, "--auth", "LOGIN", "--helo", "swaks.test", "--data", f"@{tmp_path / 'mail'}")
    first, second = server.envelopes()
    assert first["to"] == ["b@example.com", "c@d.test"]
    assert (first["auth"], second["auth"], second["helo"]) == ("ann", "ann", "swaks.test")
    # swaks ends what it is given with a line break of its own
    assert server.contents() == [b"Subject: from swaks\r\n\r\n.dot\r\nend\r\n\r\n"] * 2


def test_smtp_source_keeps_connections(start_sink: StartSink, require: Callable[[str], str]) -> None:
    server = start_sink()
    run(require("smtp-source"), "-d", "-s", "10", "-m", "500", "-l", "2000", "-r", "3", f"127.0.0.1:{server.port}")
    contents = server.contents()
    assert len(contents) == 500
    assert {len(content) for content in contents} <= set(range(2000, 2400))
    counts = server.end()
    assert (counts["messages"], counts["recipients"], counts["refused"]) == (500, 1500, 0)
    assert counts["bytes"] == sum(map(len, contents))


def test_smtp_source_reconnects(start_sink: StartSink, require: Callable[[str], str]) -> None:
    server = start_sink(store=False)
    run(require("smtp-source"), "-s", "10", "-m", "500", "-l", "20000", f"127.0.0.1:{server.port}")
    counts = server.end()
    assert (counts["connections"], counts["messages"], counts["refused"]) == (500, 500, 0)


def test_twenty_thousand_messages_are_stored(start_sink: StartSink, require: Callable[[str], str]) -> None:
    server = start_sink()
    run(require("smtp-source"), "-d", "-s", "20", "-m", "20000", "-l", "300", f"127.0.0.1:{server.port}")
    assert len(server.envelopes()) == len(os.listdir(server.folder / "new")) == 20000
    assert not os.listdir(server.folder / "tmp")
    assert server.end()["messages"] == 20000
