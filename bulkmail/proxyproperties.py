"""Proxies as javax.mail and Jakarta Mail have them in their properties, made options of ours.

Sources: the properties' list in the package com.sun.mail.smtp, and what SocketFetcher does with them: a web proxy is
taken before a SOCKS one, "host:port" may stand in the host's property, and the port's property wins over it.
`nonProxyHosts` is what some distributions of javax.mail added; it is given once, for plain and TLS alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from bulkmail.errors import ConfigError
from bulkmail.noproxy import parse_no_proxy, split_entries
from bulkmail.proxyurl import parse_proxy
from bulkmail.urlparts import as_ip, host_and_port, masked, nearest, parse_host, quoted

PROTOCOLS: Final = ("smtp", "smtps")
NAMES: Final = ("proxy.host", "proxy.port", "proxy.user", "proxy.password", "proxy.nonProxyHosts",
                "socks.host", "socks.port")  # fmt: skip
WEB_PORT, SOCKS_PORT = 80, 1080


def proxies_from_properties(properties: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """{"smtp": {"proxy": URL or None, "no_proxy": [...]}, "smtps": {...}}: keyword options of ours by scheme.

    properties  mail.smtp.proxy.host .port .user .password .nonProxyHosts, mail.smtp.socks.host .port, and the same of
                mail.smtps; texts, or numbers for ports. Other properties are none of ours and passed over, but not a
                misspelt one of these: the mail would go past the proxy.
    raises  ConfigError  naming the property, never with the password
    """
    if not isinstance(properties, Mapping):
        raise ConfigError(f"the properties are {quoted(type(properties).__name__)}, expected a mapping")
    found = {protocol: _Properties(properties, f"mail.{protocol}.") for protocol in PROTOCOLS}
    hosts = {protocol: one.no_proxy() for protocol, one in found.items()}
    given_once = hosts["smtp"] or hosts["smtps"]
    return {
        protocol: {"proxy": one.proxy(), "no_proxy": list(hosts[protocol] or given_once)}
        for protocol, one in found.items()
    }


class _Properties:
    """Those of one protocol."""

    def __init__(self, properties: Mapping[str, object], prefix: str) -> None:
        self.prefix = prefix
        self.values: dict[str, object] = {}
        for key, value in properties.items():
            name = key.removeprefix(prefix) if isinstance(key, str) else ""
            if name == key or not name.startswith(("proxy.", "socks.")):
                continue
            if name not in NAMES:
                raise ConfigError(f"unknown property {quoted(key)}{nearest(key, [prefix + known for known in NAMES])}")
            if value is not None and value != "":
                self.values[name] = value

    def proxy(self) -> str | None:
        user, password = self._text("proxy.user"), self._text("proxy.password")
        if password is not None and user is None:
            raise ConfigError(f"property '{self.prefix}proxy.password' is given without '{self.prefix}proxy.user'")
        web, socks = self._place("proxy", WEB_PORT), self._place("socks", SOCKS_PORT)
        if web is not None:
            login = _login(user, password)
            return self._checked(f"http://{login}{web}", "proxy.host")
        return self._checked(f"socks5://{socks}", "socks.host") if socks is not None else None

    def no_proxy(self) -> list[str]:
        entries = split_entries(self._text("proxy.nonProxyHosts") or "")
        parse_no_proxy(entries, f"property '{self.prefix}proxy.nonProxyHosts'")
        return entries

    def _place(self, kind: str, default: int) -> str | None:
        """ "host:port"; None if there is no host."""
        text = self._text(f"{kind}.host")
        what = f"property '{self.prefix}{kind}.host'"
        if text is None:
            return None
        if "@" in text or "/" in text:
            raise ConfigError(f"{what} is {quoted(masked(text))}, expected a host name or an IP address")
        host, port = _host_and_port(text.strip())
        number = _port(port, what) if port is not None else default
        if f"{kind}.port" in self.values:
            number = _port(self.values[f"{kind}.port"], f"property '{self.prefix}{kind}.port'")
        return host_and_port(parse_host(host, what), number)

    def _text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"property '{self.prefix}{name}' is of type {type(value).__name__}, expected text")
        return value

    def _checked(self, url: str, name: str) -> str:
        parse_proxy(url, f"property '{self.prefix}{name}'")
        return url


def _login(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    return quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}") + "@"


def _host_and_port(text: str) -> tuple[str, str | None]:
    """ "proxy:3128", "[::1]:3128", "::1" -> host without brackets, port or None."""
    if as_ip(text) is not None:
        return text, None
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    return host.removeprefix("[").removesuffix("]"), port if colon else None


def _port(value: object, what: str) -> int:
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigError(f"{what} is {quoted(value)}, expected a port from 1 to 65535")
    return int(text)
