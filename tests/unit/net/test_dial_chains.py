"""Chains of proxies and what a race through one is: who resolves, which address wins, and no socket left behind."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

import bulkmail.net.race as racing
from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.line import MAX_HELD, TlsLine
from bulkmail.net.proxies.channel import Channel
from bulkmail.net.proxies.http_connect import MAX_HEAD, connect
from bulkmail.proxyurl import ProxyUrl
from dialling import dial
from faults.proxying import proxying
from unit.net.fake_proxies import (
    GREETING,
    HTTP_CONNECTED,
    SOCKS_CONNECTED,
    SOCKS_NO_LOGIN,
    greet,
    listening,
    options,
    read_to_end,
    settle,
    still_open,
)


@asynccontextmanager
async def two_proxies(table):
    """(the one to begin with, the one called two.example, which goes where the table says)"""
    async with proxying(table) as two, proxying({"two.example": two.port}) as one:
        yield one, two


NOWHERE = AssertionError("it must not be looked up here")


# -- happy eyeballs


def test_an_address_that_the_proxy_cannot_reach_in_time_does_not_hold_up_the_next(run, names, opened, monkeypatch):
    monkeypatch.setattr(racing, "STAGGER", 0.02)
    names({"mx.example": ["192.0.2.1", "192.0.2.2"]})
    asked, left = [], asyncio.Event()

    async def script(peer):
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(b"\5\1\0\1")
        asked.append((await peer.until(b"\0\x19"))[:4])
        if len(asked) == 1:
            await peer.hang()
            left.set()
        else:
            await peer.send(SOCKS_CONNECTED + GREETING)

    async def main():
        async with listening(script) as port:
            with await dial("mx.example", 25, options=options(proxy=f"socks5://127.0.0.1:{port}")) as sock:
                assert await read_to_end(sock) == GREETING
                await asyncio.wait_for(left.wait(), 10)  # the loser's connection is closed

    run(main())
    assert asked == [bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))]
    assert not still_open(opened)


def test_addresses_that_all_hang_run_out_of_time(run, names, opened, monkeypatch):
    monkeypatch.setattr(racing, "STAGGER", 0.01)
    names({"mx.example": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]})

    async def script(peer):
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.hang()

    async def main():
        async with listening(script) as port:
            with pytest.raises(TimedOut, match="no answer while asking for 192") as caught:
                way = options(proxy=f"socks5://127.0.0.1:{port}", connect_timeout=0.2)
                await dial("mx.example", 25, options=way)
            await settle()
        return caught.value.phase

    assert run(main()) == "proxy"
    assert not still_open(opened)


# -- chains


def test_a_chain_whose_proxies_resolve_looks_nothing_up_here(run, names):
    names(dict.fromkeys(("mx.example", "two.example", "three.example"), NOWHERE))

    async def main():
        async with (
            listening(greet) as server,
            proxying({"mx.example": server}) as three,
            two_proxies({"three.example": three.port}) as (one, two),
        ):
            chain = [one.url("http"), "socks5h://two.example:1081", "socks4a://three.example:1082"]
            with await dial("mx.example", 25, options=options(proxy=chain)) as sock:
                assert await read_to_end(sock) == GREETING
            return [*one.asked, *two.asked, *three.asked]

    asked = run(main())
    assert asked == [("http", "two.example", 1081), ("socks5", "three.example", 1082), ("socks4", "mx.example", 25)]


def test_a_proxy_of_a_chain_that_gets_addresses_has_its_target_looked_up_here(run, names):
    names({"mx.example": ["192.0.2.9"], "two.example": NOWHERE})

    async def main():
        async with listening(greet) as server, two_proxies({"192.0.2.9": server}) as (one, two):
            chain = [one.url("socks5h"), "socks4://two.example"]
            with await dial("mx.example", 25, options=options(proxy=chain)) as sock:
                assert await read_to_end(sock) == GREETING
            return two.asked

    assert run(main()) == [("socks4", "192.0.2.9", 25)]


@pytest.mark.parametrize("schemes", [("http", "socks5h"), ("socks5h", "http"), ("socks4a", "http")])
def test_the_proxy_that_failed_is_the_one_that_is_named(run, opened, schemes):
    async def main():
        async with two_proxies({}) as (one, _):
            with pytest.raises(ProxyError) as caught:
                chain = [one.url(schemes[0]), f"{schemes[1]}://ann:s3cret@two.example:99"]
                await dial("mx.example", 25, options=options(proxy=chain))
            with pytest.raises(ProxyError) as first:
                chain = [one.url(schemes[0]), f"{schemes[1]}://three.example:99"]
                await dial("mx.example", 25, options=options(proxy=chain))
            return caught.value, first.value, one.url(schemes[0])

    second, first, url = run(main())
    assert second.proxy == f"{schemes[1]}://ann:***@two.example:99" and "s3cret" not in str(second)
    assert "mx.example" in str(second) and second.reply_code
    assert first.proxy == url and "three.example:99" in str(first)
    assert not still_open(opened)


def test_a_cancellation_at_any_moment_of_a_chain_leaves_no_socket(run, opened):
    async def main():
        steps = 0
        async with listening(greet) as server, two_proxies({"mx.example": server}) as (one, _):
            way = options(proxy=[one.url("http"), "socks5h://two.example"])
            while True:
                task = asyncio.ensure_future(dial("mx.example", 25, options=way))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if not task.cancel():
                    task.result().close()
                    break
                with pytest.raises(asyncio.CancelledError):
                    await task
                await settle()
                assert not still_open(opened), steps
                steps += max(1, steps // 8)
        return steps

    assert run(main()) >= 3
    assert not still_open(opened)


# -- an answer within TLS


class Transport:
    """What a TlsLine asks of its transport."""

    def __init__(self):
        self.paused = False

    def is_closing(self):
        return False

    def write(self, data):
        pass

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


HEAD = HTTP_CONNECTED
PROXY = ProxyUrl("https", "proxy.example", 443)


async def through_tls(pieces):
    """What a handshake over TLS leaves of these pieces for the relay's protocol."""
    line, transport = TlsLine(), Transport()
    line.connection_made(transport)
    task = asyncio.ensure_future(connect(PROXY, "mx.example", 25, Channel(PROXY, line)))
    for piece in pieces:
        await asyncio.sleep(0)
        line.data_received(piece)
    line.eof_received()
    await task
    return line.peek(1 << 20)


