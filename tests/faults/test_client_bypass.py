"""A relay that no_proxy covers is reached without the proxy, plain and TLS alike, and all that hangs on it knows."""

from __future__ import annotations

import contextlib
import logging
import socket

import pytest

from bulkmail import ConfigError, Connection, Envelope, Mailer, ProxyError, proxies_from_properties
from bulkmail.errors import AuthUnavailable, ConnectError
from bulkmail.net import bypass
from bulkmail.net.resolve import Address
from bulkmail.pool.mailer import send
from bulkmail.smtp.verify import probe
from faults.mails import message
from faults.scripted import close, expect, hello, offer, scripted, start_tls
from faults.scripted import send as say
from faults.scripted import serve as obliging

NAME = "me.example.test"
COVERING = ["127.0.0.1", "127.*", "127.0.0.0/8", "<local>", "*", "::ffff:127.0.0.0/104"]
OTHERS = ["localhost", "127.0.0.2", "10.0.0.0/8", ".example.com", "127.0.0.1:1"]


@pytest.fixture
def dead_proxy(free_port):
    """Nothing listens there."""
    return f"socks5h://ann:hidden-1@127.0.0.1:{free_port()}"


def upgrading(certificates):
    upgrade = [expect(rb"STARTTLS"), say(b"220 2.0.0 go ahead\r\n"), start_tls(certificates.server_context())]
    return [*hello("STARTTLS"), *upgrade, expect(rb"EHLO \S+"), say(offer())]


@contextlib.asynccontextmanager
async def relay(kind, certificates):
    """A server of each kind: "plain", "starttls" or "tls"."""
    script = [*(upgrading(certificates) if kind == "starttls" else hello()), obliging()]
    context = certificates.server_context() if kind == "tls" else None
    async with scripted(script, implicit_tls=context) as server:
        yield server


async def by_connection(url, options):
    async with Connection(url, **options) as connection:
        return await connection.send(Envelope("a@example.test", ["b@example.test"]), message(0))


async def by_mailer(url, options):
    async with Mailer(url, **options) as mailer:
        return await mailer.send(message(0))


WAYS = pytest.mark.parametrize("way", [by_connection, by_mailer])


@WAYS
@pytest.mark.parametrize("kind", ["plain", "starttls", "tls"])
@pytest.mark.parametrize("no_proxy", COVERING)
def test_a_covered_relay_is_reached_directly(run, certificates, dead_proxy, way, kind, no_proxy):
    async def main():
        async with relay(kind, certificates) as server:
            options = {"proxy": dead_proxy, "no_proxy": no_proxy, "name": NAME, "ca_file": str(certificates.ca_file)}
            return await way(server.url, options), len(server.messages)

    receipt, taken = run(main())
    assert taken == 1 and receipt.accepted and (receipt.tls is not None) is (kind != "plain")
    assert receipt.egress is None  # no proxy carried it


@WAYS
@pytest.mark.parametrize("kind", ["plain", "tls"])
@pytest.mark.parametrize("no_proxy", OTHERS)
def test_a_relay_that_is_not_covered_needs_the_proxy(run, certificates, dead_proxy, way, kind, no_proxy):
    async def main():
        async with relay(kind, certificates) as server:
            with pytest.raises(ProxyError) as caught:
                await way(server.url, {"proxy": dead_proxy, "no_proxy": no_proxy, "name": NAME})
            return str(caught.value), len(server.peers)

    text, connections = run(main())
    assert connections == 0 and "hidden-1" not in text


def test_a_covered_relay_is_reached_directly_by_every_egress(run, certificates, dead_proxy, free_port):
    ways = {"a": dead_proxy, "b": f"http://127.0.0.1:{free_port()}"}

    async def main():
        async with relay("plain", certificates) as server, Mailer(server.url, egress=ways, no_proxy="127.*") as mailer:
            receipts = [receipt async for receipt in mailer.send_many(message(n) for n in range(20))]
            return [receipt.error for receipt in receipts], len(server.messages)

    assert run(main()) == ([None] * 20, 20)


@WAYS
def test_properties_of_javax_mail_are_heeded(run, certificates, free_port, way):
    properties = {"mail.smtp.proxy.host": "127.0.0.1", "mail.smtp.proxy.port": free_port()}
    covering = properties | {"mail.smtp.proxy.nonProxyHosts": "localhost|127.*|[::1]"}

    async def main():
        async with relay("plain", certificates) as server:
            with pytest.raises(ProxyError):
                await way(server.url, {"name": NAME, **proxies_from_properties(properties)["smtp"]})
            assert not server.peers
            await way(server.url, {"name": NAME, **proxies_from_properties(covering)["smtp"]})
            return len(server.messages)

    assert run(main()) == 1


def test_the_environment_is_heeded(run, certificates, dead_proxy, monkeypatch):
    monkeypatch.setenv("smtp_proxy", dead_proxy)

    async def main():
        async with relay("plain", certificates) as server:
            monkeypatch.setenv("no_proxy", "example.test")
            with pytest.raises(ProxyError):
                await by_mailer(server.url, {"proxy": "env", "name": NAME})
            await by_mailer(server.url, {"name": NAME})
            monkeypatch.setenv("no_proxy", "example.test,127.0.0.1")
            await by_mailer(server.url, {"proxy": "env", "name": NAME})
            return len(server.messages)

    assert run(main()) == 2


