"""Proxies: a line that is connected to the proxy becomes one that is connected to the target.

One file a scheme, each with

    async def connect(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> None

which speaks the proxy's protocol over the channel, reads not one byte of what the target says, and raises ProxyError.
Schemes that others registered are in `handlers`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.line import Line
from bulkmail.net.proxies.channel import Channel, TargetRefused
from bulkmail.net.proxies.handlers import Proxied, Target, by_handler
from bulkmail.net.proxies.secure import enter
from bulkmail.net.resolve import Address
from bulkmail.proxyurl import ProxyUrl
from bulkmail.urlparts import as_ip, parse_host

__all__ = [
    "SCHEMES",
    "Proxied",
    "Scheme",
    "Target",
    "TargetRefused",
    "by_handler",
    "enter",
    "handshake",
    "is_custom",
    "reachable",
    "resolves_here",
]


class Scheme(NamedTuple):
    """module: where its connect() is, imported on first use. resolves_here: the proxy gets an address, not a name."""

    module: str
    resolves_here: bool


SCHEMES: Final[dict[str, Scheme]] = {
    "http": Scheme("bulkmail.net.proxies.http_connect", False),
    "https": Scheme("bulkmail.net.proxies.http_connect", False),
    "socks4": Scheme("bulkmail.net.proxies.socks4", True),
    "socks4a": Scheme("bulkmail.net.proxies.socks4", False),
    "socks5h": Scheme("bulkmail.net.proxies.socks5", False),
    "socks5": Scheme("bulkmail.net.proxies.socks5", True),
    "socks": Scheme("bulkmail.net.proxies.socks5", True),
}


def is_custom(proxy: ProxyUrl) -> bool:
    """Whether a registered handler speaks to it, if anybody."""
    return proxy.scheme not in SCHEMES


def resolves_here(proxy: ProxyUrl) -> bool:
    """Whether we resolve the target's name, as opposed to the proxy."""
    return SCHEMES[proxy.scheme].resolves_here


def reachable(proxy: ProxyUrl, host: str, addresses: Sequence[Address]) -> list[str]:
    """Those of the target's addresses that the proxy's protocol can carry; at least one."""
    if proxy.scheme != "socks4":
        return [str(address) for address in addresses]
    found = [str(address) for address in addresses if address.family == socket.AF_INET]
    if not found:
        raise ProxyError(
            f"proxy {proxy}: {host} has IPv6 addresses only, which SOCKS4 cannot carry; "
            "use socks4a:// (the proxy resolves) or socks5://",
            proxy=str(proxy),
            permanent=True,
        )
    return found


async def handshake(
    proxy: ProxyUrl, host: str, port: int, line: Line, *, deadline: float, loop: asyncio.AbstractEventLoop
) -> None:
    """Have the proxy connect `line` to host:port. The line stays the caller's, who closes it when this raises.

    deadline  loop.time() when it ends
    raises    ProxyError, of which TargetRefused: this target only, the proxy works
              TimedOut(phase="proxy")
    """
    channel = Channel(proxy, line)
    connect = import_module(SCHEMES[proxy.scheme].module).connect
    started = loop.time()
    try:
        async with asyncio.timeout_at(deadline):
            await connect(proxy, _checked_target(host, channel), port, channel)
    except TimeoutError:
        seconds = loop.time() - started
        raise TimedOut(f"proxy {proxy}: no answer while {channel.step}, after {seconds:.3g} s", phase="proxy") from None


def _checked_target(host: str, channel: Channel) -> str:
    """Nothing but a name or an address goes into a proxy's request; a line break in it would be a second request."""
    try:
        host = parse_host(host, "the target")
    except ValueError as error:
        raise channel.error(str(error)) from None
    if as_ip(host) is not None and "%" in host:
        raise channel.error(f"the target {host} is an address of this machine's own links")
    return host
