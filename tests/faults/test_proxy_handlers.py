"""Handlers of other people's proxies: what they get, what they may return, and everything that can go wrong in them."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl

import pytest

import bulkmail
from bulkmail import proxyhandlers
from bulkmail.errors import AuthUnavailable, ConfigError, ProxyError, TimedOut, TlsError
from bulkmail.proxyurl import parse_proxy
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from bulkmail.smtp.verify import probe
from faults.mails import WELL
from faults.proxying import proxying
from faults.scripted import expect, hang, hello, scripted, send, serve

ANN = Envelope("news@example.test", ["ann@example.test"])
HOST = "mx.example.test"
BIG = b"line of a message that is larger than a socket takes at once\r\n" * 20_000


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(proxyhandlers, "_handlers", {})
    return bulkmail.register_proxy


def straight(port, **proxied):
    """A handler that goes to a port of this machine, by target.dial()."""

    async def handler(proxy, target):
        sock = await target.dial("127.0.0.1", port)
        return bulkmail.Proxied(sock, **proxied) if proxied else sock

    return handler


def tls_socket(port, certificates):
    """A handler whose socket has TLS under it, and is blocking."""

    def connect():
        context = ssl.create_default_context(cafile=str(certificates.ca_file))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="127.0.0.1")

    return lambda: asyncio.to_thread(connect)


def test_a_handler_gets_proxy_and_target_and_its_socket_carries_the_mail(run, register):
    got = []

    async def main():
        async with scripted(WELL) as server:

            async def handler(proxy, target):
                got.append((proxy, target.host, target.port, target.local_address, target.timeout))
                return await target.dial("127.0.0.1", server.port)

            register("Corp", handler)
            url = "corp://ann:s3cret@gate:99/room/a?x=1"
            async with Connection(f"smtp://{HOST}:2525", proxy=url, local_address="127.0.0.1") as connection:
                await connection.send(ANN, BIG)
            return server.contents()

    assert run(main()) == [BIG]
    ((proxy, *target, seconds),) = got
    assert (proxy.scheme, proxy.user, proxy.password, proxy.host, proxy.port) == ("corp", "ann", "s3cret", "gate", 99)
    assert (proxy.path, proxy.query) == ("/room/a", "x=1") and target == [HOST, 2525, "127.0.0.1"]
    assert 100 < seconds <= 120 and "s3cret" not in str(proxy)


def test_a_blocking_socket_is_as_good(run, register):
    async def main():
        async with scripted(WELL) as server:

            async def handler(proxy, target):
                return await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port), 10)

            register("corp", handler)
            async with Connection(f"smtp://{HOST}", proxy="corp://") as connection:
                await connection.send(ANN, BIG)
            return server.contents()

    assert run(main()) == [BIG]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("kind", ["ssl", "plain"])
def test_secured_is_neither_wrapped_nor_upgraded_and_counts_as_encrypted(run, register, certificates, kind, scheme):
    async def main():
        script = [
            *hello("STARTTLS", "AUTH PLAIN", "REQUIRETLS"), expect(rb"AUTH PLAIN .*"), send(b"235 ok\r\n"), serve()
        ]  # fmt: skip
        context = certificates.server_context() if kind == "ssl" else None
        async with scripted(script, implicit_tls=context) as server:
            make = tls_socket(server.port, certificates)

            async def handler(proxy, target):
                sock = await (make() if kind == "ssl" else target.dial("127.0.0.1", server.port))
                return bulkmail.Proxied(sock, secured=True)

            register("corp", handler)
            async with Connection(f"{scheme}://ann:pw@{HOST}", proxy="corp://gate", tls="auto") as connection:
                assert connection.secure
                assert connection.tls.startswith("TLSv1.") if kind == "ssl" else connection.tls == "TLS"
                assert ("REQUIRETLS" in connection.extensions) == (kind == "ssl"), "whose certificate was verified"
                await connection.send(ANN, BIG)
            return server.contents(), b"STARTTLS" in server.peers[0].said

    assert run(main()) == ([BIG], False)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_tls_socket_that_is_not_secured_is_tls_with_the_proxy_only(run, register, certificates, scheme):
    async def main():
        inner = certificates.server_context() if scheme == "smtps" else None
        script = [*hello("AUTH PLAIN"), *([hang()] if scheme == "smtp" else [serve()])]
        async with (
            scripted(script, implicit_tls=inner) as server,
            proxying({HOST: server.port}, certificates.server_context()) as proxy,
        ):
            make = tls_socket(proxy.port, certificates)

            async def handler(given, target):
                sock = await make()
                sock.sendall(f"CONNECT {HOST}:25 HTTP/1.1\r\n\r\n".encode())
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await asyncio.to_thread(sock.recv, 1)
                return sock

            register("corp", handler)
            login = "ann:pw@" if scheme == "smtp" else ""
            connection = Connection(f"{scheme}://{login}{HOST}", proxy="corp://gate", ca_file=str(certificates.ca_file))
            if scheme == "smtp":
                with pytest.raises(AuthUnavailable, match="not encrypted"):
                    await connection.connect()
                return [BIG]
            async with connection:
                assert connection.secure and HOST in connection.info.certificate.names
                await connection.send(ANN, BIG)
            return server.contents()

    assert run(main()) == [BIG]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("others", ["https", "socks5h"])
def test_a_handler_at_any_place_of_a_chain(run, register, certificates, others, place):
    async def main():
        context = certificates.server_context() if others == "https" else None
        async with scripted(WELL) as server, proxying({}, context) as one, proxying({}, context) as two:
            extra = {"ca_file": str(certificates.ca_file)} if context else {}
            hops = [{"proxy": proxy.url(others), **extra} for proxy in (one, two)]
            hops.insert(place, "corp://gate")
            ports = [one.port, two.port]
            ports.insert(place, server.port if place == 2 else [one, two][place].port)
            one.table = {"127.0.0.1": two.port, HOST: server.port} | ({"gate": server.port} if place == 2 else {})
            if place == 1:
                one.table = {"gate": two.port}
            two.table = {HOST: server.port, "gate": server.port}

            async def handler(proxy, target):
                # a proxy that asks nothing and leads where it leads
                return await target.dial("gate" if place else "127.0.0.1", 7 if place else one.port)

            register("corp", handler)
            async with Connection(f"smtp://{HOST}", proxy=hops) as connection:
                await connection.send(ANN, BIG)
            return server.contents()

    assert run(main()) == [BIG]


def test_a_handler_that_goes_past_the_proxies_before_it_is_refused(run, register):
    async def main():
        async with scripted(WELL) as server, proxying({}) as first:

            async def handler(proxy, target):
                return await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port), 10)

            register("corp", handler)
            with pytest.raises(ProxyError, match=r"did not use target\.dial\(\)"):
                await Connection(f"smtp://{HOST}", proxy=[first.url("http"), "corp://gate"]).connect()

    run(main())


# ---- what goes wrong


def pair():
    made = socket.socketpair()
    made[1].close()
    return made[0]


def closed():
    sock = socket.socket()
    sock.close()
    return sock


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: None, "returned NoneType, expected a connected socket"),
        (lambda: "sock", "returned str"),
        (lambda: bulkmail.Proxied(None), "returned Proxied with NoneType"),
        (socket.socket, "a socket that is not connected"),
        (closed, "a socket that is closed"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), "a socket that is no stream"),
        (lambda: ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="x"), "not connected"),
    ],
)
def test_what_is_no_connected_socket(run, register, returned, words):
    async def handler(proxy, target):
        return returned()

    register("corp", handler)
    with pytest.raises(ProxyError) as caught:
        run(Connection(f"smtp://{HOST}", proxy="corp://ann:s3cret@gate:1").connect())
    text = str(caught.value)
    assert text.startswith("proxy corp://ann:***@gate:1: the handler ") and "handler" in text and words in text
    assert caught.value.proxy == "corp://ann:***@gate:1"


class Own(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Own("no s3cret\nhere"), ProxyError, "failed: Own: no *** here"),
        (OSError(111, "Connection refused"), ProxyError, "Connection refused"),
        (TimeoutError("late"), TimedOut, "late"),
        (ProxyError("it said 42", reply_code=42), ProxyError, "failed: it said 42"),
        (asyncio.CancelledError(), ProxyError, "was cancelled by itself"),
        (KeyError("x"), ProxyError, "KeyError: 'x'"),
    ],
)
def test_a_handler_that_fails(run, register, error, kind, words):
    async def handler(proxy, target):
        raise error

    register("corp", handler)
    with pytest.raises(kind) as caught:
        run(Connection(f"smtp://{HOST}", proxy="corp://ann:s3cret@gate:1").connect())
    assert type(caught.value) is kind and words in str(caught.value) and "s3cret" not in str(caught.value)
    assert "proxy corp://ann:***@gate:1: the handler" in str(caught.value) and "handler" in str(caught.value)
    assert getattr(caught.value, "phase", "proxy") == "proxy"
    assert getattr(caught.value, "reply_code", None) == getattr(error, "reply_code", None)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_handler_that_hangs_runs_out_of_time_and_its_late_socket_is_closed(run, register, stubborn):
    late = []

    async def handler(proxy, target):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise
        late.append(pair())
        return late[0]

    async def main():
        with pytest.raises(TimedOut, match="did not end in time") as caught:
            await Connection(f"smtp://{HOST}", proxy={"proxy": "corp://gate", "timeout": 0.05}).connect()
        assert caught.value.phase == "proxy"
        for _ in range(5):
            await asyncio.sleep(0)

    register("corp", handler)
    run(main())
    assert [sock.fileno() for sock in late] == [-1] * stubborn


def test_what_a_failing_handler_left_open_is_closed(run, register):
    left = []

    async def main():
        async with scripted([hang()]) as server:

            async def handler(proxy, target):
                left.append(await target.dial("127.0.0.1", server.port))
                raise Own

            register("corp", handler)
            with pytest.raises(ProxyError):
                await Connection(f"smtp://{HOST}", proxy="corp://gate").connect()

    run(main())
    assert left[0].fileno() == -1


def test_the_proxy_of_a_handler_that_is_not_there(run, register, free_port):
    register("corp", straight(free_port()))
    with pytest.raises(ProxyError, match=r"^proxy corp://gate: cannot connect: 127\.0\.0\.1: Connection refused"):
        run(Connection(f"smtp://{HOST}", proxy="corp://gate").connect())


def test_a_cancellation_at_any_moment_leaves_nothing_open(run, register, certificates):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    async def main():
        async with scripted(WELL) as server, proxying({"gate": server.port}, certificates.server_context()) as first:
            hops = [{"proxy": first.url("https"), "ca_file": str(certificates.ca_file)}, "corp://gate"]

            async def handler(proxy, target):
                return await target.dial("gate", 1)

            register("corp", handler)
            before, steps = descriptors(), 0
            while True:
                connection = Connection(f"smtp://{HOST}", proxy=hops)
                task = asyncio.ensure_future(connection.connect())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                if result is None:
                    connection.close()
                for _ in range(300):
                    if descriptors() <= before:
                        break
                    await asyncio.sleep(0.01)  # the servers' ends are in this process too
                assert descriptors() <= before, steps
                if result is None:
                    return steps
                steps += 7

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("descriptors are counted on Linux only")
    assert run(main()) > 20


# ---- names and entry points


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "socks5h", "", "1x", "a b", "a://", None])
def test_a_scheme_that_cannot_be_registered(register, scheme):
    with pytest.raises(ConfigError):
        register(scheme, straight(1))


def test_a_handler_has_to_be_callable_and_the_last_one_counts(register):
    with pytest.raises(ConfigError, match="expected an async function"):
        register("corp", None)
    first, second = straight(1), straight(2)
    register("corp", first)
    register("corp", second)
    assert proxyhandlers.find_handler("corp") is second


def test_an_unknown_scheme_names_the_known_ones(register):
    register("corp", straight(1))
    with pytest.raises(ConfigError, match=r"corp://.*did you mean 'corp://'.*register_proxy"):
        parse_proxy("crop://gate", "proxy")


def install(tmp_path, monkeypatch, code, points):
    (tmp_path / "corp_proxy.py").write_text(code)
    info = tmp_path / "corp_proxy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: corp-proxy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bulkmail.proxies]\n{points}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "corp_proxy", raising=False)


def test_an_installed_package_brings_its_scheme(register, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "async def handle(proxy, target): ...", "corp = corp_proxy:handle")
    (proxy,) = parse_proxy("corp:///only/a/path", "proxy")
    assert (proxy.host, proxy.port, proxy.path) == ("", 0, "/only/a/path")
    assert proxyhandlers.find_handler("corp").__name__ == "handle"


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise ImportError('no gate')", "ImportError: no gate"), ("handle = 5", "is int"), ("", "cannot be loaded")],
)
def test_an_entry_point_that_does_not_load_is_named(register, tmp_path, monkeypatch, code, words):
    install(tmp_path, monkeypatch, code, "corp = corp_proxy:handle")
    with pytest.raises(ConfigError) as caught:
        parse_proxy("corp://gate", "proxy")
    assert "entry point corp = corp_proxy:handle of corp-proxy" in str(caught.value) and words in str(caught.value)


def test_verify_with_a_handler(run, register):
    async def main():
        async with scripted(WELL) as server:

            async def handler(proxy, target):
                sock = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port), 10)
                return bulkmail.Proxied(sock, secured=True)

            register("corp", handler)
            return await probe(f"smtp://{HOST}", proxy="corp://gate")

    report = run(main())
    assert report.ok and report.step("dns").state == report.step("connect").state == "skipped"
    assert report.step("proxy").ok and report.step("tls").ok and report.step("tls").warnings


def test_a_clear_transport_whose_tls_fails_is_a_tls_error(run, certificates):
    async def main():
        async with scripted(WELL, implicit_tls=certificates.server_context(wrong_name=True)) as server:
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, "127.0.0.1", server.port
            )
            with pytest.raises(TlsError, match="the certificate is not for"):
                await Connection(
                    f"smtps://127.0.0.1:{server.port}", transport=transport, ca_file=str(certificates.ca_file)
                ).connect()

    run(main())