def test_a_name_in_a_range_is_reached_directly(run, certificates, dead_proxy):
    async def main():
        async with relay("plain", certificates) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            await by_connection(url, {"proxy": dead_proxy, "no_proxy": "127.0.0.0/8", "name": NAME})
            return len(server.messages)

    assert run(main()) == 1


LOGIN = [*hello("AUTH PLAIN"), expect(rb"AUTH PLAIN \S+"), say(b"235 2.7.0 welcome\r\n"), obliging()]


def test_a_covered_relay_on_this_machine_counts_as_near(run, dead_proxy):
    """Behind a proxy no target does, and a password is not sent to it in clear."""

    async def main(log_in_later):
        async with scripted(LOGIN) as server:
            url = server.url if log_in_later else server.url.replace("//", "//bob:pass@")
            async with Connection(url, proxy=dead_proxy, no_proxy="127.*", name=NAME) as connection:
                if log_in_later:
                    await connection.login("bob", "pass")
                return connection.info.auth

    assert [run(main(later)) for later in (False, True)] == ["plain", "plain"]


def test_a_given_socket_is_where_its_owner_says(run):
    """The rules are about what we dial: a tunnel that its owner built stays one, and its end is not near."""

    async def main():
        async with scripted(LOGIN) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            url = server.url.replace("//", "//bob:pass@")
            with pytest.raises(AuthUnavailable):
                await Connection(url, socket=sock, proxy="http://p.test:1", no_proxy="*", name=NAME).connect()
            await server.until(lambda s: not any(peer.alive() for peer in s.peers))

    run(main())


def test_a_broken_handshake_goes_on_directly(run, certificates, dead_proxy):
    """tls=opportunistic takes a second connection: the same way as the first."""
    broken = [*hello("STARTTLS"), expect(rb"STARTTLS"), say(b"220 go\r\n"), close()]

    async def main():
        async with scripted(broken, [*hello(), obliging()]) as server:
            options = {"proxy": dead_proxy, "no_proxy": "127.*", "tls": "opportunistic", "name": NAME}
            receipt = await by_connection(server.url, options)
            return receipt.egress, len(server.messages)

    assert run(main()) == (None, 1)


def test_a_covered_relay_that_is_down_is_no_failure_of_the_proxy(run, free_port, dead_proxy):
    with pytest.raises(ConnectError):
        run(by_connection(f"smtp://127.0.0.1:{free_port()}", {"proxy": dead_proxy, "no_proxy": "*"}))


def test_the_call_for_one_message_takes_the_options(dead_proxy):
    with pytest.raises(ProxyError):
        send(message(0), via="smtp://192.0.2.1", proxy=dead_proxy, no_proxy=["192.0.2.2"])
    with pytest.raises(ConfigError, match="entry 1 is 'a b'"):
        send(message(0), via="smtp://192.0.2.1", proxy=dead_proxy, no_proxy=["a b"])


# ---- verify


def states(report):
    return {step.name: step.state for step in report.steps}


def test_verify_shows_that_the_proxy_is_not_used(run, dead_proxy):
    async def main():
        async with scripted([*hello(), obliging()]) as server:
            return await probe(server.url, proxy=dead_proxy, no_proxy="127.0.0.1", name=NAME)

    report = run(main())
    assert report.ok and states(report)["proxy"] == "skipped"
    assert report.step("proxy").summary == "no_proxy covers 127.0.0.1: the connection is direct"
    assert report.step("dns").summary == "127.0.0.1"


def test_verify_helps_against_what_is_wrong_with_the_relay_itself(run, free_port, dead_proxy):
    report = run(probe(f"smtp://127.0.0.1:{free_port()}", proxy=dead_proxy, no_proxy="127.*"))
    assert (report.failed.name, report.failed.error.code) == ("connect", "ECONNECTION")
    assert "Nothing listens on port" in report.failed.remedy and "proxy" not in report.failed.remedy


@pytest.fixture
def found(monkeypatch):
    """found(...): what the rules get for a name."""

    def install(*addresses):
        async def resolve(host, port, *, timeout):
            return [Address(socket.AF_INET, (address, port)) for address in addresses]

        monkeypatch.setattr(bypass, "resolve", resolve)

    return install


def test_verify_shows_what_was_looked_up_for_a_range(run, found, dead_proxy):
    found("192.0.2.7")
    report = run(probe("smtp://mx.example.test", proxy=dead_proxy, no_proxy="10.0.0.0/8"))
    assert report.step("dns").detail["names"] == {"mx.example.test": ["192.0.2.7"], "127.0.0.1": ["127.0.0.1"]}
    assert "mx.example.test is 192.0.2.7" in report.step("dns").summary
    assert (report.failed.name, report.failed.error.code) == ("connect", "EPROXY")


def test_verify_shows_that_nothing_was_found_for_a_range(run, found, dead_proxy):
    found()
    report = run(probe("smtp://mx.example.test", proxy=dead_proxy, no_proxy="10.0.0.0/8"))
    assert "mx.example.test is not found here" in report.step("dns").summary


def test_the_log_shows_no_password_of_the_proxy(run, certificates, dead_proxy, caplog):
    async def main():
        async with relay("plain", certificates) as server:
            for no_proxy in ("127.*", "10.*"):
                with contextlib.suppress(ProxyError):
                    await by_connection(server.url, {"proxy": dead_proxy, "no_proxy": no_proxy, "name": NAME})

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert "no connection to" in caplog.text and "hidden-1" not in caplog.text
