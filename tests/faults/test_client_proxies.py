"""SMTP through proxies of every scheme and chains of them: whole, encrypted where it says so, honest about losses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from bulkmail.errors import AuthUnavailable, ConnectionLost, InDoubt, ProxyError, TlsError
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from bulkmail.smtp.verify import probe
from faults.mails import WELL, send_all, subject
from faults.proxying import proxying
from faults.scripted import GREETING, at, close, expect, hang, hello, offer, scripted, send, serve, start_tls

ANN = Envelope("news@example.test", ["ann@example.test"])
HOST = "mx.example.test"
BIG = b"line of a message that is larger than a socket takes at once\r\n" * 20_000
SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks", "socks5h"]
CHAINS = [
    ("socks5h", "http"),
    ("http", "https"),
    ("https", "socks5h"),
    ("https", "https"),
    ("socks4a", "https", "socks5"),
    ("https", "https", "https"),
    ("socks5", "socks4", "http", "socks4a"),
]


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    """What resolves here: the relay's name, for schemes that have us resolve it."""
    import bulkmail.net.direct as direct
    from bulkmail.net.resolve import resolve as real

    async def resolve(host, port, *, timeout):
        return await real("192.0.2.25" if host == HOST else host, port, timeout=timeout)

    monkeypatch.setattr(direct, "resolve", resolve)


def tls_script(certificates, *steps):
    return [
        *hello("PIPELINING", "STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"),
        start_tls(certificates.server_context()), expect(rb"EHLO \S+"), send(offer("PIPELINING", "AUTH PLAIN")), *steps,
    ]  # fmt: skip


@asynccontextmanager
async def way(schemes, port, certificates, byte_by_byte=False):
    """Proxies of these schemes that lead to `port`, one behind the other; yields (proxies, value of option proxy)."""
    async with AsyncExitStack() as stack:
        proxies, hops = [], []
        for scheme in schemes:
            context = certificates.server_context() if scheme == "https" else None
            proxy = await stack.enter_async_context(proxying({}, context))
            proxy.byte_by_byte = byte_by_byte
            proxies.append(proxy)
            hop = {"proxy": proxy.url(scheme), "timeout": 20}
            hops.append(hop | ({"ca_file": str(certificates.ca_file)} if scheme == "https" else {}))
        for proxy, following in zip(proxies, [*proxies[1:], None], strict=True):
            next_port = following.port if following else port
            proxy.table = {"127.0.0.1": next_port, HOST: next_port, "192.0.2.25": next_port}
        yield proxies, hops


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["coalesced", "byte by byte"])
@pytest.mark.parametrize("schemes", [*((scheme,) for scheme in SCHEMES), *CHAINS], ids=">".join)
def test_in_clear_through_whatever(run, certificates, schemes, byte_by_byte):
    async def main():
        async with scripted(WELL) as server, way(schemes, server.port, certificates, byte_by_byte) as (proxies, hops):
            async with Connection(f"smtp://{HOST}:2525", proxy=hops) as connection:
                assert not connection.secure and connection.tls is None
                await connection.send(ANN, BIG)
                await connection.send(ANN, (BIG[at : at + 70_000] for at in range(0, len(BIG), 70_000)))
            last = "192.0.2.25" if schemes[-1] in ("socks4", "socks5", "socks") else HOST
            assert proxies[-1].asked[0][1:] == (last, 2525)
            return server.contents()

    assert run(main()) == [BIG, BIG]


@pytest.mark.parametrize("implicit", [True, False], ids=["smtps", "STARTTLS"])
@pytest.mark.parametrize("schemes", [("http",), ("https",), ("https", "socks5h"), ("socks5h", "https")], ids=">".join)
def test_tls_with_the_relay_through_whatever(run, certificates, schemes, implicit):
    async def main():
        script = [*hello("PIPELINING", "AUTH PLAIN"), expect(rb"AUTH PLAIN .*"), send(b"235 ok\r\n"), serve()]
        if not implicit:
            script = tls_script(certificates, *script[-3:])
        context = certificates.server_context() if implicit else None
        async with (
            scripted(script, implicit_tls=context) as server,
            way(schemes, server.port, certificates) as (proxies, hops),
        ):
            url = f"smtp{'s' if implicit else ''}://ann:s3cret@{HOST}:2525"
            async with Connection(url, proxy=hops, ca_file=str(certificates.ca_file)) as connection:
                assert connection.secure and connection.tls.startswith("TLSv1")
                assert HOST in connection.info.certificate.names
                await connection.send(ANN, BIG)
            for proxy in proxies:
                assert b"line of a message" not in b"".join(map(bytes, proxy.served))
            return server.contents()

    assert run(main()) == [BIG]


