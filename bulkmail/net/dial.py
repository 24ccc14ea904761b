"""A connected socket to a host, directly or through a proxy, within deadlines.

Every way out of here gives the caller a socket or leaves none open: a refusal, a deadline, a cancellation at any await.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Iterable, Sequence

from bulkmail.errors import BulkmailError, ConfigError, ConnectError, ProxyError, ResolveError, TimedOut
from bulkmail.net import proxies
from bulkmail.net.resolve import Address, resolve
from bulkmail.net.steps import OnStep, unwatched
from bulkmail.proxyurl import ProxyUrl
from bulkmail.url import Options
from bulkmail.urlparts import as_ip, host_and_port

STAGGER = 0.25  # seconds before the next address is tried beside the last, RFC 8305 section 5

Failures = list[tuple[Address, OSError]]


class _SourceError(OSError):
    """The local_address cannot be used; args are (errno, the whole reason)."""


async def dial(
    host: str,
    port: int,
    *,
    options: Options,
    loop: asyncio.AbstractEventLoop | None = None,
    on_step: OnStep = unwatched,
) -> socket.socket:
    """A non-blocking TCP socket, connected to the host through options.proxy if there is one.

    What the host says first is still unread, also behind a proxy.

    raises  ResolveError, ConnectError  naming every address that was tried and why it failed
            TimedOut(phase="dns" | "connect"), after options.dns_timeout and options.connect_timeout
            ProxyError, TimedOut(phase="proxy")  whatever goes wrong with a proxy; connect_timeout is for all of its way
            ConfigError  a local_address that this machine does not understand
    """
    loop = loop or asyncio.get_running_loop()
    if options.proxy is not None:
        (proxy,) = options.proxy
        return await _through_proxy(proxy, host, port, options, loop, on_step)
    addresses = await _resolve(host, port, options.dns_timeout, on_step)
    deadline = loop.time() + options.connect_timeout
    return await _connect(host_and_port(host, port), addresses, options, deadline, loop, on_step)


async def _resolve(host: str, port: int, timeout: float, on_step: OnStep) -> list[Address]:
    on_step("dns", None)
    addresses = await resolve(host, port, timeout=timeout)
    on_step("dns", {"host": host, "addresses": [str(address) for address in addresses]})
    return addresses


async def dial_unix(path: str, *, options: Options, on_step: OnStep = unwatched) -> socket.socket:
    """A non-blocking socket, connected to the Unix socket at `path`. Raises ConnectError, TimedOut(phase="connect")."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise ConnectError(f"{path}: this system has no Unix sockets", permanent=True)
    on_step("connect", None)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(options.connect_timeout):
            await asyncio.get_running_loop().sock_connect(sock, path)
    except TimeoutError:
        sock.close()
        raise TimedOut(f"{path}: no connection within {options.connect_timeout:g} s", phase="connect") from None
    except OSError as error:
        sock.close()
        raise ConnectError(f"{path}: cannot connect: {_reason(error)}") from error
    except BaseException:
        sock.close()
        raise
    on_step("connect", {"socket": sock, "failures": []})
    return sock


async def _through_proxy(
    proxy: ProxyUrl, host: str, port: int, options: Options, loop: asyncio.AbstractEventLoop, on_step: OnStep
) -> socket.socket:
    targets = [host]
    if proxies.resolves_here(proxy):
        targets = [str(address) for address in await _resolve(host, port, options.dns_timeout, on_step)]
    refusals: list[proxies.TargetRefused] = []
    deadline = loop.time() + options.connect_timeout
    for target in targets:
        sock = await _to_proxy(proxy, options, deadline, loop, on_step)
        on_step("proxy", None)
        try:
            await proxies.handshake(proxy, target, port, sock, deadline=deadline, loop=loop)
        except proxies.TargetRefused as refusal:
            sock.close()
            refusals.append(refusal)
        except BaseException:
            sock.close()
            raise
        else:
            on_step("proxy", {"target": host_and_port(target, port), "refusals": refusals})
            return sock
    if len(refusals) == 1:
        raise refusals[0]
    every = "; ".join(str(refusal) for refusal in refusals)
    raise ProxyError(every, proxy=str(proxy), reply_code=refusals[-1].reply_code) from refusals[-1]


async def _to_proxy(
    proxy: ProxyUrl, options: Options, deadline: float, loop: asyncio.AbstractEventLoop, on_step: OnStep
) -> socket.socket:
    """A socket to the proxy itself; what fails is the proxy's failure."""
    try:
        timeout = min(options.dns_timeout, deadline - loop.time())
        addresses = await _resolve(proxy.host, proxy.port, timeout, on_step)
        return await _connect(f"proxy {proxy}", addresses, options, deadline, loop, on_step)
    except TimedOut as error:
        raise TimedOut(_for_proxy(proxy, error), phase="proxy") from error
    except (ResolveError, ConnectError) as error:
        raise ProxyError(_for_proxy(proxy, error), proxy=str(proxy)) from error


