"""Saying who we are: the PROXY header, the first bytes on a connection whose server stands behind a load balancer."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from bulkmail.errors import ConfigError, ConnectionLost, TimedOut
from bulkmail.url import Endpoint
from bulkmail.urlparts import as_ip
from bulkmail.wire.proxy_header import WRITERS, End, same_family


async def introduce(line: Any, endpoint: Endpoint) -> None:
    """Send the header that options.proxy_protocol asks for, if any, before TLS and before the greeting is read.

    line     a connected non-blocking socket, or a transport that nothing was written to
    raises   ConnectionLost, TimedOut(phase="connect"), ConfigError for a TLS socket; `line` is still the caller's
    """
    version, seconds = endpoint.options.proxy_protocol, endpoint.options.connect_timeout
    if version is None:
        return
    if isinstance(line, ssl.SSLSocket):
        refuse_encrypted(line, endpoint)
    try:
        header = WRITERS[version](*_ends(line, endpoint))
        if not isinstance(line, socket.socket):
            line.write(header)  # kept whole and in order by the transport, which tells the session if it fails
            return
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_sendall(line, header)
    except TimeoutError as error:
        raise TimedOut(
            f"{endpoint.place}: the PROXY header could not be sent within {seconds:g} s", phase="connect"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConnectionLost(f"{endpoint.place}: the connection was lost before the PROXY header: {reason}") from error


def refuse_encrypted(line: Any, endpoint: Endpoint, *, encrypted: bool = False) -> None:
    """Raise ConfigError for a socket or a transport that has TLS already and options that want a header before it.

    encrypted: it leads into TLS, by its maker's word
    """
    if endpoint.options.proxy_protocol is None or line is None:
        return
    ask = getattr(line, "get_extra_info", None)
    if encrypted or isinstance(line, ssl.SSLSocket) or (ask is not None and ask("ssl_object") is not None):
        raise ConfigError(
            "option 'proxy_protocol' is given with a connection that has TLS already, expected one in clear: "
            "the PROXY header goes before TLS"
        )


def _ends(line: Any, endpoint: Endpoint) -> tuple[End | None, End | None]:
    """Our end, and the server's as far as it is known here.

    Through a proxy the relay's address is known only if the URL names one. Else the proxy's own stands for it: with no
    destination of its family the header could not say the source either, and the source is what servers go by.
    """
    source, peer = _end(line, "sockname"), _end(line, "peername")
    relay = as_ip(endpoint.host)
    if endpoint.options.proxy is None or source is None or relay is None:
        return source, peer
    destination = str(relay), endpoint.port
    return source, destination if same_family(source, destination) else peer


def _end(line: Any, which: str) -> End | None:
    if isinstance(line, socket.socket):
        found = line.getsockname() if which == "sockname" else line.getpeername()
    else:
        found = line.get_extra_info(which)
    if not isinstance(found, tuple) or len(found) < 2 or not isinstance(found[0], str):
        return None  # a Unix socket, or what a transport does not know
    return (found[0], found[1]) if as_ip(found[0].partition("%")[0]) is not None else None
