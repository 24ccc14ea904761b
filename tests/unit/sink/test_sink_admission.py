"""Who is let in: deny, ignore and the limits, by the real client's address."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConfigError
from bulkmail.sink import Server, Session, admission
from bulkmail.sink.admission import Rate, client_of
from bulkmail.sink.networks import Networks
from bulkmail.wire.proxy_header import v1, v2
from unit.sink.proxied_client import Behind
from unit.sink.sink_client import HELLO, Client, until

Run = Callable[[Any], Any]
LOGIN = b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"


def of(address: str) -> bytes:
    """The header for a client of that address."""
    if ":" in address:
        return f"PROXY TCP6 {address} ::1 40000 25\r\n".encode()
    return v1((address, 40000), ("192.0.2.25", 25))


# --- lists of addresses


@pytest.mark.parametrize(("entries", "inside", "outside"), [
    ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"], ["192.0.2.2", "::1", ""]),
    ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.9"], ["192.0.3.0", "2001:db8::1"]),
    ("192.0.2.77/24", ["192.0.2.1"], ["192.0.3.1"]),  # bits behind the prefix do not matter
    ("0.0.0.0/0", ["1.2.3.4", "::ffff:1.2.3.4"], ["::1"]),
    ("::/0", ["::1", "2001:db8::1"], ["1.2.3.4", "::ffff:1.2.3.4"]),
    ("2001:db8::/32", ["2001:db8::1", "2001:DB8:ffff::"], ["2001:db9::1", "32.1.13.184"]),
    ("[2001:db8::1]", ["2001:db8::1"], ["2001:db8::2"]),
    ("[2001:db8::]/64", ["2001:db8::2"], ["2001:db8:1::"]),
    ("fe80::/10", ["fe80::1%eth0", "fe80::1"], ["fec0::1"]),
    ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1"]),
    ("*", ["1.2.3.4", "::1", ""], []),
    ([], [], ["1.2.3.4", "::1", ""]),
    (["10.0.0.0/8", "::1", "192.0.2.1"], ["10.9.9.9", "::1", "192.0.2.1"], ["192.0.2.2", "::2"]),
])  # fmt: skip
def test_what_a_list_holds(entries: Any, inside: list[str], outside: list[str]) -> None:
    networks = Networks(entries, "deny")
    assert [address for address in inside if address not in networks] == []
    assert [address for address in outside if address in networks] == []


@pytest.mark.parametrize("name", ["proxy_from", "ignore", "deny"])
@pytest.mark.parametrize("entry", [
    "", "x", "relay.example", "10.*", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "/8", "10.0.0.0/255.0.0.0",
    "10.0.0.0/-1", "10.0.0.0/+8", " 10.0.0.1", "10.0.0.1:25", "fe80::1%eth0", "10.0.0.1,10.0.0.2", "01.2.3.4", 7, None,
])  # fmt: skip
def test_a_bad_entry_is_named_with_its_option(name: str, entry: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Server(**{name: ["192.0.2.1", entry]})
    assert f"{name!r} is {entry!r}, expected an address, a network such as" in str(caught.value)


@pytest.mark.parametrize("name", ["connections_per_minute", "connections_per_address"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True])
def test_a_bad_limit_is_named_with_its_option(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is {value!r}, expected a number of connections, at least 1"):
        Server(**{name: value})


def test_a_list_that_is_no_list_is_named() -> None:
    with pytest.raises(ConfigError, match="'deny' is 7, expected"):
        Server(deny=7)


# --- deny


@pytest.mark.parametrize("hooks", [False, True])
def test_a_denied_client_is_told_so_in_place_of_the_greeting(run: Run, hooks: bool) -> None:
    class Hooks:
        seen: list[str] = []  # noqa: RUF012

        def on_connect(self, session: Session) -> None:
            self.seen.append(session.remote_address)

    async def main() -> None:
        made = Hooks() if hooks else None
        Hooks.seen = []
        async with Server(made, deny=["203.0.113.0/24", "2001:db8::/32"], proxy_from="*") as server:
            for address in ("203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"):
                async with Behind(server, of(address) + HELLO) as client:
                    assert client.greeting == "554 5.7.1 Access denied"
                    assert await client.closed()
            async with Behind(server, of("198.51.100.1")) as client:
                assert client.greeting.startswith("220")
            await until(lambda: not server.connections)
            assert server.counts["connections"] == 4 and server.counts["refused"] == 3
            assert not hooks or Hooks.seen == ["198.51.100.1"]

    run(main())


def test_deny_looks_at_the_client_and_not_at_its_proxy(run: Run) -> None:
    async def main() -> None:
        async with (
            Server(deny="127.0.0.0/8", proxy_from="*") as server,
            Behind(server, of("198.51.100.1")) as client,
            Behind(server, v2(None, None)) as own,
        ):
            assert client.greeting.startswith("220")
            assert own.greeting.startswith("554")

    run(main())


def test_deny_without_a_proxy_and_within_tls(run: Run, certificates: Any) -> None:
    async def main() -> None:
        tls = {"tls_cert": certificates.chain_file, "tls_implicit": True}
        for extra in ({}, {"proxy_from": "192.0.2.1"}):
            async with (
                Server(deny="*", **tls, **extra) as server,
                Client(server, certificates.client_context(), "localhost") as client,
            ):
                assert client.greeting == "554 5.7.1 Access denied"
                assert await client.closed()
                await until(lambda: not server.connections)

    run(main())


# --- limits


def test_connections_per_minute(run: Run) -> None:
    async def main() -> None:
        async with Server(connections_per_minute=2, proxy_from="*") as server:
            for number in range(5):
                async with Behind(server, of("203.0.113.7")) as client, Behind(server, of(f"203.0.113.{number + 10}")):
                    assert client.greeting.startswith("220 " if number < 2 else "421 4.7.0 ")
                    assert number < 2 or await client.closed()
            assert server.counts["refused"] == 3

    run(main())


def test_the_minute_slides_and_refusals_do_not_count() -> None:
    rate = Rate(2)
    came = [
        (0.0, True),
        (30.0, True),
        (31.0, False),
        (59.9, False),
        (60.0, True),
        (61.0, False),
        (90.0, True),
        (91.0, False),
    ]
    assert [(now, rate.admit("a", now)) for now, _ in came] == came
    assert rate.admit("b", 91.0)


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 40)), max_size=60))
def test_no_minute_holds_more_than_the_limit_and_nobody_waits_longer_than_it(
    most: int, steps: list[tuple[str, float]]
) -> None:
    rate, now, admitted = Rate(most), 0.0, {"a": [], "b": [], "c": []}  # type: ignore[var-annotated]
    for client, pause in steps:
        now += pause
        recent = [time for time in admitted[client] if time > now - 60]
        assert rate.admit(client, now) == (len(recent) < most)
        if len(recent) < most:
            admitted[client].append(now)
    assert rate._remembered == sum(map(len, rate._times.values()))


def test_what_the_limit_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_REMEMBERED", 100)
    rate = Rate(1)
    assert all(rate.admit(number, 0.0) for number in range(1000))
    assert len(rate._times) == rate._remembered == 100
    assert not rate.admit(999, 1.0)
    assert rate.admit(1000, 61.0) and len(rate._times) == 1


def test_who_counts_as_one_client() -> None:
    assert client_of("192.0.2.1") == client_of("::ffff:192.0.2.1") != client_of("192.0.2.2")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:0:0:1") != client_of("2001:db8:0:1::1")
    assert client_of("192.0.2.1") != client_of("::c000:201")


def test_connections_per_address(run: Run) -> None:
    async def main() -> None:
        async with Server(connections_per_address=2, proxy_from="*") as server:
            async with Behind(server, of("203.0.113.7")) as first:
                async with (
                    Behind(server, of("203.0.113.7")),
                    Behind(server, of("203.0.113.8")),
                    Behind(server, of("203.0.113.7")) as third,
                ):
                    assert third.greeting.startswith("421 4.7.0 Too many connections")
                    assert await third.closed()
                await until(lambda: len(server.connections) == 1)
                async with Behind(server, of("203.0.113.7")) as again:
                    assert again.greeting.startswith("220")
                assert (await first.say(HELLO))[0].startswith("250")
            await until(lambda: not server.connections)
            assert server.admission._open == {}

    run(main())


@pytest.mark.parametrize("hooked", [False, True])
def test_places_are_given_back_however_a_connection_ends(run: Run, certificates: Any, hooked: bool) -> None:
    class Hooks:
        def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            pass

    async def main() -> None:
        made = Hooks() if hooked else None
        options = {"connections_per_address": 1, "tls_cert": certificates.chain_file}
        async with Server(made, **options) as server:
            for end in (b"QUIT\r\n", b"EHLO c\r\nSTARTTLS\r\nno hello\r\n", b"DATA\r\n", None):
                async with Client(server) as client:
                    assert client.greeting.startswith("220"), end
                    if end is None:
                        client.writer.transport.abort()
                    else:
                        client.writer.write(end)
                        await client.reply()
                await until(lambda: not server.connections)
            assert server.admission._open == {}

    run(main())


def test_a_proxys_own_checks_are_not_limited(run: Run) -> None:
    async def main() -> None:
        options = {"connections_per_minute": 1, "connections_per_address": 1, "proxy_from": "*"}
        async with Server(**options) as server:
            for _ in range(3):
                async with Behind(server, v2(None, None)) as check, Behind(server, v2(None, None)):
                    assert check.greeting.startswith("220")

    run(main())


# --- ignore


@pytest.mark.parametrize("hooked", [False, True])
def test_ignored_clients_work_and_nobody_hears_of_them(
    run: Run, tmp_path: Path, certificates: Any, caplog: pytest.LogCaptureFixture, hooked: bool
) -> None:
    class Hooks:
        """Whichever is called fails the test."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("on_") and name != "on_auth":
                return lambda *arguments: pytest.fail(f"{name} was called")
            raise AttributeError(name)

    async def main() -> None:
        options: dict[str, Any] = {"store": tmp_path, "auth": "ann:secret", "tls_cert": certificates.chain_file}
        options |= {"connections_per_minute": 1, "connections_per_address": 1, "fault": "mail:drop"}
        async with Server(Hooks() if hooked else None, ignore="127.0.0.1", **options) as server:
            async with Client(server), Client(server) as client:
                await client.say(HELLO)
                assert await client.codes(b"STARTTLS\r\nNOOP\r\n") == [220]
                await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
                await client.say(HELLO)
                assert await client.codes(b"MAIL FROM:<a@b>\r\n" + LOGIN, 2) == [530, 235]
                assert (await client.deliver()).startswith("250")
                assert await client.codes(b"QUIT\r\n") == [221]
            async with Client(server) as client:
                await client.say(HELLO + b"STARTTLS\r\n", 2)
                client.writer.write(b"this is no ClientHello\r\n" * 100)
                await client.closed()
            await until(lambda: not server.connections)
            assert set(server.counts.values()) == {0}

    caplog.set_level(logging.DEBUG, "bulkmail.sink")
    run(main())
    assert (tmp_path / "envelopes.jsonl").read_text() == ""
    assert [record for record in caplog.records if record.name.startswith("bulkmail")] == []


def test_others_than_the_ignored_are_seen(run: Run) -> None:
    async def main() -> None:
        async with Server(ignore=["192.0.2.0/24", "::1"], proxy_from="*") as server:
            for address in ("192.0.2.7", "198.51.100.7", "::1"):
                async with Behind(server, of(address)) as client:
                    await client.say(HELLO)
                    assert (await client.deliver()).startswith("250")
            assert [message.remote_address for message in server.messages] == ["198.51.100.7"]
            assert server.counts["connections"] == server.counts["messages"] == 1

    run(main())


def test_who_is_denied_and_ignored_is_refused_unseen(run: Run) -> None:
    async def main() -> None:
        async with Server(ignore="*", deny="127.0.0.1") as server, Client(server) as client:
            assert client.greeting == "554 5.7.1 Access denied"
            assert set(server.counts.values()) == {0}

    run(main())
