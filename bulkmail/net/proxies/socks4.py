"""socks4:// and socks4a://: SOCKS version 4 (Ying-Da Lee's memo) and its extension by which the proxy resolves names.

The words are python-socks'. Its request is not used: it takes a user id in ASCII only, and makes a socks4a request of
whatever is no IPv4 address.
"""

from __future__ import annotations

from python_socks._protocols import socks4 as core

from bulkmail.errors import ProxyError
from bulkmail.net.proxies.channel import Channel, TargetRefused
from bulkmail.proxyurl import ProxyUrl
from bulkmail.urlparts import as_ip, host_and_port

GRANTED, REFUSED = core.ReplyCode.REQUEST_GRANTED, core.ReplyCode.REQUEST_REJECTED_OR_FAILED
_REPLY_REST = 6  # bytes after version and code: a port and an address, which mean nothing to CONNECT
_NAME_FOLLOWS = b"\0\0\0\1"  # an address that cannot be, SOCKS 4A


async def connect(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> None:
    """Ask for host:port (a checked name or address). ProxyError with the proxy's reply code.

    91, which says no more than "failed", is TargetRefused: another address may work.
    """
    channel.step = f"asking for {host_and_port(host, port)}"
    await channel.write(_request(proxy, host, port, channel))
    reply = await channel.read_exactly(2)
    if reply[0] != core.NULL:
        hint = "; it looks like HTTP" if reply[:1] == b"H" else "; it looks like SOCKS5" if reply[0] == 5 else ""
        raise channel.error(f"its answer {reply.hex(' ')} is not SOCKS4{hint}")
    if reply[1] != GRANTED:  # may be cut short by its sender: nothing more is waited for
        kind = TargetRefused if reply[1] == REFUSED else ProxyError
        raise channel.error(f"it answered {reply[1]}: {_meaning(reply[1])}", reply[1], kind)
    await channel.read_exactly(_REPLY_REST)


def _request(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> bytes:
    address = as_ip(host)
    name = b""
    if address is not None and address.version == 4:
        where = address.packed
    elif proxy.scheme == "socks4a":
        where, name = _NAME_FOLLOWS, host.encode("ascii") + b"\0"
    else:
        raise channel.error("SOCKS4 carries IPv4 addresses only; use socks4a:// or socks5://", kind=ProxyError)
    user = (proxy.user or "").encode()
    return bytes((core.SOCKS_VER, core.Command.CONNECT)) + port.to_bytes(2, "big") + where + user + b"\0" + name


def _meaning(code: int) -> str:
    try:
        return core.ReplyMessages[core.ReplyCode(code)]
    except ValueError:
        return "a code that SOCKS4 does not know"
