"""Fixtures of the dialling tests: what was opened, what names resolve to, a port without an answer."""

from __future__ import annotations

import socket
import types
from collections.abc import Callable, Iterator

import pytest

import bulkmail.net.direct as direct
from unit.net.fake_proxies import at, unanswering


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Every socket that dial has made."""
    made: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    watched = types.SimpleNamespace(**vars(socket))
    watched.socket = Recorded
    monkeypatch.setattr(direct, "socket", watched)
    return made


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], None]:
    """names({"mx.example": [address, ...]}): what names resolve to; an exception is raised."""

    def install(table):
        async def resolve(host, port, *, timeout):
            found = table.get(host, [host])
            if isinstance(found, Exception):
                raise found
            return [at(address, port) if isinstance(address, str) else address for address in found]

        monkeypatch.setattr(direct, "resolve", resolve)

    return install


@pytest.fixture
def dead_port(free_port: Callable[[], int]) -> int:
    """Nothing listens there."""
    return free_port()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections to it neither succeed nor fail."""
    with unanswering() as port:
        yield port