@pytest.mark.parametrize("tls", ["auto", "never", "opportunistic"])
def test_tls_with_the_proxy_is_none_with_the_relay(run, certificates, tls):
    async def main():
        script = [*hello("AUTH PLAIN LOGIN"), hang()]
        async with scripted(script) as server, way(["https"], server.port, certificates) as (_, hops):
            with pytest.raises(AuthUnavailable, match="is not encrypted"):
                await Connection(f"smtp://ann:s3cret@{HOST}", proxy=hops, tls=tls).connect()
            await server.until(lambda s: s.peers[0].ended)
            return bytes(server.peers[0].said)

    assert b"AUTH" not in run(main())


def test_tls_with_the_proxy_does_not_do_where_tls_is_required(run, certificates):
    async def main():
        script = [*hello(), expect(rb"STARTTLS"), send(b"502 no\r\n"), hang()]
        async with scripted(script) as server, way(["https"], server.port, certificates) as (_, hops):
            with pytest.raises(TlsError, match="refused, STARTTLS"):
                await Connection(f"smtp://{HOST}", proxy=hops, tls="require").connect()

    run(main())


def test_requiretls_counts_tls_with_the_relay_only(run, certificates):
    async def main():
        async with (
            scripted([*hello("REQUIRETLS"), serve()]) as server,
            way(["https"], server.port, certificates) as (_, hops),
            Connection(f"smtp://{HOST}", proxy=hops) as connection,
        ):
            return connection.extensions, connection.info

    extensions, info = run(main())
    assert "REQUIRETLS" not in extensions and info.tls is None and info.cipher is None and info.certificate is None


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("proxy", ["http", "https"])
def test_a_relay_with_another_name_is_the_relays_failure(run, certificates, scheme, proxy):
    async def main():
        script = [
            *hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"),
            start_tls(certificates.server_context(wrong_name=True)), hang(),
        ]  # fmt: skip
        implicit = certificates.server_context(wrong_name=True) if scheme == "smtps" else None
        async with (
            scripted(script, implicit_tls=implicit) as server,
            way([proxy], server.port, certificates) as (_, hops),
        ):
            with pytest.raises(TlsError, match=rf"{HOST}: TLS failed: the certificate is not for {HOST}"):
                await Connection(f"{scheme}://{HOST}", proxy=hops, ca_file=str(certificates.ca_file)).connect()

    run(main())


@pytest.mark.parametrize("proxy", ["http", "https"])
def test_a_relay_in_clear_where_tls_is_expected(run, certificates, proxy):
    async def main():
        async with (
            scripted([send(GREETING), hang()]) as server,
            way([proxy], server.port, certificates) as (_, hops),
        ):
            with pytest.raises(TlsError, match="the server does not speak TLS here"):
                await Connection(f"smtps://{HOST}", proxy=hops).connect()

    run(main())


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_relay_that_says_goodbye_at_once_behind_an_https_proxy(run, certificates, scheme):
    """Its words and the end of the stream came while the line was nobody's."""

    async def main():
        async with (
            scripted([send(b"554 5.7.1 not you\r\n"), close()]) as server,
            way(["https"], server.port, certificates) as (_, hops),
        ):
            with pytest.raises((ConnectionError,)) as caught:
                await Connection(f"{scheme}://{HOST}", proxy=hops).connect()
            return caught.value

    error = run(main())
    if scheme == "smtp":
        assert error.reply.code == 554 and "not you" in str(error)
    else:
        assert isinstance(error, TlsError)


# ---- losses


