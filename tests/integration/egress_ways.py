"""Every way out that the conformance suite walks, and the server at its end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

import bulkmail
from bulkmail.sink import Server
from integration.servers.certificates import Certificates
from integration.servers.proxies import Proxies
from integration.servers.proxy import PASSWORD, USER

KNOWN_TO_PROXIES = "mx.example.test"  # servers/proxy.py: nobody else finds it
KNOWN_HERE = "localhost"
ADDRESS = "127.0.0.1"
LOGIN = f"{USER}:{PASSWORD}"


class Way(NamedTuple):
    """host: of the target. proxy: what the option `proxy` is, and so how many hops it has."""

    host: str
    proxy: Callable[[Proxies], Any]
    hops: int = 1


def tls(proxies: Proxies, url: str) -> dict[str, str]:
    """A proxy with TLS, whose authority is not the one that the server's certificate comes from."""
    return {"proxy": url, "ca_file": str(proxies.certificates.ca_file)}


def squid_tls(proxies: Proxies, **options: Any) -> dict[str, str]:
    return tls(proxies, proxies.squid(tls=True, **options).url("https"))


def front(proxies: Proxies) -> dict[str, str]:
    """tinyproxy behind HAProxy, with tinyproxy's login."""
    behind = proxies.tinyproxy(login=True)
    return tls(proxies, proxies.tls_front(behind).url("https", password=behind.password))


WAYS = {
    "direct": Way(KNOWN_HERE, lambda p: None, 0),
    "http tinyproxy": Way(KNOWN_TO_PROXIES, lambda p: p.tinyproxy().url("http")),
    "http tinyproxy login": Way(KNOWN_TO_PROXIES, lambda p: p.tinyproxy(login=True).url("http")),
    "http squid": Way(KNOWN_TO_PROXIES, lambda p: p.squid().url("http")),
    "http squid login": Way(KNOWN_TO_PROXIES, lambda p: p.squid(login=True).url("http")),
    "https squid": Way(KNOWN_TO_PROXIES, squid_tls),
    "https squid login": Way(KNOWN_TO_PROXIES, lambda p: squid_tls(p, login=True)),
    "https haproxy tinyproxy": Way(KNOWN_TO_PROXIES, front),
    "socks5 microsocks": Way(KNOWN_HERE, lambda p: p.microsocks().url("socks5")),
    "socks5h microsocks": Way(KNOWN_TO_PROXIES, lambda p: p.microsocks().url("socks5h")),
    "socks microsocks login": Way(KNOWN_HERE, lambda p: p.microsocks(login=True).url("socks")),
    "socks5 dante login": Way(KNOWN_HERE, lambda p: p.dante(login=True).url("socks5")),
    "socks5h dante": Way(KNOWN_TO_PROXIES, lambda p: p.dante().url("socks5h")),
    "socks5 ssh": Way(ADDRESS, lambda p: p.ssh().url("socks5")),
    "socks5h ssh": Way(KNOWN_TO_PROXIES, lambda p: p.ssh().url("socks5h")),
    "socks4 dante": Way(KNOWN_HERE, lambda p: p.dante().url("socks4")),
    "socks4 ssh": Way(ADDRESS, lambda p: p.ssh().url("socks4")),
    "socks4a ssh": Way(KNOWN_TO_PROXIES, lambda p: p.ssh().url("socks4a")),
    "http > socks5h": Way(KNOWN_TO_PROXIES, lambda p: [p.squid().url("http"), p.microsocks().url("socks5h")], 2),
    "socks5h > http": Way(KNOWN_TO_PROXIES, lambda p: [p.dante().url("socks5h"), p.tinyproxy().url("http")], 2),
    "https > socks5": Way(KNOWN_HERE, lambda p: [squid_tls(p), p.microsocks(login=True).url("socks5")], 2),
    "https > https": Way(KNOWN_TO_PROXIES, lambda p: [squid_tls(p), front(p)], 2),
    "socks4 > https > socks5h": Way(
        KNOWN_TO_PROXIES, lambda p: [p.dante().url("socks4"), front(p), p.microsocks(login=True).url("socks5h")], 3
    ),
    "handler": Way(KNOWN_HERE, lambda p: own_handler()),
    "http > handler": Way(KNOWN_TO_PROXIES, lambda p: [p.squid().url("http"), own_handler(p)], 2),
}


# ---- a handler: the line "HOST PORT" to a switchboard of its own would do; this one asks tinyproxy, or nobody


async def _switch(proxy: Any, target: Any) -> socket.socket:
    if not proxy.host:
        return await asyncio.get_running_loop().run_in_executor(None, _straight, target.host, target.port)
    sock: socket.socket = await target.dial(proxy.host, proxy.port)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, f"CONNECT {target.host}:{target.port} HTTP/1.0\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(sock, 1)  # not a byte of the server's greeting
    if b" 200 " not in head:
        raise ConnectionError(head.decode())
    return sock


def _straight(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=10)


def own_handler(proxies: Proxies | None = None) -> str:
    """The URL of a proxy whose handler goes straight to the target, or by tinyproxy."""
    bulkmail.register_proxy("switchboard", _switch)
    return proxies.tinyproxy().url("switchboard") if proxies is not None else "switchboard://"


def secured_handler(certificates: Certificates) -> str:
    """The URL of one whose handler does the TLS with the target itself."""

    def connect(target: Any) -> ssl.SSLSocket:
        return certificates.client_context().wrap_socket(
            _straight(target.host, target.port), server_hostname=target.host
        )

    async def handler(proxy: Any, target: Any) -> Any:
        sock = await asyncio.get_running_loop().run_in_executor(None, connect, target)
        return bulkmail.Proxied(sock, secured=True)

    bulkmail.register_proxy("secured", handler)
    return "secured://"


# ---- the server


def sink(certificates: Certificates, kind: str | None, **options: Any) -> Server:
    """A server of ours; with TLS ("starttls" or "implicit") it lets in who logs in."""
    if kind is not None:
        given = {"tls_cert": certificates.chain_file, "tls_implicit": kind == "implicit", "auth": LOGIN}
        options = {**given, **options}
    return Server(**options)


def place(server: Server, host: str, kind: str | None, *, login: str = "") -> str:
    """Its URL by this name."""
    return f"{'smtps' if kind == 'implicit' else 'smtp'}://{login}{host}:{server.port}"
