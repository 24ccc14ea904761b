"""Dialling through a proxy: greetings kept, fallbacks, whose failure it was, and no socket left behind."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest

from bulkmail.errors import ProxyError, ResolveError, TimedOut
from dialling import dial
from unit.net.fake_proxies import (
    GREETING,
    SOCKS_CONNECTED,
    greet,
    http_connect,
    listening,
    options,
    read_to_end,
    settle,
    socks_by_address,
    socks_by_name,
    still_open,
)

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


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
        async with listening(socks_by_address(*answers, asked=asked)) as port:
            with await dial("mx.example", 25, options=options(proxy=f"{scheme}://127.0.0.1:{port}")) as sock:
                assert await read_to_end(sock) == GREETING

    run(main())
    assert asked == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert not still_open(opened)


def test_socks5_tells_of_every_address_that_the_proxy_refused(run, names, opened):
    names({"mx.example": ["192.0.2.1", "192.0.2.2"]})

    async def main():
        async with listening(socks_by_address(b"\5\4", b"\5\5")) as port:
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
        async with listening(socks_by_address(b"\5\2", SOCKS_CONNECTED, asked=asked)) as port:
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
def test_a_proxy_that_does_not_take_the_connection_in_time(run, opened, silent_port):
    proxy = f"http://127.0.0.1:{silent_port}"
    with pytest.raises(TimedOut, match=rf"proxy {proxy}: no connection within 0\.1 s") as caught:
        run(dial("mx.example", 25, options=options(proxy=proxy, connect_timeout=0.1)))
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
            assert caught.value.phase == "proxy" and time.monotonic() - started >= 0.05

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
    await settle()
    if isinstance(result, socket.socket):
        result.close()
    assert isinstance(result, (socket.socket, ProxyError, asyncio.CancelledError)), result
    return isinstance(result, asyncio.CancelledError)


@pytest.mark.parametrize(
    ("scheme", "script"),
    [("", greet), ("socks5h", socks_by_name), ("http", http_connect), ("socks5", socks_by_address(*[b"\5\5"] * 9999))],
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
