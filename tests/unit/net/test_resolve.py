"""Name look-ups: the order of addresses, deadlines, one look-up for many callers, and nothing that holds up the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest

from bulkmail.errors import ResolveError, TimedOut
from bulkmail.net import resolve as resolving
from bulkmail.net.resolve import Address, ehlo_name, resolve

V4 = [Address(socket.AF_INET, (f"192.0.2.{n}", 25)) for n in range(30)]
V6 = [Address(socket.AF_INET6, (f"2001:db8::{n}", 25, 0, 0)) for n in range(30)]


@pytest.fixture
def look_ups(monkeypatch):
    """look_ups(answer) -> calls: the look-up of a name calls answer() and is listed; numeric hosts are as ever."""

    def install(answer):
        calls = []
        real = resolving._look_up

        def look_up(host, port, flags):
            if flags & socket.AI_NUMERICHOST:
                return real(host, port, flags)
            calls.append((host, port))
            return answer()

        monkeypatch.setattr(resolving, "_look_up", look_up)
        return calls

    return install


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", Address(socket.AF_INET, ("192.0.2.1", 25))),
        ("2001:db8::1", Address(socket.AF_INET6, ("2001:db8::1", 25, 0, 0))),
    ],
)
def test_an_address_needs_no_look_up(run, look_ups, host, address):
    calls = look_ups(lambda: [])
    assert run(resolve(host, 25, timeout=1)) == [address]
    assert calls == []


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([*V6[:3], *V4[:2]], [V6[0], V4[0], V6[1], V4[1], V6[2]]),
        ([*V4[:1], *V6[:2]], [V4[0], V6[0], V6[1]]),
        (V4[:2], V4[:2]),
    ],
)
def test_families_alternate_and_the_first_choice_stays_first(run, look_ups, found, order):
    look_ups(lambda: found)
    assert run(resolve("mx.example", 25, timeout=1)) == order


def test_the_number_of_addresses_is_bounded(run, look_ups):
    look_ups(lambda: [*V4, *V6])
    assert len(run(resolve("mx.example", 25, timeout=1))) == resolving.MAX_ADDRESSES


def test_a_real_look_up(run):
    found = run(resolve("localhost", 25, timeout=10))
    assert {address.sockaddr[0] for address in found} <= {"127.0.0.1", "::1"} and len(set(found)) == len(found) > 0


def test_a_name_that_does_not_exist(run, look_ups):
    def fail():
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    look_ups(fail)
    with pytest.raises(ResolveError, match=r"mx\.example: the name does not resolve: Name or service not known"):
        run(resolve("mx.example", 25, timeout=1))


@pytest.mark.parametrize("host", ["bücher.example", "a\ud800"])
def test_what_is_no_host_name(run, host):
    with pytest.raises(ResolveError, match="not a host name") as caught:
        run(resolve(host, 25, timeout=1))
    assert str(caught.value).isprintable()


def test_a_slow_look_up_ends_in_time_and_does_not_block_the_loop(run, look_ups):
    release = threading.Event()
    look_ups(lambda: release.wait(30) and [])

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        with pytest.raises(TimedOut, match=r"did not resolve within 0\.1 s") as caught:
            await resolve("mx.example", 25, timeout=0.1)
        ticking.cancel()
        assert caught.value.phase == "dns"
        assert ticks >= 5

    try:
        run(main())
    finally:
        release.set()


def test_look_ups_at_the_same_time_are_one(run, look_ups):
    release = threading.Event()
    calls = look_ups(lambda: release.wait(30) and V4[:1])

    async def main():
        many = [asyncio.create_task(resolve("mx.example", 25, timeout=10)) for _ in range(50)]
        await asyncio.sleep(0)
        many[0].cancel()  # takes nothing from the others
        release.set()
        results = await asyncio.gather(*many, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [V4[:1]] * 49
        await resolve("mx.example", 25, timeout=10)

    run(main())
    assert len(calls) == 2, "one for the fifty, one for the later one: nothing is cached"


def test_after_a_look_up_that_hangs_the_next_one_asks_anew(run, look_ups):
    release, answers = threading.Event(), iter([lambda: release.wait(30) and [], lambda: V4[:1]])
    look_ups(lambda: next(answers)())

    async def main():
        with pytest.raises(TimedOut):
            await resolve("mx.example", 25, timeout=0.02)
        assert await resolve("mx.example", 25, timeout=10) == V4[:1]

    try:
        run(main())
    finally:
        release.set()


def test_a_failure_that_nobody_waits_for_any_more_is_not_reported(run, look_ups):
    release, reported = threading.Event(), []

    def fail():
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    look_ups(fail)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        with pytest.raises(TimedOut):
            await resolve("mx.example", 25, timeout=0.01)
        release.set()
        with pytest.raises(ResolveError, match="Temporary failure"):
            await resolve("mx.example", 25, timeout=10)

    run(main())
    assert reported == []


def test_a_program_ends_while_a_look_up_hangs():
    code = """
import time
from bulkmail.errors import TimedOut
from bulkmail.net import resolve
from bulkmail.net.loop import run
real = resolve._look_up
resolve._look_up = lambda host, port, flags: real(host, port, flags) if flags else time.sleep(60)
try:
    run(resolve.resolve("mx.example", 25, timeout=0.05))
except TimedOut as error:
    print(error)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "mx.example: the name did not resolve within 0.05 s\n" and done.stderr == ""
    assert time.monotonic() - started < 30


# ---- our own name


@pytest.fixture
def own_name(monkeypatch):
    """own_name(hostname, fqdn): what the system says."""

    def install(hostname, fqdn=None):
        monkeypatch.setattr(resolving, "_own_name", None)
        monkeypatch.setattr(socket, "gethostname", lambda: hostname)
        monkeypatch.setattr(socket, "getfqdn", fqdn if callable(fqdn) else lambda name: fqdn or name)

    return install


@pytest.mark.parametrize(
    ("hostname", "fqdn", "said"),
    [
        ("mail.example.com", None, "mail.example.com"),
        ("mail", "Mail.Example.com.", "mail.example.com"),
        ("mail", "mail", "[127.0.0.1]"),
        ("localhost", "localhost.localdomain", "[127.0.0.1]"),
        ("mail", "1.0.0.127.in-addr.arpa", "[127.0.0.1]"),
        ("mail", "192.0.2.1", "[127.0.0.1]"),
        ("bad\r\nname.example", None, "[127.0.0.1]"),
    ],
)
def test_ehlo_says_the_full_name_or_the_address(run, own_name, hostname, fqdn, said):
    own_name(hostname, fqdn)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert run(ehlo_name(sock)) == said


def test_ehlo_says_an_ipv6_address_as_rfc_5321_writes_it(run, own_name):
    own_name("mail")
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert run(ehlo_name(sock)) == "[IPv6:::1]"


def test_a_name_that_is_slow_to_find_is_done_without(run, own_name, monkeypatch):
    release = threading.Event()
    own_name("mail", lambda name: release.wait(30) and name)
    monkeypatch.setattr(resolving, "OWN_NAME_TIMEOUT", 0.02)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert run(ehlo_name(sock)) == "[127.0.0.1]"
    release.set()
