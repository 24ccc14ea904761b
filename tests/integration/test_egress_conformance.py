"""What a way out promises, whichever it is: one suite for direct, each scheme, chains and a handler, each by real
proxies (squid, tinyproxy, HAProxy, microsocks, Dante, ssh -D), in clear, with STARTTLS and with TLS from the start.

Names that only the proxies know are the target's wherever the proxy looks names up.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

import bulkmail
from bulkmail.errors import AuthUnavailable, TlsError
from bulkmail.proxyurl import parse_proxy
from integration.egress_ways import ADDRESS, KNOWN_TO_PROXIES, WAYS, place, secured_handler, sink, squid_tls
from integration.servers.proxy import PASSWORD, USER

NEWS, ANN = "news@example.test", "ann@example.test"
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"
TLS = [None, "starttls", "implicit"]
TUNNELS = [name for name, way in WAYS.items() if way.hops]
HEAD = b"From: news@example.test\r\nTo: ann@example.test\r\nSubject: %d\r\nMIME-Version: 1.0\r\n"
EIGHT_BIT = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
# Dots where they matter, and every byte above ASCII; 100 KB are more than the buffers of a tunnel hold at once.
LINES = [b"", b".", b"..", b".dot", bytes(range(0x80, 0x100)), "grüße".encode(), b"x" * 900]
BIG = HEAD % 0 + EIGHT_BIT + b"".join(line + b"\r\n" for line in LINES) * 100
MESSAGES = 12


def small(number):
    return HEAD % number + EIGHT_BIT + "\r\n.\r\ngrüße\r\n".encode()


def options_of(certificates, proxy, **more):
    return {"proxy": proxy, "ca_file": str(certificates.ca_file), **more}


def check_egress(egress, proxy):
    """It names every proxy, and no password."""
    if proxy is None:
        assert egress is None
        return
    assert egress == str(parse_proxy(proxy, "proxy"))
    for hop in parse_proxy(proxy, "proxy"):
        assert f"{hop.host}:{hop.port}" in egress.replace("[", "").replace("]", "") or not hop.port
        assert hop.password is None or (hop.password not in egress and f"{hop.user}:***@" in egress)


@pytest.mark.parametrize("kind", TLS)
@pytest.mark.parametrize("name", WAYS)
def test_messages_arrive_whole_and_the_receipt_says_which_way(run, proxies, certificates, name, kind):
    way = WAYS[name]
    proxy = way.proxy(proxies)
    options = options_of(certificates, proxy)

    async def main():
        async with sink(certificates, kind) as server:
            url = place(server, way.host, kind, login=LOGIN if kind else "")
            async with bulkmail.Connection(url, **options) as connection:
                assert connection.secure == (kind is not None)
                receipts = [await connection.send(bulkmail.Envelope(NEWS, [ANN]), BIG)]
            async with bulkmail.Mailer(url, connections=2, **options) as mailer:
                receipts += [receipt async for receipt in mailer.send_many(map(small, range(1, MESSAGES + 1)))]
            return receipts, list(server.messages), server.counts

    receipts, messages, counts = run(main())
    assert [receipt.error for receipt in receipts] == [None] * (MESSAGES + 1)
    for receipt in receipts:
        check_egress(receipt.egress, proxy)
        assert receipt.tls == ("TLSv1.3" if kind else None) and receipt.accepted == [ANN]
    contents = {message.content for message in messages}
    assert contents == {BIG, *map(small, range(1, MESSAGES + 1))} and len(messages) == MESSAGES + 1
    assert {(message.auth, message.tls) for message in messages} == {(USER, "TLSv1.3") if kind else (None, None)}
    assert 2 <= counts["connections"] <= 3


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@pytest.mark.parametrize("name", WAYS)
def test_a_server_of_another_name_is_refused_through_the_tunnel_as_without(run, proxies, certificates, name, kind):
    way = WAYS[name]
    options = options_of(certificates, way.proxy(proxies))

    async def main():
        async with sink(certificates, kind, tls_cert=certificates.wrong_file) as server:
            with pytest.raises(TlsError) as caught:
                await bulkmail.Connection(place(server, way.host, kind, login=LOGIN), **options).connect()
            return caught.value, server.counts["messages"]

    error, messages = run(main())
    assert way.host in str(error) and PASSWORD not in str(error) and messages == 0


@pytest.mark.parametrize("name", TUNNELS)
def test_no_password_goes_in_clear_through_a_proxy(run, proxies, certificates, name):
    """The server is on this machine and offers AUTH; who listens between proxy and server is not known all the same."""
    way = WAYS[name]
    options = options_of(certificates, way.proxy(proxies))

    async def main():
        async with sink(certificates, None, auth=f"{USER}:{PASSWORD}") as server:
            with pytest.raises(AuthUnavailable) as caught:
                await bulkmail.Connection(place(server, way.host, None, login=LOGIN), **options).connect()
            return caught.value

    assert PASSWORD not in str(run(main()))


@pytest.mark.parametrize("kind", TLS)
@pytest.mark.parametrize("name", WAYS)
def test_verify_shows_each_step_of_the_way(run, proxies, certificates, name, kind):
    way = WAYS[name]
    proxy = way.proxy(proxies)
    hops = [] if proxy is None else list(map(str, parse_proxy(proxy, "proxy")))

    async def main():
        async with sink(certificates, kind) as server:
            url = place(server, way.host, kind, login=LOGIN if kind else "")
            return await bulkmail.probe(url, **options_of(certificates, proxy)), server.port

    report, port = run(main())
    assert report.ok, str(report)
    steps = [step for step in report.steps if step.name.startswith("proxy")]
    assert [step.detail["proxy"] for step in steps] == hops and all(step.ok for step in steps)
    if hops:
        assert steps[-1].detail["target"].rpartition(":")[2] == str(port)
        assert all(hop in str(report) for hop in hops)
    assert (report.step("tls").ok, report.step("login").ok) == ((True, True) if kind else (None, None))
    # Nothing is looked up here that the proxy is to find.
    found = report.step("dns").detail.get("names", {})
    assert KNOWN_TO_PROXIES not in found
    assert PASSWORD not in str(report) and "s3cret" not in str([step.as_dict() for step in report.steps])


def test_a_handler_that_did_the_tls_itself(run, certificates):
    """secured=True: it counts as encrypted, a login is sent, and TLS is neither begun nor offered again."""
    options = options_of(certificates, secured_handler(certificates))

    async def main():
        async with sink(certificates, "implicit") as server:
            url = place(server, "localhost", None, login=LOGIN)
            async with bulkmail.Connection(url, **options) as connection:
                assert connection.secure
                await connection.send(bulkmail.Envelope(NEWS, [ANN]), BIG)
            async with bulkmail.Mailer(url, **options) as mailer:
                receipts = [receipt async for receipt in mailer.send_many(map(small, range(3)))]
            return receipts, list(server.messages)

    receipts, messages = run(main())
    assert all(receipt.error is None and receipt.egress.startswith("secured://") for receipt in receipts)
    assert {(message.auth, message.tls) for message in messages} == {(USER, "TLSv1.3")}
    assert messages[0].content == BIG


# ---- IPv6

SIX = {
    "http tinyproxy": lambda p, host: p.tinyproxy(host=host).url("http"),
    "http squid": lambda p, host: p.squid(host=host).url("http"),
    "https squid": lambda p, host: squid_tls(p, host=host),
    "socks5 microsocks": lambda p, host: p.microsocks(host=host).url("socks5"),
    "socks5h dante": lambda p, host: p.dante(host=host).url("socks5h"),
    "socks5h ssh": lambda p, host: p.ssh(host=host).url("socks5h"),
}


async def one_message(url, certificates, server, proxy):
    async with bulkmail.Mailer(url, **options_of(certificates, proxy)) as mailer:
        receipt = await mailer.send(small(1))
    check_egress(receipt.egress, proxy)
    assert [message.content for message in server.messages] == [small(1)]


@pytest.mark.parametrize("name", SIX)
def test_a_proxy_at_an_ipv6_address(run, proxies, certificates, name):
    proxy = SIX[name](proxies, "::1")

    async def main():
        async with sink(certificates, "starttls") as server:
            await one_message(place(server, ADDRESS, "starttls", login=LOGIN), certificates, server, proxy)

    run(main())


@pytest.mark.parametrize("host", ["[::1]", "mx6.example.test"])
@pytest.mark.parametrize("name", SIX)
def test_a_server_at_an_ipv6_address(run, proxies, certificates, name, host):
    proxy = SIX[name](proxies, "127.0.0.1")
    if host != "[::1]" and name.startswith("socks5 "):
        host = "[::1]"  # the name is known to proxies only, and this scheme does not ask them

    async def main():
        async with sink(certificates, None, listen="[::1]:0") as server:
            await one_message(place(server, host, None), certificates, server, proxy)

    run(main())


def test_socks4_says_that_it_has_no_ipv6(run, proxies):
    """Four octets are all that its request has room for."""
    with pytest.raises(bulkmail.ProxyError) as caught:
        run(bulkmail.Connection("smtp://[::1]:25", proxy=proxies.dante().url("socks4")).connect())
    assert "IPv6" in str(caught.value) and "::1" in str(caught.value)
