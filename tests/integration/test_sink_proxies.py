"""The sink behind a real HAProxy and nginx, configured as docs/sink-proxy.md shows it, and behind our own headers."""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bulkmail
from bulkmail.sink import Server, Session
from integration import sink_program
from integration.servers.certificates import Certificates
from integration.servers.front import front, shown

Run = Callable[[Any], Any]
US = "127.0.0.5"  # not the address that a connection to 127.0.0.1 comes from by itself
CONTENT = b"Subject: x\r\n\r\n.\r\nhello\r\n"
V1, TLS_TAKEN_OFF, TLS_PASSED_ON = shown("haproxy")
(NGINX,) = shown("nginx")


class Hooks:
    """Keeps the session of each message."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []

    def on_mail(self, session: Session, address: str, parameters: Any) -> None:
        self.sessions.append(session)


def deliver(port: int, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
    """By smtplib, from `US`; where it came from."""
    kind, extra = (smtplib.SMTP_SSL, {"context": tls}) if tls else (smtplib.SMTP, {})
    with kind("localhost", port, timeout=20, source_address=(US, 0), **extra) as client:  # type: ignore[operator]
        assert client.sock is not None
        came_from: tuple[str, int] = client.sock.getsockname()
        assert client.sendmail("a@example.com", ["b@example.com"], CONTENT) == {}
    return came_from


async def through(
    folder: Path, certificates: Certificates, language: str, text: str, tls: ssl.SSLContext | None, **options: Any
) -> tuple[tuple[str, int], int, Session, Server]:
    """One message; where it came from, where it went to, and what the sink saw."""
    hooks = Hooks()
    async with Server(hooks, proxy_from="127.0.0.0/8", **options) as server:

        def send() -> tuple[tuple[str, int], int]:
            with front(folder / language, language, text, server.port, certificates) as port:
                return deliver(port, tls), port

        came_from, port = await asyncio.to_thread(send)
        (message,) = server.messages
        assert message.content == CONTENT
        assert (message.remote_address, message.remote_port, message.proxy_address) == (*came_from, "127.0.0.1")
        return came_from, port, hooks.sessions[0], server


def check_ends(session: Session, came_from: tuple[str, int], port: int) -> None:
    assert (session.remote_address, session.remote_port) == came_from
    assert (session.local_address, session.local_port) == ("127.0.0.1", port)
    assert session.proxy_address == "127.0.0.1" and session.proxy_port


@pytest.mark.parametrize(("language", "text", "version"), [
    ("haproxy", V1, 1), ("haproxy", V1.replace("send-proxy", "send-proxy-v2"), 2), ("nginx", NGINX, 1),
], ids=["haproxy-v1", "haproxy-v2", "nginx"])  # fmt: skip
def test_the_real_client_is_seen(
    run: Run, tmp_path: Path, certificates: Certificates, language: str, text: str, version: int
) -> None:
    came_from, port, session, _ = run(through(tmp_path, certificates, language, text, None))
    check_ends(session, came_from, port)
    assert session.proxy is not None and session.proxy.version == version
    assert not session.secure


def test_what_haproxy_knows_of_tls_is_seen(run: Run, tmp_path: Path, certificates: Certificates) -> None:
    context = certificates.client_context()
    context.load_cert_chain(certificates.client_file)
    came_from, port, session, server = run(through(tmp_path, certificates, "haproxy", TLS_TAKEN_OFF, context))
    check_ends(session, came_from, port)
    told = session.proxy
    assert told is not None and told.tls is not None
    assert told.authority == "localhost"
    assert told.unique_id is not None and told.unique_id.startswith(b"7F000005:")
    assert told.tls.encrypted and told.tls.certificate and told.tls.verified
    assert (told.tls.version, told.tls.cn) == ("TLSv1.3", "client.example.test")
    assert told.tls.cipher and told.tls.sig_alg and told.tls.key_alg
    assert not session.secure and session.tls is None
    assert server.counts["connections"] > server.counts["messages"]  # HAProxy's own checks


def test_tls_goes_through_haproxy_to_the_sink(run: Run, tmp_path: Path, certificates: Certificates) -> None:
    tls: dict[str, Any] = {"tls_cert": certificates.chain_file, "tls_implicit": True}
    context = certificates.client_context()
    came_from, port, session, _ = run(through(tmp_path, certificates, "haproxy", TLS_PASSED_ON, context, **tls))
    check_ends(session, came_from, port)
    assert session.secure and session.tls == "TLSv1.3"


def test_checks_of_an_ignored_haproxy_leave_no_trace(tmp_path: Path, certificates: Certificates) -> None:
    options = ["--proxy-from", "127.0.0.1", "--ignore", "127.0.0.1"]
    with sink_program.sink(tmp_path, *options) as sink:
        context = certificates.client_context()
        with front(tmp_path / "haproxy", "haproxy", TLS_TAKEN_OFF, sink.port, certificates) as port:
            came_from = deliver(port, context)
        counts = sink.end()
        (envelope,) = [json.loads(line) for line in (sink.folder / "envelopes.jsonl").read_text().splitlines()]
    assert (envelope["remote_address"], envelope["remote_port"], envelope["proxy_address"]) == (*came_from, "127.0.0.1")
    assert (counts["messages"], counts["refused"]) == (1, 0)
    assert "PROXY" not in sink.stderr


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("implicit", [False, True], ids=["clear", "tls"])
def test_our_own_clients_header(run: Run, certificates: Certificates, version: str, implicit: bool) -> None:
    async def main() -> None:
        tls: dict[str, Any] = {"tls_cert": certificates.chain_file, "tls_implicit": True} if implicit else {}
        async with Server(proxy_from="*", **tls) as server:
            ca = {"ca_file": str(certificates.ca_file), "server_name": "localhost"} if implicit else {}
            options: dict[str, Any] = {"proxy_protocol": version, "local_address": US, **ca}
            async with bulkmail.Connection(server.url, **options) as connection:
                await connection.send(bulkmail.Envelope("a@example.com", ["b@example.com"]), CONTENT)
            (message,) = server.messages
            assert (message.remote_address, message.proxy_address) == (US, US)
            assert message.content == CONTENT

    run(main())
