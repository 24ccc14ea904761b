"""`reverse_lookup`: hooks see a client's name where DNS has one that holds, and nobody waits for DNS for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.sink import Server, Session, hostnames
from unit.sink.sink_client import Client

Run = Callable[[Any], Any]


class Names:
    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def on_connect(self, session: Session) -> None:
        self.seen.append(session.client_hostname)


def seen(run: Run, **options: Any) -> list[str | None]:
    hooks = Names()

    async def main() -> None:
        async with Server(hooks, **options) as server, Client(server):
            pass  # it has read its greeting

    run(main())
    return hooks.seen


class Dns:
    """In place of a loop's own questions: `name` of any address, and the `addresses` of that name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name: str | None = "mail.example.com"
        self.addresses = ["127.0.0.1"]
        self.silent = False
        monkeypatch.setattr(hostnames, "getnameinfo", self.getnameinfo)
        monkeypatch.setattr(hostnames, "getaddrinfo", self.getaddrinfo)

    async def getnameinfo(self, address: str) -> str:
        if self.silent:
            await asyncio.sleep(3600)
        if self.name is None:
            raise socket.gaierror(socket.EAI_NONAME, "no name")
        return self.name

    async def getaddrinfo(self, name: str) -> list[str]:
        assert name == self.name
        return self.addresses


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    return Dns(monkeypatch)


def test_a_name_that_has_the_address_too_is_the_clients(run: Run, dns: Dns) -> None:
    assert seen(run, reverse_lookup=True) == ["mail.example.com"]


def test_a_name_that_belongs_to_another_address_is_not_believed(run: Run, dns: Dns) -> None:
    dns.addresses = ["192.0.2.1", "2001:db8::1"]
    assert seen(run, reverse_lookup=True) == [None]


def test_an_address_without_a_name(run: Run, dns: Dns) -> None:
    dns.name = None
    assert seen(run, reverse_lookup=True) == [None]


def test_dns_that_does_not_answer_holds_the_greeting_up_only_so_long(
    run: Run, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns.silent = True
    monkeypatch.setattr(hostnames, "LOOKUP_SECONDS", 0.01)
    assert seen(run, reverse_lookup=True) == [None]


def test_nobody_is_looked_up_unasked(run: Run, dns: Dns) -> None:
    assert seen(run) == [None]


def test_this_machine_is_called_something_or_nothing(run: Run) -> None:
    (name,) = seen(run, reverse_lookup=True)
    assert name is None or "127.0.0.1" in {entry[4][0] for entry in socket.getaddrinfo(name, None)}
