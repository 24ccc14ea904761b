"""Dialling directly: the race between addresses, deadlines, source addresses, and no socket left behind."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time

import pytest

import bulkmail.net.direct as direct
import bulkmail.net.race as racing
from bulkmail.errors import ConfigError, ConnectError, ResolveError, TimedOut
from bulkmail.url import Options
from dialling import dial
from unit.net.fake_proxies import GREETING, at, greet, listening, options, read_to_end, settle, still_open

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


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
def test_no_answer_in_time(run, names, opened, silent_port):
    names({"mx.example": [at("127.0.0.1", silent_port)]})
    with pytest.raises(
        TimedOut, match=r"mx\.example:25: no connection within 0\.1 s: 127\.0\.0\.1: no answer"
    ) as caught:
        run(dial("mx.example", 25, options=options(connect_timeout=0.1)))
    assert caught.value.phase == "connect"
    assert not still_open(opened)


@linux_only
def test_the_next_address_is_tried_beside_a_slow_one(run, names, opened, silent_port, monkeypatch):
    monkeypatch.setattr(racing, "STAGGER", 0.02)
    slow = at("127.0.0.1", silent_port)

    async def main():
        async with listening(greet) as good:
            names({"mx.example": [slow, slow, at("127.0.0.1", good)]})
            with await dial("mx.example", 25, options=options(connect_timeout=20)) as sock:
                assert sock.getpeername()[1] == good
                await settle()
                assert still_open(opened) == [sock], "the losers are closed"

    run(main())
    assert len(opened) == 3


def test_the_next_address_is_tried_at_once_when_one_fails(run, names, monkeypatch, dead_port):
    monkeypatch.setattr(racing, "STAGGER", 60)

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
        sock = direct.socket.socket(address.family, socket.SOCK_STREAM)
        if address.sockaddr[1] == 2:
            both.set()
        await both.wait()
        return sock

    monkeypatch.setattr(racing, "STAGGER", 0.01)
    monkeypatch.setattr(direct, "_attempt", attempt)
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


@linux_only
def test_a_cancellation_in_the_race_closes_every_attempt(run, names, opened, silent_port, monkeypatch):
    monkeypatch.setattr(racing, "STAGGER", 0.01)
    names({"mx.example": [at("127.0.0.1", silent_port)] * 5})

    async def main():
        task = asyncio.create_task(dial("mx.example", 25, options=Options()))
        while len(opened) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert not still_open(opened)

    run(main())


@linux_only
def test_a_deadline_in_the_race_tells_of_failures_and_silence(run, names, silent_port, dead_port):
    names({"mx.example": [at("127.0.0.2", dead_port), at("127.0.0.1", silent_port)]})
    with pytest.raises(TimedOut, match=r"127\.0\.0\.2: Connection refused; 127\.0\.0\.1: no answer"):
        run(dial("mx.example", 25, options=options(connect_timeout=0.1)))
