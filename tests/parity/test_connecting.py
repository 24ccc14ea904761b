"""Connections as users of other clients treat them: closed early, opened twice, entered again, handed over."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from bulkmail.errors import BulkmailError, ConfigError, ConnectError, ConnectionLost, EnvelopeRefused, ProtocolError
from bulkmail.net import direct
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import (
    GREETING,
    at,
    close,
    expect,
    hang,
    hello,
    offer,
    reset,
    scripted,
    send,
    serve,
    start_tls,
    wait,
)

ANN = Envelope("news@example.test", ["ann@example.test"])
WELL = [*hello("AUTH PLAIN"), serve()]
LOGIN = [expect(rb"AUTH PLAIN \S+"), send(b"235 2.7.0 ok\r\n"), serve()]


# ---- closed before it was open


def test_closed_while_the_name_is_looked_up_it_opens_nothing(run, monkeypatch):
    async def main():
        asked, answer = asyncio.Event(), asyncio.Event()

        async def resolve(*args, **options):
            asked.set()
            await answer.wait()
            return await real(*args, **options)

        real = direct.resolve
        monkeypatch.setattr(direct, "resolve", resolve)
        async with scripted(WELL) as server:
            connection = Connection(server.url)
            task = asyncio.ensure_future(connection.connect())
            await asked.wait()
            connection.close()
            answer.set()
            with pytest.raises(ConnectionLost):
                await task
            await asyncio.sleep(0.02)
            return len(server.peers)

    assert run(main()) == 0


@pytest.mark.parametrize("end", ["close", "quit"])
def test_closed_at_each_await_of_connecting(run, end):
    """After one turn of the loop, after two, and so on: connect() says so, nothing stays open, it can connect again."""

    async def main():
        async with scripted(WELL) as server:
            for turns in range(1, 1000):
                connection = Connection(server.url)
                task = asyncio.ensure_future(connection.connect())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.done():
                    await connection.quit()
                    break
                if end == "close":
                    connection.close()
                else:
                    await connection.quit()
                with pytest.raises(ConnectionLost, match="closed"):
                    await task
                with pytest.raises(ConnectionLost):
                    await connection.noop()
            async with connection:
                await connection.noop()
            await server.until(lambda s: not any(peer.alive() for peer in s.peers))
            return turns

    assert run(main()) > 5


def test_cancelled_and_closed_at_once_it_stays_cancelled(run):
    async def main():
        async with scripted([hang()]) as server:
            connection = Connection(server.url)
            task = asyncio.ensure_future(connection.connect())
            await server.until(lambda s: s.peers)
            connection.close()
            connection.close()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


# ---- connected twice


def test_connecting_twice_at_once_is_a_mistake_and_opens_one_connection(run):
    async def main():
        async with scripted([wait(0.01), *WELL]) as server:
            connection = Connection(server.url)
            first, second = await asyncio.gather(connection.connect(), connection.connect(), return_exceptions=True)
            with pytest.raises(ConfigError, match="already connected"):
                await connection.connect()
            code = (await connection.noop()).code  # what was there is as it was
            await connection.quit()
            return first, type(second), code, len(server.peers)

    assert run(main()) == (None, ConfigError, 250, 1)


def test_a_second_attempt_fails_as_the_first_did(run, free_port):
    async def main():
        connection = Connection(f"smtp://127.0.0.1:{free_port()}")
        for _ in range(2):
            with pytest.raises(ConnectError, match="refused"):
                await connection.connect()
        with pytest.raises(ConnectionLost):
            await connection.send(ANN, b"")

    run(main())


def test_after_quit_nothing_works_until_it_is_connected_again(run):
    async def main():
        async with scripted(WELL) as server:
            connection = Connection(server.url)
            await connection.connect()
            await connection.quit()
            for call in (connection.noop, connection.reset, lambda: connection.send(ANN, b"x")):
                with pytest.raises(ConnectionLost):
                    await call()
            connection.close()  # once more does no harm
            await connection.connect()
            code = (await connection.noop()).code
            await connection.quit()
            return code, len(server.peers)

    assert run(main()) == (250, 2)


@pytest.mark.parametrize(
    "lost",
    [
        [*hello(), send(b"421 4.3.2 bye\r\n"), close()],
        [*hello(), expect(rb"NOOP"), reset()],
        [*hello(), wait(0.02), close()],
    ],
    ids=["421 at once", "reset at a command", "closed while idle"],
)
def test_what_the_server_ended_can_be_connected_again(run, lost):
    async def main():
        async with scripted(lost, WELL) as server:
            connection = Connection(server.url)
            try:
                await connection.connect()
                with pytest.raises(ConnectionLost):
                    await connection.noop()
                    await asyncio.wait_for(connection.wait_closed(), 5)
            except ConnectionLost:
                pass  # the 421 may come while it connects
            await connection.connect()
            return (await connection.noop()).code

    assert run(main()) == 250


# ---- async with


def test_a_block_takes_over_what_is_connected_already(run):
    async def main():
        async with scripted(WELL) as server:
            connection = Connection(server.url)
            await connection.connect()
            async with connection as outer, connection as inner:
                assert outer is inner is connection
                code = (await connection.noop()).code
            with pytest.raises(ConnectionLost):
                await connection.noop()
            return code, len(server.peers), bytes(server.peers[0].said).count(b"QUIT")

    assert run(main()) == (250, 1, 1)


def test_leaving_a_block_whose_connection_has_ended_is_quiet(run):
    async def main():
        async with scripted([*hello(), expect(rb"NOOP"), reset()], WELL) as server:
            async with Connection(server.url) as connection:
                with pytest.raises(ConnectionLost):
                    await connection.noop()
            async with Connection(server.url) as connection:
                await connection.quit()
            async with Connection(server.url) as connection:
                connection.close()

    run(main())


def test_an_end_that_nobody_asks_about_is_not_complained_of(run):
    """No "exception was never retrieved" behind a connection that was dropped, lost or said goodbye to."""

    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        lost = [*hello(), wait(0.01), reset()]
        async with scripted(lost, WELL, WELL) as server:
            for goodbye in (False, True, False):
                connection = Connection(server.url)
                await connection.connect()
                number = len(server.peers) - 1
                if goodbye:
                    await connection.quit()
                elif number:
                    connection.close()
                await server.until(lambda s, number=number: not s.peers[number].alive())
                await asyncio.sleep(0.01)
                del connection
                gc.collect()
        return complaints

    assert run(main()) == []


# ---- names that could break out of their line


@pytest.mark.parametrize("name", ["me.test\r\nMAIL FROM:<a@b.test>", "a\rb", "a\nb", "a b", "a\0b", ""])
def test_an_own_name_that_is_none_is_refused_before_anything_is_sent(name):
    with pytest.raises(ConfigError, match="name"):
        Connection("smtp://127.0.0.1", name=name)


def test_an_own_name_goes_out_as_it_is(run):
    async def main():
        async with (
            scripted([send(GREETING), expect(rb"EHLO mail\.example\.com"), send(offer()), serve()]) as server,
            Connection(server.url, name="mail.example.com") as connection,
        ):
            return (await connection.noop()).code

    assert run(main()) == 250


@pytest.mark.parametrize("host", ["localhost\r\n", "local\r\nhost", "a b", "a\0b"])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(ConfigError):
        Connection(f"smtp://{host}:25" if not host.endswith("\n") else f"smtp://{host}x")


@pytest.mark.parametrize("port", ["0", "65536", "999999999", "smtp", "-1"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match="port"):
        Connection(f"smtp://localhost:{port}")


def test_the_port_follows_the_scheme():
    ports = {scheme: Connection(f"{scheme}://mx.example.test")._endpoint.port for scheme in ("smtp", "smtps", "lmtp")}
    assert ports == {"smtp": 587, "smtps": 465, "lmtp": 24}


# ---- a socket that others opened, perhaps through a tunnel of their own


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not yet"])
@pytest.mark.parametrize("implicit", [True, False], ids=["smtps", "starttls"])
def test_a_given_socket_gets_tls_before_the_password(run, certificates, connected, implicit):
    async def main():
        context = certificates.server_context()
        upgrade = [expect(rb"STARTTLS"), send(b"220 go\r\n"), start_tls(context), expect(rb"EHLO .*")]
        script = [*hello("AUTH PLAIN"), *LOGIN]
        if not implicit:
            script = [*hello("STARTTLS"), *upgrade, send(offer("AUTH PLAIN")), *LOGIN]
        async with scripted(script, implicit_tls=context if implicit else None) as server:
            sock = socket.socket()
            if connected:
                sock.connect(("127.0.0.1", server.port))
            url = server.url.replace("//", "//ann:secret@")
            async with Connection(url, socket=sock, ca_file=str(certificates.ca_file)) as connection:
                receipt = await connection.send(ANN, b"hello\r\n")
                return connection.secure, connection.info.auth, receipt.tls is not None, server.contents()

    assert run(main()) == (True, "plain", True, [b"hello\r\n"])


def test_tls_over_a_given_socket_verifies_the_url_s_name(run, certificates):
    async def main():
        async with scripted(WELL, implicit_tls=certificates.server_context()) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                connection = Connection("smtps://elsewhere.test", socket=sock, ca_file=str(certificates.ca_file))
                with pytest.raises(BulkmailError, match=r"elsewhere\.test"):
                    await connection.connect()
            async with Connection(server.url, ca_file=str(certificates.ca_file)) as connection:
                return connection.tls, connection.peer == f"127.0.0.1:{server.port}", connection.info.tls

    assert run(main()) == ("TLSv1.3", True, "TLSv1.3")


# ---- commands that have no method


def test_a_command_of_one_s_own(run):
    async def main():
        script = [*hello("SMTPUTF8"), expect(rb"HELP"), send(b"214-MAIL RCPT\r\n214 DATA\r\n")]
        script += [expect(rb"VRFY ann@example\.test"), send(b"252 2.5.2 perhaps\r\n")]
        script += [expect("EXPN lïste".encode()), send(b"502 5.5.1 not here\r\n"), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            replies = [await connection.command(line) for line in ("HELP", "VRFY ann@example.test", "EXPN lïste")]
            assert (await connection.send(ANN, b"x\r\n")).accepted
            return [(reply.code, reply.text) for reply in replies]

    assert run(main()) == [(214, "MAIL RCPT DATA"), (252, "2.5.2 perhaps"), (502, "5.5.1 not here")]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("VRFY ann@example.test\r\nRCPT TO:<eve@example.test>", ConfigError),
        ("VRFY a\nb", ConfigError),
        ("VRFY a\0b", ConfigError),
        ("VRFY a\tb", ConfigError),
        ("", ConfigError),
        (" NOOP", ConfigError),
        ("VRFY " + "x" * 506, ConfigError),
        ("VRFY ünal", EnvelopeRefused),
        ("mail FROM:<a@b.test>", ConfigError),
        ("DATA", ConfigError),
        ("EHLO me", ConfigError),
        ("STARTTLS", ConfigError),
        ("AUTH PLAIN xyz", ConfigError),
        ("QUIT", ConfigError),
    ],
)
def test_a_command_that_would_break_the_dialogue_is_not_sent(run, line, error):
    async def main():
        async with scripted([*hello(), serve()]) as server, Connection(server.url) as connection:
            before = len(server.peers[0].said)
            with pytest.raises(error):
                await connection.command(line)
            await connection.noop()
            return bytes(server.peers[0].said)[before:]

    assert run(main()) == b"NOOP\r\n"


def test_a_command_that_the_server_wants_more_of_ends_the_connection(run):
    async def main():
        async with scripted([*hello(), expect(rb"XEXCH50 .*"), send(b"354 send it\r\n"), hang()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            assert (await connection.command("XEXCH50 9 2")).code == 354
            with pytest.raises(ProtocolError, match="354"):
                await connection.noop()

    run(main())


def test_421_to_a_command_ends_the_connection(run):
    async def main():
        busy = at("NOOP", [send(b"421 4.3.2 bye\r\n"), close()])
        async with scripted([*hello(), serve(busy)]) as server:
            connection = Connection(server.url)
            await connection.connect()
            for _ in range(2):
                with pytest.raises(ConnectionLost, match=r"4\.3\.2 bye"):
                    await connection.command("NOOP")

    run(main())
