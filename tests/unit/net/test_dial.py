"""Dialling: the race between addresses, deadlines, source addresses, proxies on the way, and no socket left behind."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
import types
from contextlib import contextmanager

import pytest

import bulkmail.net.dial as dialling
from bulkmail.errors import ConfigError, ConnectError, ProxyError, ResolveError, TimedOut
from bulkmail.net.dial import dial
from bulkmail.net.resolve import Address
from bulkmail.url import Options, parse_options
from unit.net.fake_proxies import (
    GREETING,
    HTTP_CONNECTED,
    SOCKS_CONNECTED,
    SOCKS_NO_LOGIN,
    listening,
    read_to_end,
)

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


def options(**values):
    return Options(**parse_options(values))


async def greet(peer):
    await peer.send(GREETING)


@pytest.fixture
def opened(monkeypatch):
    """Every socket that dial has made."""
    made = []

    class Recorded(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    watched = types.SimpleNamespace(**vars(socket))
    watched.socket = Recorded
    monkeypatch.setattr(dialling, "socket", watched)
    return made


@pytest.fixture
def names(monkeypatch):
    """names({"mx.example": [address, ...]}): what names resolve to; an exception is raised."""

    def install(table):
        async def resolve(host, port, *, timeout):
            found = table.get(host, [host])
            if isinstance(found, Exception):
                raise found
            return [at(address, port) if isinstance(address, str) else address for address in found]

        monkeypatch.setattr(dialling, "resolve", resolve)

    return install


def at(host, port):
    return Address(socket.AF_INET6, (host, port, 0, 0)) if ":" in host else Address(socket.AF_INET, (host, port))


def still_open(sockets):
    return [sock for sock in sockets if sock.fileno() != -1]


@contextmanager
def unanswering():
    """A port whose connections neither succeed nor fail: its listener's queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        try:
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                fillers.append(filler)
                filler.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for filler in fillers:
                filler.close()


@pytest.fixture
def dead_port(free_port):
    return free_port()


# ---- directly


def test_a_connection_is_ready_for_the_loop(run, opened):
    async def main():
        async with listening(greet) as port:
            sock = await dial("127.0.0.1", port, options=Options())
            with sock:
                assert sock.getblocking() is False
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert await read_to_end(sock) == GREETING

    run(main())
    assert len(opened) == 1


def test_a_refusal_names_every_address_and_why(run, names, opened, dead_port):
    names({"mx.example": ["127.0.0.1", "127.0.0.2"]})
    with pytest.raises(ConnectError) as caught:
        run(dial("mx.example", dead_port, options=Options()))
    assert str(caught.value) == (
        f"mx.example:{dead_port}: cannot connect: 127.0.0.1: Connection refused; 127.0.0.2: Connection refused"
    )
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert len(opened) == 2 and not still_open(opened)


def test_a_name_that_does_not_resolve(run, names):
    names({"mx.example": ResolveError("mx.example: the name does not resolve")})
    with pytest.raises(ResolveError, match=r"mx\.example"):
        run(dial("mx.example", 25, options=Options()))


@linux_only
def test_no_answer_in_time(run, names, opened):
    with unanswering() as port:
        names({"mx.example": [at("127.0.0.1", port)]})
        with pytest.raises(
            TimedOut, match=r"mx\.example:25: no connection within 0\.1 s: 127\.0\.0\.1: no answer"
        ) as caught:
            run(dial("mx.example", 25, options=options(connect_timeout=0.1)))
    assert caught.value.phase == "connect"
    assert not still_open(opened)


@linux_only
def test_the_next_address_is_tried_beside_a_slow_one(run, names, opened, monkeypatch):
    monkeypatch.setattr(dialling, "STAGGER", 0.02)

    async def main():
        async with listening(greet) as good:
            names({"mx.example": [at("127.0.0.1", slow), at("127.0.0.1", slow), at("127.0.0.1", good)]})
            with await dial("mx.example", 25, options=options(connect_timeout=20)) as sock:
                assert sock.getpeername()[1] == good
                assert still_open(opened) == [sock], "the losers are closed"

    with unanswering() as slow:
        run(main())
    assert len(opened) == 3