def _for_proxy(proxy: ProxyUrl, error: BulkmailError) -> str:
    text = str(error)
    return text if text.startswith("proxy ") else f"proxy {proxy}: {text}"


async def _connect(
    name: str,
    addresses: Sequence[Address],
    options: Options,
    deadline: float,
    loop: asyncio.AbstractEventLoop,
    on_step: OnStep,
) -> socket.socket:
    """Race the addresses until one is connected, all have failed, or the deadline (loop.time()) passes."""
    on_step("connect", None)
    usable = _reachable_from(options.local_address, addresses)
    if not usable:
        raise ConnectError(f"{name}: no address of it can be reached from local_address {options.local_address}")
    failures: Failures = []
    try:
        async with asyncio.timeout_at(deadline):
            sock = await _race(usable, options.local_address, failures, loop)
    except TimeoutError:
        raise TimedOut(
            f"{name}: no connection within {options.connect_timeout:g} s: {_told(failures, usable)}", phase="connect"
        ) from None
    if sock is None:
        raise ConnectError(f"{name}: cannot connect: {_told(failures)}") from failures[-1][1]
    on_step("connect", {"socket": sock, "failures": [_told([failure]) for failure in failures]})
    return sock


async def _race(
    addresses: Sequence[Address], local: str | None, failures: Failures, loop: asyncio.AbstractEventLoop
) -> socket.socket | None:
    """The first socket to be connected, or None with all in `failures`. The others are closed.

    RFC 8305 section 5: the next address is tried when the last one fails, or after STAGGER beside it.
    """
    waiting = deque(addresses)
    running: dict[asyncio.Task[socket.socket], Address] = {}
    try:
        while waiting or running:
            if waiting:
                address = waiting.popleft()
                running[loop.create_task(_attempt(address, local, loop))] = address
            done, _ = await asyncio.wait(
                running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                address = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failures.append((address, error))
        return None
    finally:
        _abandon(running)


def _abandon(running: Iterable[asyncio.Task[socket.socket]]) -> None:
    """End attempts nobody waits for. One under way closes its socket itself, in the loop's next turns.

    Nothing is awaited here: a cancellation that came meanwhile would lose the socket of the winner.
    """
    for task in running:
        was_under_way = task.cancel()
        if not was_under_way and task.exception() is None:
            task.result().close()


async def _attempt(address: Address, local: str | None, loop: asyncio.AbstractEventLoop) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a peer that vanished is found out while idle
        if local is not None:
            _bind(sock, local)
        await loop.sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _told(failures: Failures, tried: Sequence[Address] = ()) -> str:
    """ "192.0.2.1: Connection refused; 2001:db8::1: no answer": each failure, then what of `tried` has none."""
    failed = [address for address, _ in failures]
    told = [f"{address}: {_reason(error)}" for address, error in failures]
    return "; ".join(told + [f"{address}: no answer" for address in tried if address not in failed])


def _reason(error: OSError) -> str:
    # asyncio and uvloop word them differently; the system's own words are the same under both.
    if isinstance(error, _SourceError) or not error.errno:
        return str(error.args[-1] if error.args else type(error).__name__)
    return os.strerror(error.errno)


# ---- local_address


def _reachable_from(local: str | None, addresses: Sequence[Address]) -> Sequence[Address]:
    source = as_ip(local) if local is not None else None
    if local is not None and source is None:
        _check_interface(local)
    if source is None:
        return addresses
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    return [address for address in addresses if address.family == family]


def _check_interface(name: str) -> None:
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"option 'local_address' is '{name}', expected an IP address (interface names need Linux)")
    try:
        socket.if_nametoindex(name)
    except OSError:
        known = ", ".join(sorted(interface for _, interface in socket.if_nameindex()))
        raise ConfigError(
            f"option 'local_address' is '{name}', expected an IP address or an interface of this machine ({known})"
        ) from None


def _bind(sock: socket.socket, local: str) -> None:
    try:
        if as_ip(local) is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, local.encode() + b"\0")
        else:
            _bind_address(sock, local)
    except OSError as error:
        raise _SourceError(error.errno, f"local_address {local} cannot be used: {error.strerror}") from error


def _bind_address(sock: socket.socket, local: str) -> None:
    if sys.platform.startswith("linux"):
        # Leaves the choice of the port to connect(), so that one source address can have 28,000 connections
        # to each target and not in all. ip(7); the constant is not in every version of the socket module.
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
    found = socket.getaddrinfo(local, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    sock.bind(found[0][4])
