"""Host names to socket addresses, without blocking the loop and without holding up the end of the program.

A look-up is a call of getaddrinfo in a daemon thread. The executors of asyncio and uvloop are not used: their few
threads are shared by everyone, and a program would wait at its end for a look-up that hangs. Look-ups of the same name
that are under way at the same time are one look-up, so that a pool that opens a hundred connections asks once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from bulkmail.errors import ConfigError, ResolveError, TimedOut
from bulkmail.urlparts import as_ip, parse_host

MAX_ADDRESSES = 20  # per name; the largest mail hosts publish fewer, and each may become a socket of one dial
OWN_NAME_TIMEOUT = 3.0  # seconds; a machine whose own name is slow to resolve still sends, under its address

Value = TypeVar("Value")


class Address(NamedTuple):
    """Where to connect: `sockaddr` is what socket.connect() takes for the family."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        return str(self.sockaddr[0])


async def resolve(host: str, port: int, *, timeout: float) -> list[Address]:
    """The addresses of a host, in the order to try them.

    Families alternate (RFC 8305 section 4), the system's first choice (RFC 6724) stays first.

    timeout  seconds
    raises   ResolveError, TimedOut(phase="dns")
    """
    try:
        return _ordered(_look_up(host, port, socket.AI_NUMERICHOST))
    except socket.gaierror:
        pass
    except UnicodeError as error:
        raise ResolveError(f"{host!a}: not a host name: {error}") from error
    try:
        return _ordered(await _in_thread((host, port), lambda: _look_up(host, port, 0), timeout))
    except TimeoutError:
        raise TimedOut(f"{host}: the name did not resolve within {timeout:g} s", phase="dns") from None
    except OSError as error:
        raise ResolveError(f"{host}: the name does not resolve: {error.strerror or error}") from error


async def ehlo_name(sock: socket.socket) -> str:
    """What this machine calls itself in EHLO: its full domain name, or the socket's address as a literal.

    RFC 5321 section 4.1.4. The name is looked up once in a process.
    """
    global _own_name
    if _own_name is None:
        try:
            _own_name = await _in_thread("own name", _full_name, OWN_NAME_TIMEOUT)
        except OSError:  # TimeoutError is one
            _own_name = ""
    return _own_name or _literal(sock.getsockname())


_own_name: str | None = None  # "": it has none


def _full_name() -> str:
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    try:
        name = parse_host(name.rstrip("."), "own name")
    except ConfigError:
        return ""
    usable = "." in name and as_ip(name) is None and not name.startswith("localhost.") and not name.endswith(".arpa")
    return name if usable else ""


def _literal(sockaddr: Any) -> str:
    """RFC 5321 section 4.1.3."""
    address = as_ip(str(sockaddr[0]).partition("%")[0]) if isinstance(sockaddr, tuple) else None
    if address is None:
        return "[127.0.0.1]"  # a Unix socket: the peer is this machine
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    # As bytes, or Python would run its IDNA 2003 codec over the name.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))


def _ordered(addresses: list[Address]) -> list[Address]:
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    turns = [address for pair in zip_longest(first, other) for address in pair if address is not None]
    return turns[:MAX_ADDRESSES]


_under_way: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, asyncio.Future[Any]]] = WeakKeyDictionary()


async def _in_thread(key: Hashable, call: Callable[[], Value], timeout: float) -> Value:
    """call() in a daemon thread, shared with whoever awaits the same key on this loop. TimeoutError after `timeout`."""
    loop = asyncio.get_running_loop()
    calls = _under_way.setdefault(loop, {})
    future: asyncio.Future[Value] | None = calls.get(key)
    if future is None:
        future = calls[key] = loop.create_future()
        future.add_done_callback(lambda done: _forget(calls, key, done))
        threading.Thread(target=_work, args=(loop, future, call), name=f"bulkmail {key}", daemon=True).start()
    try:
        # Shielded: one caller that is cancelled or late does not take the answer from the others.
        async with asyncio.timeout(timeout):
            return await asyncio.shield(future)
    except TimeoutError:
        _forget(calls, key, future)  # the next one asks anew instead of waiting for a thread that hangs
        raise


def _forget(calls: dict[Hashable, asyncio.Future[Any]], key: Hashable, future: asyncio.Future[Any]) -> None:
    if calls.get(key) is future:
        del calls[key]
    if future.done() and not future.cancelled():
        future.exception()  # seen, even if nobody waits any more


def _work(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Value], call: Callable[[], Value]) -> None:
    try:
        value, error = call(), None
    except Exception as raised:
        value, error = None, raised
    with suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_settle, future, value, error)


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
