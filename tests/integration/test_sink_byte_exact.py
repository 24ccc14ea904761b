"""Foreign clients and relays deliver awkward messages, and what arrives is byte for byte what they had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Message, SmtpSink
from bulkmail.sink.connection import Connection
from integration import sink_clients as clients
from integration.servers.aiosmtpd_server import PASSWORD, USER
from integration.sink_corpus import CORPUS, SENDER, Letter

Client = Callable[[Sequence[Letter], clients.Target], None]
StartTarget = Callable[..., tuple[SmtpSink, clients.Target]]
BY_NAME = {letter.name: letter for letter in CORPUS}
UTF8, NO_END = "an address beyond ASCII", "no line end at the end"
MODES = ["plain", "tls", "lmtp"]


@pytest.fixture
def start_target(smtp_sink_factory: Callable[..., SmtpSink], certificates: Any, tmp_path: Path) -> StartTarget:
    def start(mode: str, **options: Any) -> tuple[SmtpSink, clients.Target]:
        tls = {"tls_cert": certificates.chain_file, "auth": f"{USER}:{PASSWORD}"} if mode == "tls" else {}
        sink = smtp_sink_factory(lmtp=mode == "lmtp", **tls, **options)
        return sink, clients.Target(sink.port, mode, certificates.ca_file, tmp_path)

    return start


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """All that the clients of this test say to a sink."""
    said = bytearray()
    take = Connection.data_received

    def listen(self: Connection, data: bytes) -> None:
        said.extend(data)
        take(self, data)

    monkeypatch.setattr(Connection, "data_received", listen)
    return said


def without(*names: str) -> list[Letter]:
    assert set(names) <= BY_NAME.keys()
    return [letter for letter in CORPUS if letter.name not in names]


def ended(content: bytes) -> bytes:
    """DATA has no way to say that the last line has no end."""
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def check_envelopes(messages: list[Message], letters: list[Letter], mode: str) -> None:
    for message, letter in zip(messages, letters, strict=True):
        assert (message.sender, sorted(message.recipients)) == (SENDER, letter.recipients), letter.name
        assert (message.tls is not None, message.auth) == ((True, USER) if mode == "tls" else (False, None))


def check(client: Client, target: clients.Target, sink: SmtpSink, letters: list[Letter], added: bytes = b"") -> None:
    client(letters, target)
    for message, letter in zip(sink.messages, letters, strict=True):
        assert message.content == ended(letter.content) + added, letter.name
    check_envelopes(sink.messages, letters, target.mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("left_out", [(), ("CHUNKING",)], ids=["chunks", "data"])
def test_bulkmail(mode: str, left_out: tuple[str, ...], start_target: StartTarget, heard: bytearray) -> None:
    sink, target = start_target(mode, without=left_out)
    check(clients.by_bulkmail, target, sink, CORPUS)
    assert (b"\r\nBDAT " in heard) == (not left_out)


@pytest.mark.parametrize("mode", ["plain", "tls"])
def test_smtplib(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    check(clients.by_smtplib, target, sink, CORPUS)
    assert [message.parameters.get("BODY") for message in sink.messages if not message.content.isascii()] == [
        "8BITMIME"
    ]


def test_smtplib_by_lmtp(start_target: StartTarget) -> None:
    # It reads one reply to the data, of which LMTP has one for each recipient.
    sink, target = start_target("lmtp")
    check(clients.by_smtplib, target, sink, [replace(letter, recipients=letter.recipients[:1]) for letter in CORPUS])


@pytest.mark.parametrize("mode", ["plain", "tls"])
def test_aiosmtplib(mode: str, start_target: StartTarget) -> None:
    pytest.importorskip("aiosmtplib")
    sink, target = start_target(mode)
    check(clients.by_aiosmtplib, target, sink, CORPUS)


@pytest.mark.parametrize("mode", MODES)
def test_nodemailer(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    check(clients.by_nodemailer, target, sink, CORPUS)
    beyond_ascii = sink.messages[CORPUS.index(BY_NAME[UTF8])]
    assert "SMTPUTF8" in beyond_ascii.parameters


@pytest.mark.parametrize("mode", MODES)
def test_swaks(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    check(clients.by_swaks, target, sink, without(UTF8))  # which it does not know


@pytest.mark.parametrize("mode", ["plain", "lmtp"])
def test_smtp_source(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    # It has neither TLS nor SMTPUTF8, takes one address, and adds an empty line.
    letters = [replace(letter, recipients=letter.recipients[:1]) for letter in without(UTF8)]
    check(clients.by_smtp_source, target, sink, letters, added=b"\r\n")


@pytest.mark.parametrize("mode", ["plain", "tls"])
def test_curl(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    check(clients.by_curl, target, sink, CORPUS)


@pytest.mark.parametrize("mode", MODES)
def test_msmtp(mode: str, start_target: StartTarget) -> None:
    sink, target = start_target(mode)
    check(clients.by_msmtp, target, sink, without(UTF8))


def added_on_top(message: Message) -> tuple[Letter, bytes]:
    """The letter that a relay has passed on, and what it has put before it."""
    (letter,) = [letter for letter in CORPUS if message.content.endswith(ended(letter.content))]
    return letter, message.content.removesuffix(ended(letter.content))


def check_relayed(messages: list[Message], mode: str) -> None:
    """All of them, in any order, each changed by one trace field on top and by nothing else."""
    found = {letter.name: message for message in messages for letter, _ in [added_on_top(message)]}
    assert found.keys() == BY_NAME.keys() and len(messages) == len(CORPUS)
    for message in messages:
        _, top = added_on_top(message)
        lines = top.split(b"\r\n")
        assert lines[0].startswith(b"Received: ") and lines.pop() == b""
        assert all(line.startswith(b"\t") for line in lines[1:])
    check_envelopes([found[letter.name] for letter in CORPUS], CORPUS, mode)
    assert "SMTPUTF8" in found[UTF8].parameters


@pytest.mark.parametrize("mode", MODES)
def test_postfix(mode: str, start_target: StartTarget, start_postfix: Callable[..., Any]) -> None:
    sink, target = start_target(mode)
    clients.by_postfix(CORPUS, target, start_postfix, lambda: len(sink.messages))
    check_relayed(sink.messages, mode)
    assert all(message.parameters["BODY"] == "8BITMIME" for message in sink.messages if not message.content.isascii())


@pytest.mark.parametrize("mode", MODES)
def test_exim_in_chunks(mode: str, start_target: StartTarget, start_exim: Callable[..., Any], heard: bytearray) -> None:
    sink, target = start_target(mode)
    clients.by_exim(CORPUS, target, start_exim, lambda: len(sink.messages))
    check_relayed(sink.messages, mode)
    assert b"\r\nBDAT " in heard and b"\r\nDATA\r\n" not in heard


def test_exim_without_chunks(start_target: StartTarget, start_exim: Callable[..., Any], heard: bytearray) -> None:
    sink, target = start_target("plain", without=["CHUNKING"])
    clients.by_exim(CORPUS, target, start_exim, lambda: len(sink.messages))
    check_relayed(sink.messages, "plain")
    assert b"\r\nBDAT " not in heard and b"\r\nDATA\r\n" in heard