def test_the_next_address_is_tried_at_once_when_one_fails(run, names, monkeypatch, dead_port):
    monkeypatch.setattr(dialling, "STAGGER", 60)

    async def main():
        async with listening(greet) as good:
            names({"mx.example": [at("127.0.0.1", dead_port), at("127.0.0.1", good)]})
            started = time.monotonic()
            (await dial("mx.example", 25, options=Options())).close()
            assert time.monotonic() - started < 30

    run(main())


def test_a_fast_first_address_leaves_the_others_alone(run, names, opened):
    async def main():
        async with listening(greet) as good, listening(greet) as other:
            names({"mx.example": [at("127.0.0.1", good), at("127.0.0.1", other)]})
            (await dial("mx.example", 25, options=Options())).close()

    run(main())
    assert len(opened) == 1


def test_of_two_that_succeed_together_one_is_closed(run, names, opened, monkeypatch):
    both = asyncio.Event()

    async def attempt(address, local, loop):
        sock = dialling.socket.socket(address.family, socket.SOCK_STREAM)
        if address.sockaddr[1] == 2:
            both.set()
        await both.wait()
        return sock

    monkeypatch.setattr(dialling, "STAGGER", 0.01)
    monkeypatch.setattr(dialling, "_attempt", attempt)
    names({"mx.example": [at("127.0.0.1", 1), at("127.0.0.1", 2)]})

    async def main():
        with await dial("mx.example", 25, options=Options()) as sock:
            assert len(opened) == 2 and still_open(opened) == [sock]

    run(main())


def test_ipv6(run):
    async def main():
        async with listening(greet, host="::1") as port:
            with await dial("::1", port, options=Options()) as sock:
                assert await read_to_end(sock) == GREETING

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    run(main())


# ---- local_address


@linux_only
def test_the_source_address_is_what_the_server_sees(run):
    async def main():
        async with listening(greet) as port:
            with await dial("127.0.0.1", port, options=options(local_address="127.0.0.3")) as sock:
                assert sock.getsockname()[0] == "127.0.0.3"
                assert await read_to_end(sock) == GREETING

    run(main())


@linux_only
def test_a_source_address_of_the_other_family_leaves_no_address(run, names):
    names({"mx.example": ["2001:db8::1"]})
    with pytest.raises(ConnectError, match="no address of it can be reached from local_address 127"):
        run(dial("mx.example", 25, options=options(local_address="127.0.0.3")))


def test_a_source_address_of_another_machine(run, opened):
    with pytest.raises(ConnectError, match=r"local_address 192\.0\.2\.77 cannot be used: .*assign"):
        run(dial("127.0.0.1", 25, options=options(local_address="192.0.2.77")))
    assert not still_open(opened)


@linux_only
def test_a_source_interface(run):
    async def main():
        async with listening(greet) as port:
            try:
                sock = await dial("127.0.0.1", port, options=options(local_address="lo"))
            except ConnectError as error:
                assert "local_address lo cannot be used" in str(error) and error.__cause__.errno == errno.EPERM
                pytest.skip("this kernel lets only root bind to an interface")
            with sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
                assert await read_to_end(sock) == GREETING

    run(main())


@linux_only
def test_an_interface_that_does_not_exist(run):
    with pytest.raises(ConfigError, match=r"'local_address' is 'nosuch0', expected .* \(.*\blo\b.*\)"):
        run(dial("127.0.0.1", 25, options=options(local_address="nosuch0")))


# ---- through a proxy


def socks(*answers, asked=None):
    """A SOCKS5 proxy without login; each connection takes the next answer. `asked` collects what was asked for."""
    waiting = iter(answers)

    async def script(peer):
        answer = next(waiting)
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(b"\5\1\0")
        await peer.expect(b"\1")
        request = b"".join([await peer.until(b"\0\x19")])
        if asked is not None:
            asked.append(socket.inet_ntoa(request[:4]))
        await peer.send(answer)

    return script


