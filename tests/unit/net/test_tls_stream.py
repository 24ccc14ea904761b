"""TLS in the hub against the TLS of Python's own streams: bytes, ends, refusals, and what never left."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl

import pytest

from bulkmail.net import hub as hub_module
from bulkmail.net.hub import hub_of
from bulkmail.net.tls_stream import TlsStream, shake_hands
from unit.net.test_stream import BIG, SECONDS, Ear

pytestmark = pytest.mark.skipif(not hub_module.AVAILABLE, reason="this system has no epoll")

RECORD = 16384


@pytest.fixture
def context(certificates):
    return ssl.create_default_context(cafile=str(certificates.ca_file))


@pytest.fixture(params=["1.2", "1.3"])
def server_context(request, certificates):
    made = certificates.server_context()
    made.minimum_version = made.maximum_version = ssl.TLSVersion[f"TLSv1_{request.param[-1]}"]
    return made


async def serving(talk, server_context):
    """A server that gives each connection to talk(reader, writer)."""
    return await asyncio.start_server(talk, "127.0.0.1", 0, ssl=server_context)


def dialled(server):
    sock = socket.create_connection(server.sockets[0].getsockname())
    sock.setblocking(False)
    return sock


async def shaken(server, context, ear=None):
    ear = ear or Ear()
    async with asyncio.timeout(SECONDS):
        stream = await shake_hands(hub_of(asyncio.get_running_loop()), dialled(server), ear, context, "localhost")
    assert type(stream) is TlsStream and ear.transport is stream
    return ear


async def echo(reader, writer):
    while data := await reader.read(RECORD):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_bytes_go_both_ways_and_the_end_is_told(run, context, server_context):
    async def main():
        async with await serving(echo, server_context) as server:
            ear = await shaken(server, context)
            assert ear.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
            ear.transport.writelines([b"one ", b"two ", BIG[: 3 * RECORD]])
            ear.transport.write(b"end")
            await ear.until(lambda ear: ear.heard.endswith(b"end"))
            ear.transport.close()
            await ear.lost()
            return ear

    ear = run(main())
    assert ear.heard == b"one two " + BIG[: 3 * RECORD] + b"end" and ear.calls[-1] == ("lost", None)


@pytest.mark.parametrize("ending", ["close_notify", "cut"])
def test_an_end_of_theirs_is_one_end_with_or_without_a_word(run, context, server_context, ending):
    async def talk(reader, writer):
        writer.write(b"bye")
        await writer.drain()
        if ending == "cut":
            await reader.read(1)
            writer.transport.abort()
        else:
            writer.close()

    async def main():
        async with await serving(talk, server_context) as server:
            ear = await shaken(server, context)
            await ear.until(lambda ear: ear.heard == b"bye")
            if ending == "cut":
                ear.transport.write(b"x")
            await ear.lost()
            return ear.calls

    calls = run(main())
    assert calls[0] == "made" and calls[-1][0] == "lost" and calls.count("eof") <= 1
    if ending == "close_notify":
        assert calls == ["made", "eof", ("lost", None)]


def test_a_certificate_that_nobody_vouches_for_is_refused_and_the_receiver_hears_nothing(run, server_context):
    async def main():
        async with await serving(echo, server_context) as server:
            ear, sock = Ear(), dialled(server)
            with pytest.raises(ssl.SSLCertVerificationError):
                hub = hub_of(asyncio.get_running_loop())
                await shake_hands(hub, sock, ear, ssl.create_default_context(), "localhost")
            await asyncio.sleep(0)
            return ear.calls, sock.fileno()

    assert run(main()) == ([], -1)


@pytest.mark.parametrize(
    ("said", "error"), [(b"", ConnectionResetError), (b"220 mx.example.test ESMTP\r\n", ssl.SSLError)]
)
def test_who_speaks_no_tls_fails_the_handshake(run, context, said, error):
    async def talk(reader, writer):
        await reader.read(10)
        writer.write(said)
        writer.close()

    async def main():
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            ear, sock = Ear(), dialled(server)
            with pytest.raises(OSError) as caught:
                await shake_hands(hub_of(asyncio.get_running_loop()), sock, ear, context, "localhost")
            await asyncio.sleep(0)
            return type(caught.value), ear.calls, sock.fileno()

    assert run(main()) == (error, [], -1)


def test_a_name_that_cannot_be_asked_for_closes_the_socket_too(run, context):
    async def main():
        ours, theirs = socket.socketpair()
        with pytest.raises(ValueError, match="server_hostname"):
            await shake_hands(hub_of(asyncio.get_running_loop()), ours, Ear(), context, "")
        theirs.close()
        return ours.fileno()

    assert run(main()) == -1


def test_a_handshake_that_is_given_up_closes_the_socket(run, context):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ear = Ear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await shake_hands(hub_of(asyncio.get_running_loop()), ours, ear, context, "localhost")
        await asyncio.sleep(0)
        theirs.close()
        return ear.calls, ours.fileno()

    assert run(main()) == ([], -1)


def test_what_is_held_is_written_later_and_what_never_left_is_never_less_than_said(run, context, server_context):
    """A record that is not whole at the other side is not there: of what came, nothing is counted as unsent."""
    go, ended, came = asyncio.Event(), asyncio.Event(), []

    async def talk(reader, writer):
        ended.clear()
        await go.wait()
        try:
            while data := await reader.read(1 << 20):
                came.append(data)
        except OSError:
            pass
        writer.transport.abort()
        ended.set()

    async def main():
        async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=server_context, limit=1024) as server:
            whole = await shaken(server, context)
            whole.transport.set_write_buffer_limits(high=0)
            whole.transport.write(BIG)
            whole.transport.write(b"behind")
            assert whole.calls[-1] == "pause" and 0 < whole.transport.get_write_buffer_size() <= len(BIG) + 6
            go.set()
            await whole.until(lambda ear: ear.calls[-1] == "resume")
            assert whole.transport.get_write_buffer_size() == 0
            async with asyncio.timeout(SECONDS):
                while sum(map(len, came)) < len(BIG) + 6:
                    await asyncio.sleep(0.005)
            whole.transport.close()
            await whole.lost()
            assert b"".join(came) == BIG + b"behind"
            go.clear()
            came.clear()
            cut = await shaken(server, context)
            for at in range(0, len(BIG), 1000):
                cut.transport.write(BIG[at : at + 1000])
            cut.transport.abort()
            await cut.lost()
            go.set()
            async with asyncio.timeout(SECONDS):
                await ended.wait()
            return cut.unsent

    unsent = run(main())
    arrived = sum(map(len, came))
    assert 0 < unsent < len(BIG) and arrived <= len(BIG) - unsent and BIG.startswith(b"".join(came))


def test_while_reading_is_paused_nothing_decrypted_is_heard_and_afterwards_all_of_it(run, context, server_context):
    async def talk(reader, writer):
        writer.write(BIG[: 8 * RECORD])
        await echo(reader, writer)

    async def main():
        async with await serving(talk, server_context) as server:
            ear = Ear()

            def pause(data):
                ear.on_data = None
                ear.transport.pause_reading()
                ear.note("paused")

            ear.on_data = pause
            await shaken(server, context, ear)
            await ear.until(lambda ear: "paused" in ear.calls)
            await asyncio.sleep(0.05)
            before = len(ear.heard)
            ear.transport.resume_reading()
            await ear.until(lambda ear: len(ear.heard) == 8 * RECORD)
            ear.transport.close()
            await ear.lost()
            return before, ear.heard

    before, heard = run(main())
    assert 0 < before <= RECORD and heard == BIG[: 8 * RECORD]


class Server13:
    """`openssl s_server`: what it is told goes to the client, "k" or "K" (asks for ours too) is a KeyUpdate."""

    def __init__(self, program, certificates):
        pem = ["-cert", str(certificates.chain_file), "-key", str(certificates.chain_file)]
        self._command = [program, "s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-msg", *pem]
        self._said = b""

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        self.port = int(await self.says(rb"ACCEPT \S+:(\d+)\n"))
        return self

    async def __aexit__(self, *exception):
        self._process.kill()
        await self._process.wait()

    def tell(self, text):
        self._process.stdin.write(text)

    async def says(self, pattern):
        """The first group of what it says next that matches."""
        async with asyncio.timeout(SECONDS):
            while not (found := re.search(pattern, self._said)):
                more = await self._process.stdout.read(1 << 16)
                assert more, self._said
                self._said += more
        self._said = self._said[found.end() :]
        return found[1]


@pytest.mark.parametrize("asks", [False, True], ids=["theirs", "both"])
def test_new_keys_in_mid_stream_are_taken_and_answered_while_nothing_is_written(
    run, context, certificates, require, asks
):
    """RFC 8446 section 4.6.3. The answer is due before anything else of ours, and we may have nothing to say."""

    async def main():
        async with Server13(require("openssl"), certificates) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setblocking(False)
            ear, hub = Ear(), hub_of(asyncio.get_running_loop())
            async with asyncio.timeout(SECONDS):
                await shake_hands(hub, sock, ear, context, "localhost")
            server.tell(b"one\n")
            await ear.until(lambda ear: ear.heard == b"one\n")
            for number in (b"two\n", b"three\n"):
                before = ear.heard
                server.tell(b"K\n" if asks else b"k\n")
                await server.says(rb"(>>> TLS 1.3, Handshake \[length 0005\], KeyUpdate)")
                server.tell(number)
                await ear.until(lambda ear, whole=before + number: ear.heard == whole)
                ear.transport.write(b"heard " + number)
                if asks:
                    await server.says(rb"(<<< TLS 1.3, Handshake \[length 0005\], KeyUpdate)")
                await server.says(b"(heard " + number + b")")
            ear.transport.close()
            await ear.lost()
            return ear.calls[-1]

    assert run(main()) == ("lost", None)


def test_what_comes_behind_the_end_is_refused_and_said_to_have_never_left(run, context, server_context):
    go = asyncio.Event()

    async def talk(reader, writer):
        await go.wait()
        writer.transport.abort()

    async def main():
        async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=server_context, limit=1024) as server:
            idle = await shaken(server, context)
            idle.transport.close()
            idle.transport.write(b"late")
            idle.transport.writelines([b"and ", b"later"])
            assert idle.transport.get_write_buffer_size() == 13
            await idle.lost()
            held = await shaken(server, context)
            held.transport.write(BIG)
            held.transport.close()
            waiting = held.transport.get_write_buffer_size()
            assert waiting > 0 and not any(call == ("lost", None) for call in held.calls)
            held.transport.write(b"late")
            assert held.transport.get_write_buffer_size() == waiting + 4
            go.set()
            await held.lost()
            return idle.unsent, held.unsent

    idle, held = run(main())
    assert idle == 13 and 4 < held <= len(BIG) + 4
