"""Schemes of others: what a registered handler is given, what it may return, and whatever can go wrong with it.

A handler is foreign code. It may raise anything, return anything, hang, or leave sockets open. Its caller gets a line,
or a ProxyError or TimedOut that names it, and nothing is left open that went through our hands.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bulkmail.errors import BulkmailError, ConfigError, ProxyError, TimedOut
from bulkmail.net.bridge import plain_socket
from bulkmail.net.line import Line, SocketLine
from bulkmail.proxyhandlers import find_handler
from bulkmail.proxyurl import ProxyUrl
from bulkmail.records import Record
from bulkmail.urlparts import host_and_port


@dataclass(frozen=True, eq=False, repr=False)
class Proxied(Record):
    """What a handler returns that has more to say than a socket.

    socket   connected, blocking or not; a `ssl.SSLSocket` has had its handshake
    secured  True: TLS with the target is under it already. It counts as encrypted, and is neither wrapped nor upgraded.
             False for a `ssl.SSLSocket`: its TLS is with the proxy, and proves nothing of the target
    """

    socket: socket.socket
    secured: bool = False


class Target:
    """What a handler is to reach, and what helps it to.

    host, port     of the relay, or of the next proxy of a chain; the name is not looked up
    local_address  the option of the relay, or None
    deadline       loop.time() by which the handler has to be done; it is cancelled then
    """

    def __init__(
        self,
        host: str,
        port: int,
        local_address: str | None,
        deadline: float,
        dial: Callable[[str, int], Awaitable[socket.socket]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.host, self.port = host, port
        self.local_address, self.deadline = local_address, deadline
        self._dial, self._loop = dial, loop
        self._dialled: list[socket.socket] = []

    @property
    def timeout(self) -> float:
        """Seconds that are left; 0 if none are."""
        return max(0.0, self.deadline - self._loop.time())

    async def dial(self, host: str, port: int) -> socket.socket:
        """A connected, non-blocking socket to the handler's own proxy, through the proxies before it in a chain.

        All addresses of the host are tried, from `local_address`, within the deadline.

        raises  ProxyError, TimedOut(phase="proxy"), ConfigError
        """
        sock = await self._dial(host, port)
        self._dialled.append(sock)
        return sock

    def __repr__(self) -> str:
        return f"Target({host_and_port(self.host, self.port)})"


async def by_handler(
    proxy: ProxyUrl, target: Target, *, must_dial: bool, last: bool, loop: asyncio.AbstractEventLoop
) -> Line:
    """Have the handler of proxy.scheme reach the target.

    must_dial  there are proxies before it, which it would go past if it did not use target.dial()
    last       its target is the relay
    raises     ProxyError, TimedOut(phase="proxy"), ConfigError
    """
    handler = find_handler(proxy.scheme)
    if handler is None:
        raise ProxyError(f"proxy {proxy}: no handler is registered for {proxy.scheme}://", proxy=str(proxy))
    task = loop.create_task(_call(handler, proxy, target))
    try:
        # The task is not awaited itself: one that swallows its cancellation would hold us up.
        await asyncio.wait([task], timeout=target.timeout)
        if not task.done():
            raise TimedOut(f"proxy {proxy}: {_name(handler)} did not end in time", phase="proxy")
        found = _proxied(proxy, handler, task)
        if must_dial and not target._dialled:
            raise ProxyError(
                f"proxy {proxy}: {_name(handler)} did not use target.dial(), "
                "so that the proxies before it in the chain were passed by",
                proxy=str(proxy),
                permanent=True,
            )
        kept = found.socket
        kept.setblocking(False)
        line = SocketLine(kept, loop, secured=found.secured)
        if isinstance(kept, ssl.SSLSocket) and not (found.secured and last):
            sock = await plain_socket(line)
            line = SocketLine(sock, loop, secured=found.secured)
    except BaseException:
        _discard(task)
        for sock in target._dialled:
            sock.close()
        raise
    with suppress(OSError):  # it may not be TCP
        line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


async def _call(handler: Callable[[ProxyUrl, Target], Any], proxy: ProxyUrl, target: Target) -> Any:
    found = handler(proxy, target)
    return await found if inspect.isawaitable(found) else found


def _proxied(proxy: ProxyUrl, handler: Any, task: asyncio.Task[Any]) -> Proxied:
    """What the handler returned, checked. Raises what its failure is to us."""
    if task.cancelled():
        raise ProxyError(f"proxy {proxy}: {_name(handler)} was cancelled by itself", proxy=str(proxy))
    error = task.exception()
    if error is not None:
        raise _failure(proxy, handler, error) from error
    found = task.result()
    if isinstance(found, socket.socket):
        found = Proxied(found)
    wrong = _what_is_wrong(found)
    if wrong:
        expected = "expected a connected socket, or Proxied(socket, secured=...)"
        raise ProxyError(f"proxy {proxy}: {_name(handler)} returned {wrong}, {expected}", proxy=str(proxy))
    assert isinstance(found, Proxied)
    return found


def _what_is_wrong(found: Any) -> str:
    if not isinstance(found, Proxied):
        return type(found).__name__
    sock: Any = found.socket
    if not isinstance(sock, socket.socket):
        return f"Proxied with {type(sock).__name__}"
    if sock.fileno() < 0:
        return "a socket that is closed"
    if sock.type != socket.SOCK_STREAM:
        return "a socket that is no stream"
    try:
        sock.getpeername()
    except OSError:
        return "a socket that is not connected"
    if isinstance(sock, ssl.SSLSocket) and sock.version() is None:
        return "a TLS socket that has not had its handshake"
    return ""


def _failure(proxy: ProxyUrl, handler: Any, error: BaseException) -> BaseException:
    if isinstance(error, ConfigError) or not isinstance(error, Exception):
        return error
    text = _told(proxy, error)
    if not text.startswith("proxy "):  # else it is of a proxy that it dialled
        name = "" if isinstance(error, BulkmailError) else f"{type(error).__name__}: "
        text = f"proxy {proxy}: {_name(handler)} failed: {name}{text}"
    if isinstance(error, TimeoutError):
        return TimedOut(text, phase="proxy")
    if isinstance(error, ProxyError):
        name = error.proxy or str(proxy)
        return ProxyError(text, proxy=name, reply_code=error.reply_code, permanent=error.permanent)
    return ProxyError(text, proxy=str(proxy))


def _told(proxy: ProxyUrl, error: BaseException) -> str:
    """What a foreign exception says: on one line, the password masked."""
    text = " ".join(str(error).split())
    if proxy.password:
        text = text.replace(proxy.password, "***")
    return text if text.isprintable() else ascii(text)[1:-1]


def _name(handler: Any) -> str:
    return f"the handler {getattr(handler, '__qualname__', type(handler).__name__)}"


def _discard(task: asyncio.Task[Any]) -> None:
    """End a handler nobody waits for; a socket that it returns after all is closed."""
    task.cancel()
    task.add_done_callback(_close_what_it_returned)


def _close_what_it_returned(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is not None:
        return
    found = task.result()
    sock = found.socket if isinstance(found, Proxied) else found
    if isinstance(sock, socket.socket):
        sock.close()