@pytest.mark.parametrize("cut", range(1, len(HEAD + GREETING)))
def test_an_answer_within_tls_cut_anywhere_leaves_the_greeting(run, cut):
    everything = HEAD + GREETING
    assert run(through_tls([everything[:cut], everything[cut:]])) == GREETING


def test_an_answer_within_tls_byte_by_byte(run):
    assert run(through_tls([bytes([byte]) for byte in HEAD + GREETING])) == GREETING


@pytest.mark.parametrize("sent", range(len(HEAD)))
def test_an_end_at_every_byte_within_tls(run, sent):
    with pytest.raises(ProxyError, match=r"closed the connection|was lost"):
        run(through_tls([HEAD[:sent]] if sent else []))


def test_headers_within_tls_are_bounded(run):
    with pytest.raises(ProxyError, match="bytes of headers"):
        run(through_tls([b"HTTP/1.1 200 ok\r\n", *[b"X-A: " + b"a" * 1000 + b"\r\n"] * (MAX_HEAD // 1000 + 2)]))


def test_a_proxy_that_floods_before_anybody_reads_is_paused(run):
    async def main():
        line, transport = TlsLine(), Transport()
        line.connection_made(transport)
        line.data_received(b"x" * MAX_HELD)
        assert not transport.paused
        line.data_received(b"x")
        assert transport.paused
        line.take(1)
        return transport.paused

    assert run(main()) is False
