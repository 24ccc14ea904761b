"""The PROXY header on the wire: before the greeting, before any byte of TLS, on every connection; and what ends it."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
from contextlib import asynccontextmanager

import pytest

from bulkmail.errors import ConfigError, ConnectError, ConnectionLost, ProtocolError, TimedOut
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from bulkmail.smtp.verify import probe
from faults.scripted import GREETING, Scripted, close, expect, hang, hello, reset, scripted, send, serve, start_tls

ANN = Envelope("news@example.test", ["ann@example.test"])
SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
WELL = [*hello("PIPELINING"), serve()]
SOON = 0.2
NO_ENDS = {"v1": b"PROXY UNKNOWN\r\n", "v2": SIGNATURE + bytes.fromhex("20000000")}


# ---- a server that reads the header from the bare socket, so that what follows it is untouched


async def exactly(sock, size):
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        assert piece, f"the client ended it behind {data!r}"
        data += piece
    return data


async def until(sock, end):
    data = b""
    while not data.endswith(end):
        data += await exactly(sock, 1)
    return data


async def read_header(sock):
    first = await exactly(sock, 1)
    if first == b"P":
        return first + await until(sock, b"\r\n")
    head = first + await exactly(sock, 15)
    return head + await exactly(sock, struct.unpack("!H", head[14:])[0])


def listen(host):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    listener.bind((host, 0))
    listener.listen(16)
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def balanced(*scripts, implicit_tls=None, host="127.0.0.1", proxy=False):
    """A scripted server that takes nothing before a header; those are in `headers`, the clients' addresses in `seen`.

    proxy    answer CONNECT first: one that plays the relay itself
    """
    loop, listener = asyncio.get_running_loop(), listen(host)
    server = Scripted(scripts, listener.getsockname()[1], "smtps" if implicit_tls else "smtp")
    server.url = f"{server.url.split(':')[0]}://{f'[{host}]' if ':' in host else host}:{server.port}"
    server.headers, server.seen, server.asked = [], [], []

    async def serve_one(sock, address):
        server.seen.append(address)
        if proxy:
            server.asked.append(await until(sock, b"\r\n\r\n"))
            await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\r\n\r\n")
        server.headers.append(await read_header(sock))
        reader = asyncio.StreamReader()
        done = loop.create_future()

        async def play(*streams):
            try:
                await server.on_connection(*streams)
            finally:
                done.set_result(None)

        await loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader, play), sock, ssl=implicit_tls)
        await done

    async def accept():
        async with asyncio.TaskGroup() as group:
            while True:
                sock, address = await loop.sock_accept(listener)
                sock.setblocking(False)
                group.create_task(serve_one(sock, address))

    accepting = loop.create_task(accept())
    try:
        yield server
    finally:
        accepting.cancel()
        (failure,) = await asyncio.gather(accepting, return_exceptions=True)
        listener.close()
        for peer in server.peers:
            peer.writer.transport.abort()
        if not isinstance(failure, asyncio.CancelledError):
            raise failure
    if server.problems:
        raise server.problems[0]


def header(version, here, there):
    """What the specification says, for ends as sockets name them."""
    (address, port), (its_address, its_port) = here[:2], there[:2]
    family, number, code = (socket.AF_INET6, 6, 0x21) if ":" in address else (socket.AF_INET, 4, 0x11)
    if version == "v1":
        return f"PROXY TCP{number} {address} {its_address} {port} {its_port}\r\n".encode()
    ends = b"".join([
        socket.inet_pton(family, address), socket.inet_pton(family, its_address), struct.pack("!HH", port, its_port)
    ])  # fmt: skip
    return SIGNATURE + bytes([0x21, code, 0, len(ends)]) + ends


def trusting(certificates, **options):
    return {"ca_file": str(certificates.ca_file), "server_name": "localhost", **options}


versions = pytest.mark.parametrize("version", ["v1", "v2"])
hosts = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


# ---- the first bytes


@versions
@hosts
@pytest.mark.parametrize("tls", ["clear", "starttls", "implicit"])
def test_the_header_comes_first_and_in_clear(run, certificates, version, host, tls):
    context = certificates.server_context()
    script = {
        "clear": WELL,
        "starttls": [*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 ok\r\n"), start_tls(context),
                     expect(rb"EHLO .*"), send(b"250 mx.example.test\r\n"), serve()],
        "implicit": WELL,
    }[tls]  # fmt: skip

    async def main():
        implicit = context if tls == "implicit" else None
        async with balanced(script, host=host, implicit_tls=implicit) as server:
            options = trusting(certificates, proxy_protocol=version)
            async with Connection(server.url, **options) as connection:
                assert connection.secure == (tls != "clear")
                await connection.send(ANN, b"hi\n")
            assert server.contents() == [b"hi\r\n"]
            assert server.headers == [header(version, server.seen[0], (host, server.port))]

    run(main())


@versions
def test_a_source_address_is_who_we_are(run, version):
    async def main():
        async with balanced(WELL) as server:
            async with Connection(server.url, proxy_protocol=version, local_address="127.0.0.5"):
                pass
            assert server.seen[0][0] == "127.0.0.5"
            assert server.headers == [header(version, server.seen[0], ("127.0.0.1", server.port))]

    run(main())


@versions
def test_a_unix_socket_has_no_ends_to_tell(run, tmp_path, version):
    path, said = str(tmp_path / "lmtp"), asyncio.Queue()

    async def lmtp(reader, writer):
        said.put_nowait(await reader.readexactly(len(NO_ENDS[version])))
        writer.write(GREETING)
        said.put_nowait(await reader.readexactly(5))
        writer.close()

    async def main():
        async with await asyncio.start_unix_server(lmtp, path):
            with pytest.raises(ConnectionLost):
                await Connection(f"lmtp+unix://{path}", proxy_protocol=version).connect()
            assert (await said.get(), await said.get()) == (NO_ENDS[version], b"LHLO ")

    run(main())


def test_without_the_option_not_a_byte_comes_first(run):
    async def main():
        async with scripted(WELL) as server, Connection(server.url):
            return server.peers[0].said

    assert run(main()).startswith(b"EHLO ")


def test_in_clear_again_after_a_broken_handshake_is_with_a_header_again(run):
    broken = [*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 ok\r\n"), close()]

    async def main():
        async with balanced(broken, WELL) as server:
            async with Connection(server.url, proxy_protocol="v1", tls="opportunistic") as connection:
                assert not connection.secure
            there = ("127.0.0.1", server.port)
            assert server.headers == [header("v1", address, there) for address in server.seen]
            assert len(server.headers) == 2

    run(main())


@versions
@pytest.mark.parametrize(
    ("relay", "said"), [("192.0.2.25", "192.0.2.25"), ("mx.example.test", None), ("[2001:db8::25]", None)]
)
def test_through_a_proxy_the_relay_is_named_where_it_is_known(run, version, relay, said):
    """Else the proxy's address stands for it, so that ours gets through."""

    async def main():
        async with balanced(WELL, proxy=True) as server:
            proxy = f"http://127.0.0.1:{server.port}"
            async with Connection(f"smtp://{relay}:2525", proxy=proxy, proxy_protocol=version) as connection:
                await connection.send(ANN, b"hi\n")
            assert server.asked[0].startswith(f"CONNECT {relay}:2525 ".encode())
            there = (said, 2525) if said else ("127.0.0.1", server.port)
            assert server.headers == [header(version, server.seen[0], there)]

    run(main())


