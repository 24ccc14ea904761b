"""socks5://, socks5h:// and socks://: SOCKS version 5 (RFC 1928) with user and password (RFC 1929).

The messages are python-socks'; its connectors are not used, since errors of many kinds escape them and an empty
password silently drops the login. How many bytes an answer has is decided here (its core cannot say).
"""

from __future__ import annotations

from typing import Any

from python_socks._protocols import socks5 as core
from python_socks._protocols.errors import ReplyError

from bulkmail.errors import ProxyError
from bulkmail.net.proxies.channel import Channel, TargetRefused
from bulkmail.proxyurl import ProxyUrl
from bulkmail.urlparts import host_and_port

NO_METHOD = 0xFF  # RFC 1928 section 3
NOT_ALLOWED = 2  # RFC 1928 section 6: a rule of the proxy's, for whatever address
_ADDRESS_BYTES = {1: 4, 4: 16}  # by type, RFC 1928 section 5; type 3 says its own length


async def connect(proxy: ProxyUrl, host: str, port: int, channel: Channel) -> None:
    """Log in and ask for host:port (a checked name or address). ProxyError with the proxy's reply code.

    A reply that concerns this address only (unreachable, refused) is TargetRefused: another address may work.
    """
    talk = core.Connection()
    if await _agree_on_method(proxy, talk, channel) == core.AuthMethod.USERNAME_PASSWORD:
        await _log_in(proxy, talk, channel)
    channel.step = f"asking for {host_and_port(host, port)}"
    await channel.write(talk.send(core.ConnectRequest(host, port)))
    reply = await _read_connect_reply(channel)
    if reply[1] == 0 or reply[0] != core.SOCKS_VER:
        _understand(talk, reply, channel)
        return
    kind = ProxyError if reply[1] == NOT_ALLOWED else TargetRefused
    raise channel.error(f"it answered {reply[1]}: {_meaning(reply[1])}", reply[1], kind)


def _meaning(code: int) -> str:
    try:
        return core.ReplyMessages[core.ReplyCode(code)]
    except ValueError:
        return "a code that RFC 1928 does not know"


async def _agree_on_method(proxy: ProxyUrl, talk: core.Connection, channel: Channel) -> int:
    channel.step = "agreeing on a login method"
    request = core.AuthMethodsRequest(proxy.user, proxy.password)
    if proxy.user is not None:
        request.methods = bytearray((core.AuthMethod.ANONYMOUS, core.AuthMethod.USERNAME_PASSWORD))
    await channel.write(talk.send(request))
    reply = await channel.read_exactly(2)
    if reply[0] == core.SOCKS_VER and reply[1] == NO_METHOD:
        wants = "it wants a user and password" if proxy.user is None else "it accepts no user and password"
        raise channel.error(f"{wants} (answered 255)", NO_METHOD)
    return int(_understand(talk, reply, channel).method)


async def _log_in(proxy: ProxyUrl, talk: core.Connection, channel: Channel) -> None:
    channel.step = "logging in"
    await channel.write(talk.send(_Login(proxy.user or "", proxy.password or "")))
    reply = await channel.read_exactly(2)
    if reply[0] == core.AuthRequest.VER and reply[1] != core.AUTH_GRANTED:
        raise channel.error(f"it refused the user or password (answered {reply[1]})", reply[1])
    _understand(talk, reply, channel)


class _Login(core.AuthRequest):
    """In UTF-8, where python-socks takes ASCII only; the lengths are octets either way."""

    def dumps(self) -> bytes:
        user, password = self.username.encode(), self.password.encode()
        return bytes((self.VER, len(user))) + user + bytes((len(password),)) + password


async def _read_connect_reply(channel: Channel) -> bytes:
    """Exactly the reply. A refusal may be cut short by its sender, so nothing after its code is waited for."""
    reply = await channel.read_exactly(2)
    if reply[0] != core.SOCKS_VER or reply[1] != 0:
        return reply
    reply += await channel.read_exactly(2)
    if reply[3] == core.AddressType.DOMAIN:
        reply += await channel.read_exactly(1)
        size = reply[4]
    elif reply[3] in _ADDRESS_BYTES:
        size = _ADDRESS_BYTES[reply[3]]
    else:
        raise channel.error(f"its answer has the unknown address type {reply[3]}")
    return reply + await channel.read_exactly(size + 2)


def _understand(talk: core.Connection, reply: bytes, channel: Channel) -> Any:
    try:
        return talk.receive(reply)
    except (ReplyError, ValueError) as error:
        speaks = "; it looks like HTTP" if reply[:1] == b"H" else ""
        raise channel.error(f"its answer {reply[:8].hex(' ')} is not SOCKS5: {error}{speaks}") from error
