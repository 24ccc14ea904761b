"""Connections over what the caller has connected: sockets, TLS sockets, transports; deadlines of a send; records."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import pytest

from bulkmail.errors import ConfigError, ConnectionLost, EnvelopeRefused, InDoubt, TimedOut
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import WELL
from faults.scripted import at, close, expect, hang, hello, scripted, serve, silence

ANN = Envelope("news@example.test", ["ann@example.test"])
SOON = 0.2
BIG = b"line of a message that is larger than a socket takes at once\r\n" * 40_000


def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file)
    return context


def shake_hands(port, certificates):
    """A TLS socket, in a thread: its handshake blocks."""
    context = ssl.create_default_context(cafile=str(certificates.ca_file))
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="127.0.0.1")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_tls_socket_counts_as_encrypted_and_is_not_upgraded_again(run, certificates, scheme):
    async def main():
        script = [*hello("PIPELINING", "STARTTLS"), serve()]
        async with scripted(script, implicit_tls=server_context(certificates)) as server:
            sock = await asyncio.to_thread(shake_hands, server.port, certificates)
            async with Connection(f"{scheme}://127.0.0.1:{server.port}", socket=sock) as connection:
                assert connection.secure and connection.tls.startswith("TLSv1.")
                assert connection.peer == f"127.0.0.1:{server.port}"
                await connection.send(ANN, BIG)
                await connection.send(ANN, (BIG[at : at + 70_000] for at in range(0, len(BIG), 70_000)))
            await asyncio.sleep(0)
            assert sock.fileno() == -1, "closed at the end"
            return server.contents(), b"STARTTLS" in server.peers[0].said

    contents, upgraded = run(main())
    assert contents == [BIG, BIG] and not upgraded


def test_a_tls_socket_whose_server_goes_away_is_a_loss(run, certificates):
    async def main():
        script = [*hello("PIPELINING"), expect(rb"NOOP"), close()]
        async with scripted(script, implicit_tls=server_context(certificates)) as server:
            sock = await asyncio.to_thread(shake_hands, server.port, certificates)
            connection = Connection(server.url, socket=sock)
            await connection.connect()
            with pytest.raises(ConnectionLost):
                await connection.noop()
            with pytest.raises(ConnectionLost):
                await connection.wait_closed()
            assert sock.fileno() == -1

    run(main())


def test_a_tls_socket_that_is_not_connected_is_refused(run, certificates):
    async def main():
        sock = ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="x")
        with pytest.raises(ConfigError):
            await Connection("smtp://127.0.0.1:1", socket=sock).connect()
        sock.close()

    run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_transport_that_others_opened(run, certificates, tls):
    async def main():
        context = server_context(certificates) if tls else None
        async with scripted(WELL, implicit_tls=context) as server:
            ours = ssl.create_default_context(cafile=str(certificates.ca_file)) if tls else None
            loop = asyncio.get_running_loop()

            class Early(asyncio.Protocol):
                def connection_made(self, transport):
                    transport.pause_reading()  # the greeting is for the Connection

            transport, _ = await loop.create_connection(Early, "127.0.0.1", server.port, ssl=ours)
            async with Connection(f"smtp://127.0.0.1:{server.port}", transport=transport) as connection:
                assert connection.secure == tls
                await connection.send(ANN, b"hi\n")
            assert transport.is_closing()
            return server.contents()

    assert run(main()) == [b"hi\r\n"]


def test_a_transport_in_clear_is_encrypted_where_the_url_says_so(run, certificates):
    async def main():
        async with scripted(WELL, implicit_tls=server_context(certificates)) as server:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", server.port)
            url = f"smtps://127.0.0.1:{server.port}"
            async with Connection(url, transport=transport, ca_file=str(certificates.ca_file)) as connection:
                assert connection.secure

    run(main())


@pytest.mark.parametrize("given", ["socket and transport", "nonsense", "closed"])
def test_what_cannot_be_a_transport_is_refused(run, given):
    async def main():
        async with scripted(WELL) as server:
            if given == "socket and transport":
                with pytest.raises(ConfigError, match="not both"):
                    Connection(server.url, socket=socket.socket(), transport=object())
                return
            transport = object()
            if given == "closed":
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, "127.0.0.1", server.port
                )
                transport.close()
            with pytest.raises(ConfigError, match="closed" if given == "closed" else "expected a transport"):
                await Connection(server.url, transport=transport).connect()

    run(main())


# ---- a deadline for a whole send


def test_a_send_that_takes_too_long_before_its_content_was_not_taken(run):
    async def main():
        script = [*hello("PIPELINING"), serve(at("DATA", hang()))]
        async with scripted(script) as server, Connection(server.url) as connection:
            with pytest.raises(TimedOut, match=r"not sent within 0\.2 s"):
                await connection.send(ANN, b"hi\n", timeout=SOON)
            with pytest.raises(TimedOut):
                await connection.noop()

    run(main())


def test_a_send_that_takes_too_long_after_its_content_is_in_doubt(run):
    async def main():
        async with scripted([*hello("PIPELINING"), serve(at("dot", hang()))]) as server:
            async with Connection(server.url) as connection:
                with pytest.raises(InDoubt) as caught:
                    await connection.send(ANN, b"hi\n", timeout=SOON)
            return caught.value.__cause__

    assert isinstance(run(main()), TimedOut)


def test_a_source_that_never_ends_runs_out_of_time(run):
    async def main():
        async def source():
            yield b"a line\r\n"
            await asyncio.Event().wait()

        async with scripted(WELL) as server, Connection(server.url) as connection:
            with pytest.raises(TimedOut):
                await connection.send(ANN, source(), timeout=SOON)
            return server.contents()

    assert run(main()) == []


def test_a_mailers_send_that_never_began_was_not_taken(run):
    async def main():
        async with silence() as port, Mailer(f"smtp://127.0.0.1:{port}") as mailer:
            with pytest.raises(TimedOut):
                await mailer.send(b"Subject: 1\n\n", envelope=ANN, timeout=SOON)

    run(main())


def test_a_mailers_send_that_had_begun_is_in_doubt(run):
    async def main():
        async with scripted([*hello("PIPELINING"), serve(at("dot", hang()))]) as server:
            mailer = Mailer(server.url)
            with pytest.raises(InDoubt):
                await mailer.send(b"Subject: 1\n\n", envelope=ANN, timeout=SOON)
            await mailer.__aexit__(RuntimeError, None, None)

    run(main())


# ---- records


def test_records_name_connection_phase_and_place_and_log_off_is_silent(run, caplog):
    async def main():
        async with scripted(WELL) as server:
            for log in (True, False):
                async with Connection(server.url, log=log) as connection:
                    await connection.send(ANN, b"hi\n")
            return connection.id

    with caplog.at_level(logging.DEBUG, "bulkmail.smtp"):
        second = run(main())
    cids = {record.cid for record in caplog.records if record.name == "bulkmail.smtp"}
    assert cids and second not in cids
    assert any(
        record.phase == "connect" and "connected to 127.0.0.1:" in record.getMessage() for record in caplog.records
    )


def test_records_of_a_refusal_and_of_a_loss_have_phase_and_reply(run, caplog):
    async def main():
        script = [*hello("PIPELINING"), serve(at("RCPT", b"550 5.1.1 nobody\r\n"), at("NOOP", close()))]
        async with scripted(script) as server, Connection(server.url) as connection:
            with pytest.raises(EnvelopeRefused):
                await connection.send(ANN, b"hi\n")
            with pytest.raises(ConnectionLost):
                await connection.noop()
            await asyncio.sleep(0)

    with caplog.at_level(logging.INFO, "bulkmail.smtp"):
        run(main())
    said = {record.phase: record for record in caplog.records if record.name == "bulkmail.smtp"}
    assert said["RCPT"].reply.code == 550 and "ann@example.test" in said["RCPT"].getMessage()
    assert "the connection ended: the server closed the connection" in said["NOOP"].getMessage()


# ---- idle connections


def test_an_idle_connection_is_kept_alive_and_still_ended_in_time(run, monkeypatch):
    monkeypatch.setattr("bulkmail.pool.lane.KEEP_ALIVE_SECONDS", 0.05)

    async def main():
        async with scripted(WELL) as server, Mailer(server.url, idle_timeout=0.5) as mailer:
            await mailer.send(b"Subject: 1\n\n", envelope=ANN)
            await server.until(lambda s: s.peers[0].ended)
            return server.peers[0].times

    times = run(main())
    assert times["NOOP"] >= 1 and times["QUIT"] == 1
