"""What real proxies say when they refuse, and what we make of it: a ProxyError that names the proxy (its password
masked), the step, and the proxy's own code and words.
"""

from __future__ import annotations

import asyncio
import os

import pytest

import bulkmail
from bulkmail.errors import ConnectError, ProxyError, TimedOut
from bulkmail.sink import Server
from integration.egress_ways import KNOWN_TO_PROXIES, front, squid_tls, tls
from integration.servers.proxy import PASSWORD, PLAIN_PASSWORD, USER

FORBIDDEN = 9  # Proxies has Dante and squid refuse it
NOT_THE_PASSWORD = "wrong-s3cret"


async def connect(url, proxy):
    connection = bulkmail.Connection(url, proxy=proxy, connect_timeout=30)
    try:
        await connection.connect()
    finally:
        connection.close()


def refused(run, port, proxy, *, kind=ProxyError):
    with pytest.raises(kind) as caught:
        run(connect(f"smtp://127.0.0.1:{port}", proxy))
    error = caught.value
    shown = f"{error} {error!r} {error.__cause__!r}"
    assert all(secret not in shown for secret in (PASSWORD, PLAIN_PASSWORD, NOT_THE_PASSWORD))
    return error


def said(error, code, *words):
    """The code, these words, and the proxy that said so."""
    assert error.reply_code == code and error.proxy in str(error)
    for word in words:
        assert word in str(error)


def with_wrong_password(proxy, scheme):
    return proxy.url(scheme, password=NOT_THE_PASSWORD)


WRONG_LOGINS = {
    "http tinyproxy": (lambda p: with_wrong_password(p.tinyproxy(login=True), "http"), (401, 407)),
    "http squid": (lambda p: with_wrong_password(p.squid(login=True), "http"), (407,)),
    "https squid": (lambda p: tls(p, with_wrong_password(p.squid(tls=True, login=True), "https")), (407,)),
    "https haproxy tinyproxy": (
        lambda p: tls(p, with_wrong_password(p.tls_front(p.tinyproxy(login=True)), "https")),
        (401, 407),
    ),
    "socks5h microsocks": (lambda p: with_wrong_password(p.microsocks(login=True), "socks5h"), (2,)),
    "socks5 dante": (lambda p: with_wrong_password(p.dante(login=True), "socks5"), (1,)),
    "http > socks5h": (
        lambda p: [p.squid().url("http"), with_wrong_password(p.microsocks(login=True), "socks5h")],
        (2,),
    ),
    "https > http": (lambda p: [squid_tls(p), with_wrong_password(p.tinyproxy(login=True), "http")], (401, 407)),
}


@pytest.mark.parametrize("name", WRONG_LOGINS)
def test_a_wrong_password(run, proxies, name):
    proxy, codes = WRONG_LOGINS[name][0](proxies), WRONG_LOGINS[name][1]
    error = refused(run, 25, proxy)
    assert error.reply_code in codes
    said(error, error.reply_code, "it refused the user or password", f"{USER}:***@")


NO_LOGINS = {
    "http tinyproxy": (lambda p: f"http://{p.tinyproxy(login=True).place}", (401, 407)),
    "http squid": (lambda p: f"http://{p.squid(login=True).place}", (407,)),
    "socks5 microsocks": (lambda p: f"socks5://{p.microsocks(login=True).place}", (255,)),
    "socks5h dante": (lambda p: f"socks5h://{p.dante(login=True).place}", (255,)),
}


@pytest.mark.parametrize("name", NO_LOGINS)
def test_a_login_that_is_wanted_and_not_given(run, proxies, name):
    error = refused(run, 25, NO_LOGINS[name][0](proxies))
    assert error.reply_code in NO_LOGINS[name][1]
    said(error, error.reply_code, "it wants a user and password")


FORBIDDEN_TARGETS = {
    "http tinyproxy": (lambda p: p.tinyproxy("ConnectPort 25").url("http"), 403, ()),
    "http squid": (lambda p: p.squid().url("http"), 403, ("Forbidden",)),
    "https squid": (squid_tls, 403, ("Forbidden",)),
    "socks5 dante": (lambda p: p.dante().url("socks5"), 2, ()),
    "socks5h dante": (lambda p: p.dante().url("socks5h"), 2, ()),
    "socks4 dante": (lambda p: p.dante().url("socks4"), 91, ()),
    "https > socks5": (lambda p: [squid_tls(p), p.dante().url("socks5")], 2, ()),
}


@pytest.mark.parametrize("name", FORBIDDEN_TARGETS)
def test_a_target_that_the_proxy_forbids(run, proxies, name):
    proxy, code, words = FORBIDDEN_TARGETS[name]
    said(refused(run, FORBIDDEN, proxy(proxies)), code, f"127.0.0.1:{FORBIDDEN}", *words)


DEAD_TARGETS = {
    "http tinyproxy": (lambda p: p.tinyproxy().url("http"), 500),
    "http squid": (lambda p: p.squid().url("http"), 503),
    "https squid": (squid_tls, 503),
    "https haproxy tinyproxy": (front, 500),
    "socks5 microsocks": (lambda p: p.microsocks().url("socks5"), 5),
    "socks5h dante": (lambda p: p.dante().url("socks5h"), 5),
    "socks4 dante": (lambda p: p.dante().url("socks4"), 91),
    "http > socks5h": (lambda p: [p.squid().url("http"), p.microsocks().url("socks5h")], 5),
    "socks5h > http": (lambda p: [p.dante().url("socks5h"), p.tinyproxy().url("http")], 500),
}


