"""A connected TCP socket to a host, without a proxy: every address of it, from the local address that is asked for."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from bulkmail.errors import ConfigError, ConnectError, TimedOut
from bulkmail.net.race import race
from bulkmail.net.resolve import Address, resolve
from bulkmail.net.steps import OnStep
from bulkmail.urlparts import as_ip

Failures = list[tuple[Address, OSError]]


class _SourceError(OSError):
    """The local_address cannot be used; args are (errno, the whole reason)."""


async def look_up(host: str, port: int, timeout: float, on_step: OnStep) -> list[Address]:
    """The addresses of a host, in the order to try them. Raises ResolveError, TimedOut(phase="dns")."""
    on_step("dns", None)
    addresses = await resolve(host, port, timeout=timeout)
    on_step("dns", {"host": host, "addresses": [str(address) for address in addresses]})
    return addresses


async def connect(
    name: str,
    addresses: Sequence[Address],
    local: str | None,
    deadline: float,
    loop: asyncio.AbstractEventLoop,
    on_step: OnStep,
) -> socket.socket:
    """Race the addresses until one is connected, all have failed, or the deadline (loop.time()) passes.

    name    how errors call the other side
    local   the option local_address
    raises  ConnectError, TimedOut(phase="connect"), ConfigError
    """
    on_step("connect", None)
    seconds = deadline - loop.time()
    usable = _reachable_from(local, addresses)
    if not usable:
        raise ConnectError(f"{name}: no address of it can be reached from local_address {local}")
    failures: Failures = []
    try:
        async with asyncio.timeout_at(deadline):
            sock = await race(usable, lambda address: _attempt(address, local, loop), OSError, failures)
    except TimeoutError:
        raise TimedOut(
            f"{name}: no connection within {round(seconds, 2):g} s: {_told(failures, usable)}", phase="connect"
        ) from None
    if sock is None:
        raise ConnectError(f"{name}: cannot connect: {_told(failures)}") from failures[-1][1]
    on_step("connect", {"socket": sock, "failures": [_told([failure]) for failure in failures]})
    return sock


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
    told = [f"{address}: {reason(error)}" for address, error in failures]
    return "; ".join(told + [f"{address}: no answer" for address in tried if address not in failed])


def reason(error: OSError) -> str:
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