@pytest.mark.parametrize("schemes", [("socks5h",), ("https",), ("https", "https")], ids=">".join)
def test_a_relay_that_goes_behind_the_dot_leaves_doubt(run, certificates, schemes):
    async def main():
        script = [*hello("PIPELINING"), serve(at("dot", close()))]
        async with (
            scripted(script) as server,
            way(schemes, server.port, certificates) as (_, hops),
            Connection(f"smtp://{HOST}", proxy=hops) as connection,
        ):
            with pytest.raises(InDoubt):
                await connection.send(ANN, b"hi\r\n")

    run(main())


@pytest.mark.parametrize("schemes", [("socks5h",), ("https",), ("https", "https")], ids=">".join)
def test_a_proxy_that_dies_amid_a_message_leaves_no_doubt(run, certificates, schemes):
    """Most of the message is not even written: the relay has stopped reading."""

    async def main():
        stalled = asyncio.Event()

        async def stall(peer):
            await peer.send(b"354 go on\r\n")
            stalled.set()
            await asyncio.Event().wait()

        script = [*hello("PIPELINING"), serve(at("DATA", stall))]
        async with scripted(script) as server, way(schemes, server.port, certificates) as (proxies, hops):
            connection = Connection(f"smtp://{HOST}", proxy=hops)
            await connection.connect()
            sending = asyncio.ensure_future(connection.send(ANN, BIG * 20))
            await stalled.wait()
            for writer in proxies[0].writers:
                writer.transport.abort()
            with pytest.raises(ConnectionLost) as caught:
                await sending
            assert not isinstance(caught.value, InDoubt)

    run(main())


@pytest.mark.parametrize("schemes", [("socks5h",), ("https",)], ids=">".join)
def test_a_pool_sends_again_what_certainly_was_not_taken_and_nothing_else(run, certificates, schemes):
    async def main():
        script = [*hello("PIPELINING"), serve(at("MAIL", close(), nth=3))]
        async with scripted(script, WELL) as server, way(schemes, server.port, certificates) as (_, hops):
            async with Mailer(f"smtp://{HOST}", proxy=hops, connections=1) as mailer:
                results = await send_all(mailer, 8)
            assert not [result for result in results if isinstance(result, BaseException)]
            return sorted(server.contents())

    assert run(main()) == sorted(subject(number) for number in range(8))


# ---- verify


@pytest.mark.parametrize("schemes", [("https",), ("socks5h", "https", "http")], ids=">".join)
def test_verify_shows_each_proxy_with_its_time_and_what_it_reached(run, certificates, schemes):
    async def main():
        async with scripted(WELL) as server, way(schemes, server.port, certificates) as (_, hops):
            return await probe(f"smtp://{HOST}", proxy=hops)

    report = run(main())
    assert report.ok
    steps = [step for step in report.steps if step.name.startswith("proxy")]
    names = ["proxy"] if len(schemes) == 1 else [f"proxy {n + 1}" for n in range(len(schemes))]
    assert [step.name for step in steps] == names and all(step.ok and step.seconds > 0 for step in steps)
    assert steps[-1].detail["target"] == f"{HOST}:587"
    assert ["tls" in step.detail for step in steps] == [scheme == "https" for scheme in schemes]
    assert report.step("tls").detail == {}, "that with the relay"


def test_verify_says_which_proxy_of_a_chain_failed(run, certificates):
    async def main():
        async with (
            scripted(WELL) as server,
            way(["socks5h", "http", "socks4a"], server.port, certificates) as (p, hops),
        ):
            p[1].table = {}
            return await probe(f"smtp://{HOST}", proxy=hops), p[1].url("http")

    report, second = run(main())
    assert [step.state for step in report.steps if "proxy" in step.name] == ["ok", "failed", "not reached"]
    assert report.failed.name == "proxy 2" and report.failed.error.proxy == second
    assert "does not reach the server" in report.failed.remedy


def test_verify_of_a_proxy_whose_certificate_is_refused(run, certificates):
    async def main():
        async with proxying({}, certificates.server_context()) as proxy:
            return await probe(f"smtp://{HOST}", proxy=proxy.url("https"))

    report = run(main())
    assert report.failed.name == "proxy" and isinstance(report.failed.error, ProxyError)
    assert "ca_file" in report.failed.remedy and report.step("tls").detail == {}