# ---- what was connected by others


@versions
@pytest.mark.parametrize("given", ["socket", "transport"])
@pytest.mark.parametrize("implicit", [False, True], ids=["clear", "tls"])
def test_what_others_connected_gets_the_header_too(run, certificates, version, given, implicit):
    async def main():
        async with balanced(WELL, implicit_tls=certificates.server_context() if implicit else None) as server:
            sock = socket.create_connection(("127.0.0.1", server.port), 10)
            here, line = sock.getsockname(), {"socket": sock}
            if given == "transport":
                sock.setblocking(False)
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=sock)
                line = {"transport": transport}
            async with Connection(server.url, **line, **trusting(certificates, proxy_protocol=version)) as connection:
                assert connection.secure == implicit
                await connection.send(ANN, b"hi\n")
            assert server.headers == [header(version, here, ("127.0.0.1", server.port))]

    run(main())


@pytest.mark.parametrize("given", ["socket", "transport"])
def test_behind_a_tls_handshake_it_is_too_late_for_a_header(run, certificates, given):
    async def main():
        async with scripted([hang()], implicit_tls=certificates.server_context()) as server:
            context = ssl.create_default_context(cafile=str(certificates.ca_file))

            def shake_hands():
                return context.wrap_socket(
                    socket.create_connection(("127.0.0.1", server.port), 10), server_hostname="localhost"
                )

            if given == "socket":
                line = await asyncio.to_thread(shake_hands)
            else:
                line, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
                )
            with pytest.raises(ConfigError, match=r"'proxy_protocol' .* TLS already"):
                Connection(server.url, proxy_protocol="v1", **{given: line})
            line.close()

    run(main())


# ---- lines that end


