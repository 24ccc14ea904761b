"""Proxies by their URLs: "socks5h://user:password@host:1080", and chains of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bulkmail.errors import ConfigError
from bulkmail.urlparts import masked, not_in_this_version, quoted, shown_url, split_url

PROXY_PORTS: Final = {"http": 80, "socks5": 1080, "socks5h": 1080, "socks": 1080}
LATER_PROXY_SCHEMES: Final = ("https", "socks4", "socks4a")
MAX_SOCKS_CREDENTIAL = 255  # bytes: the length is one octet, RFC 1929 section 2

_control = re.compile(r"[\x00-\x1f\x7f]").search


@dataclass(frozen=True)
class ProxyUrl:
    """A proxy, checked: nothing in it can break the framing of its protocol. str() and repr() mask the password."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_proxy_credentials(self)

    def __str__(self) -> str:
        return shown_url(self.scheme, self.user, self.password, self.host, self.port)

    __repr__ = __str__


class Chain(tuple[ProxyUrl, ...]):
    """One proxy after the other, the last one reaches the target; never empty. str() masks the passwords."""

    __slots__ = ()

    def __str__(self) -> str:
        return " > ".join(map(str, self))

    __repr__ = __str__


def parse_proxy(value: object, what: str) -> Chain:
    """A chain from "socks5h://user:password@host:1080" or "http://host:3128"."""
    if isinstance(value, Chain):
        return value
    if isinstance(value, ProxyUrl):
        return Chain((value,))
    if isinstance(value, (list, tuple)):
        raise not_in_this_version(f"{what}: a chain of proxies")
    if isinstance(value, Mapping):
        raise not_in_this_version(f"{what}: the object form of a proxy")
    if value == "env":
        raise ConfigError(f"{what}: 'env' stands alone, as the value of option 'proxy', and in no chain or object")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} is {quoted(value)}, expected a URL such as socks5h://user:password@host:1080")
    parts = split_url(value, what, PROXY_PORTS, LATER_PROXY_SCHEMES, "socks5h://host:1080")
    if parts.query:
        raise ConfigError(f"{what} {masked(value)}: a proxy's URL has no options after '?'")
    if not parts.host:
        raise ConfigError(f"{what} {masked(value)}: the proxy's host is missing")
    return Chain((ProxyUrl(parts.scheme, parts.host, parts.port, parts.user, parts.password),))


def _check_proxy_credentials(proxy: ProxyUrl) -> None:
    user, password = proxy.user or "", proxy.password or ""
    if _control(user + password):
        raise ConfigError(f"proxy {proxy}: user or password has a control character or line break")
    if proxy.scheme == "http" and ":" in user:
        raise ConfigError(f"proxy {proxy}: the user has a ':', which HTTP's Basic scheme cannot carry (RFC 7617)")
    if proxy.scheme != "http" and max(len(user.encode()), len(password.encode())) > MAX_SOCKS_CREDENTIAL:
        raise ConfigError(f"proxy {proxy}: user or password has more than {MAX_SOCKS_CREDENTIAL} bytes (RFC 1929)")
