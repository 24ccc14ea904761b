"""Connecting to servers that refuse, fall silent, hang up or talk nonsense before a message can be sent."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bulkmail.errors import (
    AuthError,
    BulkmailError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ProtocolError,
    ResolveError,
    TimedOut,
)
from bulkmail.smtp import attach
from bulkmail.smtp.connection import Connection
from faults.scripted import (
    GREETING,
    close,
    drip,
    expect,
    hang,
    hello,
    offer,
    reset,
    scripted,
    send,
    serve,
    silence,
    start_tls,
)

SOON = 0.1  # seconds: the deadline in tests of silence
EHLO = expect(rb"EHLO .*")


async def failure(server, **options):
    """What connect() raises; the connection must be closed and say so from then on."""
    connection = Connection(server if isinstance(server, str) else server.url, **{"name": "me.example.test", **options})
    with pytest.raises(BulkmailError) as caught:
        await connection.connect()
    connection.close()
    with pytest.raises(ConnectionLost):
        await connection.noop()
    return caught.value


async def failure_after(script, **options):
    async with scripted(script) as server:
        return await failure(server, **options)


def told(error):
    return type(error), error.code, error.scope, error.permanent, error.command, error.reply and error.reply.code


# ---- no connection at all


def test_a_refused_connection(run, free_port):
    error = run(failure(f"smtp://127.0.0.1:{free_port()}"))
    assert told(error) == (ConnectError, "ECONNECTION", "relay", False, None, None)
    assert "127.0.0.1" in str(error) and "refused" in str(error)


def test_a_name_that_does_not_resolve(run):
    error = run(failure("smtp://no-such-host.invalid"))
    assert told(error) == (ResolveError, "EDNS", "relay", False, None, None)


def test_a_url_without_scheme_is_a_host(run):
    async def main():
        async with (
            scripted([*hello(), serve()]) as server,
            Connection(f"127.0.0.1:{server.port}") as connection,
        ):
            return connection.peer == f"127.0.0.1:{server.port}"

    assert run(main())


# ---- the greeting


def test_a_server_that_never_greets(run):
    async def main():
        async with silence() as port:
            return await failure(f"smtp://127.0.0.1:{port}", greeting_timeout=SOON)

    error = run(main())
    assert told(error) == (TimedOut, "ETIMEDOUT", "connection", False, "greeting", None)
    assert error.phase == "greeting" and isinstance(error, TimeoutError)


def test_a_dripped_greeting_runs_out_of_time(run):
    error = run(failure_after([drip(GREETING, 0.01), hang()], greeting_timeout=SOON))
    assert (type(error), error.phase) == (TimedOut, "greeting")


@pytest.mark.parametrize(("line", "permanent"), [(b"554 5.7.1 go away\r\n", True), (b"421 4.7.0 busy\r\n", False)])
@pytest.mark.parametrize("end", [close(), reset(), hang()], ids=["close", "reset", "stay"])
def test_a_greeting_that_refuses(run, line, permanent, end):
    error = run(failure_after([send(line), end]))
    assert told(error) == (ConnectError, "ECONNECTION", "relay", permanent, "greeting", int(line[:3]))
    assert str(error.reply) == line.decode().rstrip()


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
@pytest.mark.parametrize("before", [b"", b"22", b"220-mx\r\n"], ids=["nothing", "half a line", "half a reply"])
def test_hung_up_on_in_the_greeting(run, before, end):
    error = run(failure_after([send(before), end]))
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, "greeting", None)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        b"220-a\r\n250 b\r\n",
        b"999 x\r\n",
        b"x" * 70_000,
    ],
    ids=["http", "tls", "two codes", "no such code", "endless line"],
)
def test_a_greeting_that_is_no_smtp(run, garbage):
    error = run(failure_after([send(garbage), hang()]))
    assert told(error)[:3] == (ProtocolError, "EPROTOCOL", "connection")


def test_a_greeting_of_many_lines_and_one_sent_with_the_ehlo_reply(run):
    async def main(greeting):
        async with (
            scripted([send(greeting), EHLO, send(offer("SIZE 1000")), serve()]) as server,
            Connection(server.url) as connection,
        ):
            return connection.info

    info = run(main(b"220-one\r\n220 two\r\n"))
    assert info.greeting == "one two" and info.extensions == {"SIZE": "1000"} and info.tls is None and info.auth is None


# ---- EHLO


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550])
def test_helo_where_ehlo_is_not_known(run, code):
    async def main():
        script = [send(GREETING), EHLO, send(b"%d 5.5.1 what?\r\n" % code), expect(rb"HELO me\.example\.test")]
        async with (
            scripted([*script, send(b"250 hello\r\n"), serve()]) as server,
            Connection(server.url, name="me.example.test") as connection,
        ):
            return connection.extensions

    assert run(main()) == {}


def test_refused_ehlo_and_helo(run):
    script = [send(GREETING), EHLO, send(b"502 what?\r\n"), expect(rb"HELO .*"), send(b"554 no\r\n"), hang()]
    error = run(failure_after(script))
    assert told(error) == (ConnectError, "ECONNECTION", "relay", True, "HELO", 554)


@pytest.mark.parametrize(("line", "permanent"), [(b"554 5.7.1 you again\r\n", True), (b"421 4.7.0 busy\r\n", False)])
def test_ehlo_refused_for_good(run, line, permanent):
    error = run(failure_after([send(GREETING), EHLO, send(line), close()]))
    assert told(error) == (ConnectError, "ECONNECTION", "relay", permanent, "EHLO", int(line[:3]))


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_in_the_ehlo(run, end):
    error = run(failure_after([send(GREETING), EHLO, send(b"250-mx\r\n"), end]))
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, "EHLO", None)


@pytest.mark.parametrize("answer", [hang(), drip(offer("PIPELINING"), 0.02)], ids=["silence", "a byte at a time"])
def test_a_slow_ehlo_runs_out_of_time_however_alive_the_server_is(run, answer):
    error = run(failure_after([send(GREETING), EHLO, answer, hang()], command_timeout=SOON))
    assert told(error) == (TimedOut, "ETIMEDOUT", "connection", False, "EHLO", None)
    assert error.phase == "command" and "EHLO" in str(error)


def test_a_drip_that_is_fast_enough_is_as_good_as_any(run):
    async def main():
        script = [drip(GREETING, 0), EHLO, drip(offer("PIPELINING", "SIZE"), 0.001), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            return connection.extensions

    assert run(main()) == {"PIPELINING": "", "SIZE": ""}


def test_a_421_after_the_greeting_closes_before_anything_is_asked(run):
    async def main():
        async with scripted([send(GREETING + b"421 4.3.2 not now\r\n"), hang()]) as server:
            return await failure(server)

    error = run(main())
    assert isinstance(error, ConnectionLost) and error.reply.code == 421 and not error.permanent


def test_a_connection_that_dies_right_after_the_negotiation_is_not_handed_out(run):
    error = run(failure_after([send(GREETING), EHLO, send(offer() + b"421 4.3.2 bye\r\n"), close()]))
    assert isinstance(error, ConnectionLost) and error.reply.code == 421


def test_our_name_is_the_option_or_something_a_server_can_accept(run):
    async def main(**options):
        async with scripted([send(GREETING), EHLO, send(offer()), serve()]) as server:
            async with Connection(server.url, **options):
                pass
            return bytes(server.peers[0].said).split(b"\r\n")[0]

    assert run(main(name="news.example.test")) == b"EHLO news.example.test"


def test_an_own_name_without_being_told(run):
    async def main():
        async with scripted([send(GREETING), EHLO, send(offer()), serve()]) as server:
            async with Connection(server.url):
                pass
            return bytes(server.peers[0].said).split(b"\r\n")[0].decode().removeprefix("EHLO ")

    name = run(main())
    assert name == "[127.0.0.1]" or ("." in name and not name.startswith("localhost"))


# ---- cancelled on the way


@pytest.mark.parametrize(
    "script",
    [
        [hang()],
        [send(GREETING), hang()],
        [*hello("AUTH PLAIN"), hang()],
        [*hello("STARTTLS"), expect(rb"STARTTLS"), hang()],
    ],
    ids=["greeting", "EHLO", "AUTH", "STARTTLS"],
)
def test_a_cancelled_connect_leaves_nothing_open(run, script):
    async def main():
        async with scripted(script) as server:
            connection = Connection(server.url.replace("//", "//user:secret@"))
            task = asyncio.ensure_future(connection.connect())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda s: s.peers and not s.peers[0].alive())
            with pytest.raises(ConnectionLost):
                await connection.noop()

    run(main())


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_connect_cancelled_at_each_await(run, certificates, implicit, monkeypatch):
    """After one turn of the loop, after two, and so on until it is through: no connection or descriptor is left."""
    dialled = []

    async def dial(*args, **options):
        dialled.append(await real_dial(*args, **options))
        return dialled[-1]

    async def main():
        context = certificates.server_context()
        login = [expect(rb"AUTH PLAIN \S+"), send(b"235 ok\r\n"), serve()]
        upgrade = [
            expect(rb"STARTTLS"),
            send(b"220 go\r\n"),
            start_tls(context),
            EHLO,
            send(offer("AUTH PLAIN")),
            *login,
        ]
        script = [*hello("AUTH PLAIN"), *login] if implicit else [*hello("STARTTLS"), *upgrade]
        async with scripted(script, implicit_tls=context if implicit else None) as server:
            url = server.url.replace("//", "//ann:secret@")
            for turns in range(1000):
                connection = Connection(url, ca_file=str(certificates.ca_file))
                task = asyncio.ensure_future(connection.connect())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.done():
                    await connection.quit()
                    break
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with pytest.raises(ConnectionLost):
                    await connection.noop()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert [line.sock.fileno() for line in dialled] == [-1] * len(dialled)
                dialled.clear()
            await server.until(lambda s: not any(peer.alive() for peer in s.peers))
            return turns

    real_dial = attach.net_dial.reach
    monkeypatch.setattr(attach.net_dial, "reach", dial)
    assert run(main()) > 10  # awaits at each of which it was cancelled


# ---- a socket that is given


def test_a_socket_that_is_not_connected_yet(run):
    async def main():
        async with scripted([*hello(), serve()]) as server:
            sock = socket.socket()
            async with Connection(server.url, socket=sock) as connection:
                return (await connection.noop()).code, sock.getpeername()[1] == server.port

    assert run(main()) == (250, True)


def test_a_socket_that_is_connected_is_used_as_it_is(run):
    async def main():
        async with scripted([*hello(), serve()]) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            async with Connection("smtp://elsewhere.example.test", socket=sock) as connection:
                await connection.noop()
                return connection.peer

    assert run(main()).startswith("127.0.0.1:")


def test_a_given_unix_socket(run):
    async def main():
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)

        async def server():
            writer.write(GREETING)
            await reader.readline()
            writer.write(offer())
            await reader.readline()
            writer.write(b"221 bye\r\n")
            writer.close()

        serving = asyncio.ensure_future(server())
        async with Connection("smtp://mx.example.test", socket=ours) as connection:
            assert connection.extensions == {}
        await serving

    run(main())


def test_a_given_socket_that_cannot_be_connected(run, free_port):
    async def main():
        sock = socket.socket()
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
            await Connection(f"smtp://127.0.0.1:{free_port()}", socket=sock).connect()
        return sock.fileno()

    assert run(main()) == -1


def test_a_given_socket_that_never_connects_runs_out_of_time(run):
    async def main():
        with socket.socket() as listener:  # a full backlog: the kernel answers nobody further
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            crowd = [socket.socket() for _ in range(4)]
            for one in crowd:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            await asyncio.sleep(0.05)
            sock = socket.socket()
            url = f"smtp://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(TimedOut) as caught:
                await Connection(url, socket=sock, connect_timeout=SOON).connect()
            for one in crowd:
                one.close()
            return caught.value.phase, sock.fileno()

    assert run(main()) == ("connect", -1)


def test_a_given_socket_and_a_name_that_does_not_resolve(run):
    async def main():
        await Connection("smtp://no-such-host.invalid", socket=socket.socket()).connect()

    with pytest.raises(ResolveError):
        run(main())


# ---- options that cannot be used


def test_a_wire_log_that_cannot_be_written_is_a_matter_of_configuration(run, tmp_path):
    error = run(failure_after([*hello(), serve()], wire_log=str(tmp_path / "missing" / "wire.log")))
    assert isinstance(error, ConfigError) and "wire_log" in str(error)


def test_credentials_refused_are_one_attempt(run):
    async def main():
        script = [*hello("AUTH PLAIN"), expect(rb"AUTH PLAIN .*"), send(b"535 5.7.8 no\r\n"), hang()]
        async with scripted(script) as server:
            error = await failure(server.url.replace("//", "//ann:secret@"))
            return error, bytes(server.peers[0].said).count(b"AUTH")

    error, attempts = run(main())
    assert told(error) == (AuthError, "EAUTH", "relay", True, "AUTH", 535)
    assert attempts == 1