async def socks_by_name(peer):
    await peer.expect(b"\5\1\0")
    await peer.send(SOCKS_NO_LOGIN)
    await peer.expect(b"\5\1\0\3\x0amx.example\0\x19")
    await peer.send(SOCKS_CONNECTED + GREETING)


async def http_connect(peer):
    await peer.until(b"\r\n\r\n")
    await peer.send(HTTP_CONNECTED + GREETING)


class Collect(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def connection_lost(self, error):
        self.done.set_result(self.data)


@pytest.mark.parametrize(("scheme", "script"), [("socks5h", socks_by_name), ("http", http_connect)])
def test_a_protocol_gets_the_greeting_that_came_with_the_answer(run, scheme, script):
    async def main():
        loop = asyncio.get_running_loop()
        async with listening(script) as port:
            sock = await dial("mx.example", 25, options=options(proxy=f"{scheme}://127.0.0.1:{port}"))
            transport, protocol = await loop.create_connection(Collect, sock=sock)
            assert await protocol.done == GREETING
            transport.close()

    run(main())


@pytest.mark.parametrize("scheme", ["socks5", "socks"])
def test_socks5_gets_an_address_and_the_next_one_when_it_refuses(run, names, opened, scheme):
    names({"mx.example": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]})
    asked = []
    answers = [b"\5\4\0\1" + bytes(6), b"\5\5\0\1" + bytes(6), SOCKS_CONNECTED + GREETING]

    async def main():
        async with listening(socks(*answers, asked=asked)) as port:
            with await dial("mx.example", 25, options=options(proxy=f"{scheme}://127.0.0.1:{port}")) as sock:
                assert await read_to_end(sock) == GREETING

    run(main())
    assert asked == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert not still_open(opened)


def test_socks5_tells_of_every_address_that_the_proxy_refused(run, names, opened):
    names({"mx.example": ["192.0.2.1", "192.0.2.2"]})

    async def main():
        async with listening(socks(b"\5\4", b"\5\5")) as port:
            with pytest.raises(ProxyError) as caught:
                await dial("mx.example", 25, options=options(proxy=f"socks5://127.0.0.1:{port}"))
            text = str(caught.value)
            assert "192.0.2.1:25: it answered 4" in text and "192.0.2.2:25: it answered 5" in text
            assert caught.value.reply_code == 5

    run(main())
    assert not still_open(opened)


def test_socks5_asks_once_when_a_rule_forbids_it(run, names):
    names({"mx.example": ["192.0.2.1", "192.0.2.2"]})
    asked = []

    async def main():
        async with listening(socks(b"\5\2", SOCKS_CONNECTED, asked=asked)) as port:
            with pytest.raises(ProxyError, match="it answered 2"):
                await dial("mx.example", 25, options=options(proxy=f"socks5://127.0.0.1:{port}"))

    run(main())
    assert asked == ["192.0.2.1"]


def test_socks5_cannot_ask_for_a_name_that_does_not_resolve_here(run, names):
    names({"mx.example": ResolveError("mx.example: the name does not resolve")})
    with pytest.raises(ResolveError, match=r"mx\.example"):
        run(dial("mx.example", 25, options=options(proxy="socks5://127.0.0.1:1")))


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["127.0.0.1"], "cannot connect: 127.0.0.1: Connection refused"),
        (ResolveError("p.example: the name does not resolve: x"), "p.example: the name does not resolve"),
    ],
)
def test_a_proxy_that_cannot_be_reached(run, names, dead_port, scheme, found, words):
    names({"p.example": found})
    url = f"{scheme}://ann:hunter2@p.example:{dead_port}"
    with pytest.raises(ProxyError) as caught:
        run(dial("mx.example", 25, options=options(proxy=url)))
    shown = f"{scheme}://ann:***@p.example:{dead_port}"
    assert str(caught.value).startswith(f"proxy {shown}: ") and words in str(caught.value)
    assert caught.value.proxy == shown and caught.value.reply_code is None