def full_pair():
    """Two ends of a TCP connection; into the first no byte goes any more."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    idle = 0
    while idle < 3:  # what is under way frees room in the first buffer, once or twice
        try:
            ours.send(b"x" * 4096)
            idle = 0
        except BlockingIOError:
            idle += 1
            select.select([], [ours], [], 0.05)
    return ours, theirs


def reset_it(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@versions
def test_a_reset_while_the_header_is_written_is_a_loss(run, version):
    async def main():
        ours, theirs = full_pair()
        connecting = asyncio.ensure_future(
            Connection("smtp://relay.test", socket=ours, proxy_protocol=version).connect()
        )
        asyncio.get_running_loop().call_later(SOON, reset_it, theirs)
        with pytest.raises(ConnectionLost, match=r"relay.test:587: the connection was lost before the PROXY header: "):
            await connecting
        assert ours.fileno() == -1

    run(main())


def test_a_header_that_nobody_reads_has_a_deadline(run):
    async def main():
        ours, theirs = full_pair()
        with theirs, pytest.raises(TimedOut, match=r"PROXY header could not be sent within 0\.2 s") as caught:
            await Connection("smtp://relay.test", socket=ours, proxy_protocol="v2", connect_timeout=SOON).connect()
        assert caught.value.phase == "connect" and ours.fileno() == -1

    run(main())


def test_a_cancellation_while_the_header_is_written_closes_the_socket(run):
    async def main():
        ours, theirs = full_pair()
        connection = Connection("smtp://relay.test", socket=ours, proxy_protocol="v2")
        with theirs, pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await connection.connect()
        assert ours.fileno() == -1

    run(main())


@pytest.mark.parametrize("end", [reset, close])
def test_a_server_that_hangs_up_on_the_header(run, end):
    async def main():
        async with balanced([end()]) as server:
            with pytest.raises(ConnectionLost):
                await Connection(server.url, proxy_protocol="v2").connect()

    run(main())


# ---- servers that expect none, or one


def test_a_header_that_the_server_takes_for_a_command_shifts_no_reply(run):
    """The 500 is for the header. Behind HELO each reply would stand for the command before its own."""
    script = [send(GREETING), expect(rb"PROXY .*"), expect(rb"EHLO .*"), send(b"500 what?\r\n"), hang()]

    async def main():
        async with scripted(script) as server:
            with pytest.raises(ConnectError, match="refused EHLO: 500"):
                await Connection(server.url, proxy_protocol="v1", command_timeout=SOON * 10).connect()
            await server.until(lambda server: server.peers[0].ended)
            assert b"HELO" not in server.peers[0].said

    run(main())


def test_a_reply_to_the_header_right_behind_the_greeting_breaks_the_dialogue(run):
    async def main():
        async with scripted([expect(rb"PROXY .*"), send(GREETING + b"500 what?\r\n"), hang()]) as server:
            with pytest.raises((ProtocolError, ConnectError)):
                await Connection(server.url, proxy_protocol="v1").connect()

    run(main())


UNEXPECTED, WANTED = "Does the server expect the PROXY header that proxy_protocol=v1 sends", "proxy_protocol=v2, or v1"
REMEDIES = {
    "hung up on the header": ([close()], {"proxy_protocol": "v1"}, "greeting", UNEXPECTED),
    "silent behind the header": ([hang()], {"proxy_protocol": "v1", "greeting_timeout": SOON}, "greeting", UNEXPECTED),
    "the header is a command": ([send(GREETING), expect(rb"PROXY .*"), expect(rb"EHLO .*"), send(b"502 no\r\n"),
                                 hang()], {"proxy_protocol": "v1"}, "ehlo", UNEXPECTED),
    "another header": ([send(b"421 4.3.0 mx.example.test Server local error\r\n")], {"proxy_protocol": "v1"},
                       "greeting", UNEXPECTED),
    "an error without one": ([send(b"421 4.3.0 mx.example.test Server local error\r\n")], {}, "greeting", WANTED),
    "silent without one": ([hang()], {"greeting_timeout": SOON}, "greeting", WANTED),
    "hung up without one": ([close()], {}, "greeting", WANTED),
}  # fmt: skip


@pytest.mark.parametrize("case", REMEDIES)
def test_verify_names_the_option_where_it_may_help(run, case):
    script, options, step, words = REMEDIES[case]

    async def main():
        async with scripted(script) as server:
            return await probe(server.url, **options)

    report = run(main())
    assert report.failed.name == step and words in report.failed.remedy


@pytest.mark.parametrize(("options", "words"), [({"proxy_protocol": "v1"}, UNEXPECTED), ({}, WANTED)])
def test_verify_names_the_option_where_a_handshake_is_hung_up_on(run, options, words):
    async def main():
        async with scripted([close()]) as server:
            return await probe(server.url.replace("smtp:", "smtps:"), **options)

    report = run(main())
    assert report.failed.name == "tls" and words in report.failed.remedy


@pytest.mark.parametrize("options", [{"proxy_protocol": "v1"}, {}])
def test_verify_does_not_name_it_where_the_server_gives_another_reason(run, options):
    async def main():
        async with scripted([send(b"554 5.7.1 blocked using zen.spamhaus.org\r\n")]) as server:
            return await probe(server.url, **options)

    report = run(main())
    assert report.failed.name == "greeting" and "proxy_protocol" not in report.failed.remedy