@pytest.mark.parametrize("name", DEAD_TARGETS)
def test_a_target_that_refuses_the_proxy(run, proxies, free_port, name):
    proxy, code = DEAD_TARGETS[name]
    port = free_port()
    said(refused(run, port, proxy(proxies)), code, f"127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_ssh_gives_no_reason_it_hangs_up(run, proxies, free_port, scheme):
    error = refused(run, free_port(), proxies.ssh().url(scheme))
    assert error.reply_code is None and "it closed the connection" in str(error) and error.proxy in str(error)
    assert not error.permanent


UNKNOWN_NAMES = {
    "http tinyproxy": lambda p: p.tinyproxy().url("http"),
    "http squid": lambda p: p.squid().url("http"),
    "socks5h microsocks": lambda p: p.microsocks().url("socks5h"),
    "socks5h dante": lambda p: p.dante().url("socks5h"),
}


@pytest.mark.parametrize("name", UNKNOWN_NAMES)
def test_a_name_that_the_proxy_does_not_find(run, proxies, name):
    with pytest.raises(ProxyError) as caught:
        run(connect("smtp://no-such-host.invalid:25", UNKNOWN_NAMES[name](proxies)))
    assert caught.value.reply_code and "no-such-host.invalid" in str(caught.value)


def test_dante_takes_the_address_of_socks4a_at_its_word(run, proxies):
    """A proxy of version 4 alone is asked for 0.0.0.x, which is nowhere; the error still names what was wanted."""
    with pytest.raises(ProxyError) as caught:
        run(connect(f"smtp://{KNOWN_TO_PROXIES}:25", proxies.dante().url("socks4a")))
    said(caught.value, 91, KNOWN_TO_PROXIES)


# ---- the proxy itself


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks4a", "socks5", "socks5h"])
def test_a_proxy_that_is_down(run, free_port, scheme):
    login = USER if scheme.startswith("socks4") else f"{USER}:{NOT_THE_PASSWORD}"
    error = refused(run, 25, f"{scheme}://{login}@127.0.0.1:{free_port()}")
    assert isinstance(error.__cause__, ConnectError)
    assert error.reply_code is None and "Connection refused" in str(error) and error.proxy in str(error)


def test_the_second_proxy_of_a_chain_is_down(run, proxies, free_port):
    """The first one says so, and the error names both."""
    first, second = proxies.squid().url("http"), f"socks5h://127.0.0.1:{free_port()}"
    error = refused(run, 25, [first, second])
    assert error.reply_code == 503 and first in str(error) and second.partition("://")[2] in str(error)


def test_a_proxy_whose_certificate_nobody_vouches_for(run, proxies):
    error = refused(run, 25, squid_tls(proxies)["proxy"])
    assert error.permanent and "certificate" in str(error) and "ca_file" in str(error)


def test_a_proxy_whose_certificate_is_for_another_name(run, proxies):
    error = refused(run, 25, {**squid_tls(proxies), "server_name": "other.example.test"})
    assert error.permanent and "other.example.test" in str(error) and "server_name" in str(error)


def test_a_proxy_is_known_by_the_name_that_is_stated(run, proxies):
    async def main():
        async with Server() as server:
            await connect(server.url, {**squid_tls(proxies), "server_name": "proxy.example.test"})

    run(main())


def test_tls_spoken_to_a_proxy_in_clear_and_the_other_way_round(run, proxies):
    error = refused(run, 25, tls(proxies, proxies.squid().url("https")))
    assert "it does not speak TLS here" in str(error) and error.proxy in str(error)
    for secure in (proxies.squid(tls=True), proxies.tls_front(proxies.tinyproxy())):
        error = refused(run, 25, f"http://{secure.place}")
        assert error.proxy in str(error)


def test_http_spoken_to_a_socks_proxy_and_the_other_way_round(run, proxies):
    for proxy in (proxies.microsocks(), proxies.dante(), proxies.ssh()):
        error = refused(run, 25, f"http://{proxy.place}")
        assert error.proxy in str(error)
    # A line of HTTP never ends in the three bytes of SOCKS, so the proxy waits, and its time passes.
    error = refused(run, 25, {"proxy": f"socks5://{proxies.tinyproxy().place}", "timeout": 0.3}, kind=TimedOut)
    assert error.phase == "proxy" and proxies.tinyproxy().place in str(error)


def test_a_refusal_leaves_nothing_open(run, proxies, free_port):
    """Every failed attempt closes its connections: the way in, and what the proxy held."""

    async def main():
        port, before = free_port(), len(os.listdir("/proc/self/fd"))
        for name, (proxy, _) in DEAD_TARGETS.items():
            for _ in range(3):
                with pytest.raises(ProxyError):
                    await connect(f"smtp://127.0.0.1:{port}", proxy(proxies))
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) <= before + 1, name

    run(main())