@linux_only
def test_a_proxy_that_does_not_take_the_connection_in_time(run, opened):
    with (
        unanswering() as port,
        pytest.raises(TimedOut, match=rf"proxy http://127\.0\.0\.1:{port}: no connection within 0\.1 s") as caught,
    ):
        run(dial("mx.example", 25, options=options(proxy=f"http://127.0.0.1:{port}", connect_timeout=0.1)))
    assert caught.value.phase == "proxy" and not still_open(opened)


def test_a_proxy_whose_name_resolves_too_late(run, names):
    names({"p.example": TimedOut("p.example: the name did not resolve within 30 s", phase="dns")})
    with pytest.raises(TimedOut, match=r"proxy http://p\.example:80: p\.example: the name did not") as caught:
        run(dial("mx.example", 25, options=options(proxy="http://p.example")))
    assert caught.value.phase == "proxy"


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_a_silent_proxy_runs_out_of_time(run, opened, scheme):
    async def silent(peer):
        await peer.hang()

    async def main():
        async with listening(silent) as port:
            started = time.monotonic()
            with pytest.raises(TimedOut, match=f"proxy {scheme}://127.0.0.1:{port}: no answer while ") as caught:
                await dial("mx.example", 25, options=options(proxy=f"{scheme}://127.0.0.1:{port}", connect_timeout=0.1))
            assert caught.value.phase == "proxy" and time.monotonic() - started >= 0.09

    run(main())
    assert not still_open(opened)


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_a_proxy_that_resets_the_connection(run, opened, scheme):
    async def reset(peer):
        await peer.until(b"\5" if scheme == "socks5h" else b"C")
        peer.reset()

    async def main():
        async with listening(reset) as port:
            with pytest.raises(ProxyError, match=r"the connection to it was lost: |it closed the connection"):
                await dial("mx.example", 25, options=options(proxy=f"{scheme}://127.0.0.1:{port}"))

    run(main())
    assert not still_open(opened)


def test_a_proxy_is_reached_from_the_local_address(run):
    async def main():
        async with listening(http_connect) as port:
            proxy = f"http://127.0.0.1:{port}"
            with await dial("mx.example", 25, options=options(proxy=proxy, local_address="127.0.0.1")) as sock:
                assert sock.getsockname()[0] == "127.0.0.1"

    run(main())


# ---- cancellation


async def cancelled_at(step, dialled):
    """Run the dial for `step` turns of the loop and cancel it; False if it was over by then."""
    task = asyncio.create_task(dialled)
    for _ in range(step):
        await asyncio.sleep(0)
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, socket.socket):
        result.close()
    assert isinstance(result, (socket.socket, ProxyError, asyncio.CancelledError)), result
    return isinstance(result, asyncio.CancelledError)


@pytest.mark.parametrize(
    ("scheme", "script"),
    [("", greet), ("socks5h", socks_by_name), ("http", http_connect), ("socks5", socks(*[b"\5\5"] * 9999))],
)
def test_a_cancellation_at_any_moment_leaves_no_socket(run, names, opened, scheme, script):
    async def main():
        steps = 0
        async with listening(script) as port:
            proxy = {"proxy": f"{scheme}://127.0.0.1:{port}"} if scheme else {}
            names({"mx.example": ["127.0.0.1", "127.0.0.2"] if scheme in ("", "socks5") else ["mx.example"]})
            while await cancelled_at(steps, dial("mx.example", 25 if scheme else port, options=options(**proxy))):
                assert not still_open(opened), steps
                steps += 1
                assert steps < 1000, "it never ends by itself"
        return steps

    assert run(main()) >= 3, "it must have been cancelled while it was under way"
    assert not still_open(opened)


@linux_only
def test_a_cancellation_in_the_race_closes_every_attempt(run, names, opened, monkeypatch):
    monkeypatch.setattr(dialling, "STAGGER", 0.01)

    async def main():
        names({"mx.example": [at("127.0.0.1", port)] * 5})
        task = asyncio.create_task(dial("mx.example", 25, options=Options()))
        while len(opened) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not still_open(opened)

    with unanswering() as port:
        run(main())
