"""http:// and https://: the CONNECT method (RFC 9110 section 9.3.6), with Basic credentials (RFC 7617).

The answer's head is framed here: python-socks takes whatever arrives with one read, and with it the greeting.
"""

from __future__ import annotations

import re
from base64 import b64encode

from bulkmail.errors import ProxyError
from bulkmail.net.proxies.channel import Channel
from bulkmail.proxyurl import ProxyUrl
from bulkmail.urlparts import host_and_port

MAX_HEAD = 32768  # bytes; proxies with long cookies or error pages' headers stay below 16 KiB
MAX_INTERIM = 5  # 1xx answers before the final one, RFC 9110 section 15.2; more is a peer that plays for time

_status_line = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n").match
_offered = re.compile(rb"^proxy-authenticate:[ \t]*([A-Za-z0-9-]+)", re.IGNORECASE | re.MULTILINE).findall

_MEANING = {
    403: "it does not allow this target or port",
    405: "it does not allow CONNECT",
    502: "it cannot reach the target",
    503: "it cannot reach the target",
    504: "the target did not answer it",
}


async def connect(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> None:
    """Ask for a tunnel to host:port (a checked name or address). ProxyError with the HTTP status as reply_code."""
    target = host_and_port(host, port)
    channel.step = f"asking for {target}"
    await channel.write(_request(proxy, target))
    for _ in range(MAX_INTERIM + 1):
        head = await channel.read_head(b"HTTP/1.", MAX_HEAD)
        line = _status_line(head)
        if line is None:
            raise channel.error(f"its answer is not HTTP: {head[:40]!a}")
        status = int(line[1])
        if 200 <= status < 300:
            return
        if status >= 200:
            raise _refusal(proxy, channel, status, line[2] or b"", head)
    raise channel.error("it sent interim answers without end")


def _request(proxy: ProxyUrl, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user is not None:
        login = f"{proxy.user}:{proxy.password or ''}".encode()
        lines.append(f"Proxy-Authorization: Basic {b64encode(login).decode()}")
    lines += [f"{name}: {value}" for name, value in proxy.headers]
    return "\r\n".join([*lines, "", ""]).encode()


def _refusal(proxy: ProxyUrl, channel: Channel, status: int, phrase: bytes, head: bytes) -> ProxyError:
    # Some (tinyproxy) answer a wrong login with 401, which is a web server's.
    meaning = _why_no_login(proxy, head) if status in (401, 407) else _MEANING.get(status, "")
    words = ascii(phrase[:80].decode("latin-1"))[1:-1]
    return channel.error(f"it answered {status} {words}".rstrip() + (f": {meaning}" if meaning else ""), status)


def _why_no_login(proxy: ProxyUrl, head: bytes) -> str:
    schemes = [scheme.decode() for scheme in _offered(head)]
    if schemes and "basic" not in [scheme.lower() for scheme in schemes]:
        return f"it wants {' or '.join(schemes)}, only Basic is supported"
    if proxy.user is None:
        return f"it wants a user and password: {proxy.scheme}://user:password@host"
    return "it refused the user or password"
