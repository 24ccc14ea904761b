"""Proxies: a socket that is connected to the proxy becomes one that is connected to the target.

One file a scheme, each with

    async def connect(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> None

which speaks the proxy's protocol over the channel, reads not one byte of what the target says, and raises ProxyError.
"""

from __future__ import annotations

import asyncio
import socket
from importlib import import_module
from typing import Final, NamedTuple

from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.proxies.channel import Channel, TargetRefused
from bulkmail.proxyurl import ProxyUrl
from bulkmail.urlparts import as_ip, parse_host

__all__ = ["SCHEMES", "Scheme", "TargetRefused", "handshake", "resolves_here"]


class Scheme(NamedTuple):
    """module: where its connect() is, imported on first use. resolves_here: the proxy gets an address, not a name."""

    module: str
    resolves_here: bool


SCHEMES: Final[dict[str, Scheme]] = {
    "http": Scheme("bulkmail.net.proxies.http_connect", False),
    "socks5h": Scheme("bulkmail.net.proxies.socks5", False),
    "socks5": Scheme("bulkmail.net.proxies.socks5", True),
    "socks": Scheme("bulkmail.net.proxies.socks5", True),
}


def resolves_here(proxy: ProxyUrl) -> bool:
    """Whether we resolve the target's name, as opposed to the proxy."""
    return _scheme(proxy).resolves_here


async def handshake(
    proxy: ProxyUrl,
    host: str,
    port: int,
    sock: socket.socket,
    *,
    deadline: float,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Have the proxy connect `sock` to host:port. The socket stays the caller's, who closes it when this raises.

    deadline  loop.time() when it ends
    raises    ProxyError, of which TargetRefused: this target only, the proxy works
              TimedOut(phase="proxy")
    """
    channel = Channel(proxy, sock, loop)
    connect = import_module(_scheme(proxy).module).connect
    started = loop.time()
    try:
        async with asyncio.timeout_at(deadline):
            await connect(proxy, _checked_target(host, channel), port, channel)
    except TimeoutError:
        seconds = loop.time() - started
        raise TimedOut(f"proxy {proxy}: no answer while {channel.step}, after {seconds:.3g} s", phase="proxy") from None


def _scheme(proxy: ProxyUrl) -> Scheme:
    try:
        return SCHEMES[proxy.scheme]
    except KeyError:
        raise ProxyError(f"proxy {proxy}: unknown scheme {proxy.scheme}://", proxy=str(proxy)) from None


def _checked_target(host: str, channel: Channel) -> str:
    """Nothing but a name or an address goes into a proxy's request; a line break in it would be a second request."""
    try:
        host = parse_host(host, "the target")
    except ValueError as error:
        raise channel.error(str(error)) from None
    if as_ip(host) is not None and "%" in host:
        raise channel.error(f"the target {host} is an address of this machine's own links")
    return host
