"""Proxies by their URLs: "socks5h://user:password@host:1080", the object form with more to say, and chains of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bulkmail.errors import ConfigError
from bulkmail.proxyhandlers import OUR_SCHEMES, find_handler, known_schemes
from bulkmail.records import Record
from bulkmail.urlparts import listed, masked, nearest, quoted, shown_url, split_url
from bulkmail.values import parse_path, parse_server_name, parse_timeout

PROXY_PORTS: Final = {
    "http": 80,
    "https": 443,
    **dict.fromkeys(("socks4", "socks4a", "socks5", "socks5h", "socks"), 1080),
}
assert set(PROXY_PORTS) == set(OUR_SCHEMES)
MAX_HOPS = 16  # of a chain; a longer one is a mistake, and each hop costs a round trip and more
# Bytes. SOCKS5: the length is one octet, RFC 1929 section 2. SOCKS4 has no bound; servers read into 256 bytes.
MAX_SOCKS_CREDENTIAL = 255

EXAMPLE = "socks5h://user:password@host:1080"
_OBJECT_KEYS = ("proxy", "ca_file", "server_name", "headers", "timeout")
_OF_AN_EGRESS = ("weight", "max_connections", "rate", "local_address")
# What frames the request or logs in; the rest is the user's.
_OUR_HEADERS = ("host", "proxy-authorization", "content-length", "transfer-encoding")

_control = re.compile(r"[\x00-\x1f\x7f]").search
_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # token, RFC 9110 section 5.6.2
_bad_in_header = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search  # RFC 9110 section 5.5


@dataclass(frozen=True, eq=False, repr=False)
class ProxyUrl(Record):
    """A proxy, checked: nothing in it can break the framing of its protocol. str() and repr() mask what is secret.

    path, query           as they were written; of registered schemes only, which may lack host and port too ("", 0)
    ca_file, server_name  of https: whom to believe that it is the proxy, and under which name
    headers               of http and https: more of them for CONNECT
    timeout               seconds to connect to it and for its answer
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    query: str = ""
    ca_file: str | None = None
    server_name: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float | None = None

    def __post_init__(self) -> None:
        _check_credentials(self)
        _check_extras(self)

    def __str__(self) -> str:
        login = shown_url(self.scheme, self.user, self.password, self.host, self.port)
        if not self.port:
            login = login.removesuffix(":0")
        # What a handler's query means, and whether it is a secret, only the handler knows.
        return login + self.path + ("?***" if self.query else "")

    __repr__ = __str__


class Chain(tuple[ProxyUrl, ...]):
    """One proxy after the other, the last one reaches the target; never empty. str() masks the passwords."""

    __slots__ = ()

    def __str__(self) -> str:
        return " > ".join(map(str, self))

    __repr__ = __str__

    def with_files_in(self, folder: str | os.PathLike[str]) -> Chain:
        """The same with the names of files relative to a folder."""
        return Chain(
            replace(hop, ca_file=os.path.join(folder, hop.ca_file)) if hop.ca_file is not None else hop for hop in self
        )


def parse_proxy(value: object, what: str) -> Chain:
    """A chain from a URL, an object {"proxy": URL, "ca_file", "server_name", "headers", "timeout"}, or a list of these.

    what     how an error calls it
    raises   ConfigError  never with a password
    """
    if isinstance(value, Chain):
        return value
    if isinstance(value, Mapping) and value.keys() == {"proxy"}:
        value = value["proxy"]
    if isinstance(value, (list, tuple)):
        return _chain(value, what)
    if value == "env":
        raise ConfigError(f"{what}: 'env' stands alone, as the value of option 'proxy', and in no chain or object")
    return Chain((_hop(value, what),))


def _chain(items: list[object] | tuple[object, ...], what: str) -> Chain:
    if not items:
        raise ConfigError(f"{what} is an empty list, expected the proxies of a chain, the first one first")
    hops: list[ProxyUrl] = []
    for place, item in enumerate(items):
        where = f"{what}[{place}]"
        if isinstance(item, Chain):
            hops += item
        elif isinstance(item, (list, tuple)):
            raise ConfigError(f"{where} is a list, expected a proxy: a chain has no chains in it")
        elif item == "env":
            raise ConfigError(f"{where} is 'env', which stands for itself only, expected a proxy's URL")
        else:
            hops.append(_hop(item, where))
    if len(hops) > MAX_HOPS:
        raise ConfigError(f"{what} has {len(hops)} proxies, expected at most {MAX_HOPS}")
    return Chain(hops)


def _hop(value: object, what: str) -> ProxyUrl:
    if isinstance(value, ProxyUrl):
        return value
    if isinstance(value, Mapping):
        return _from_object(value, what)
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {_kind(value)}, expected a URL such as {EXAMPLE}")
    if not value.strip():
        raise ConfigError(f"{what} is empty, expected a URL such as {EXAMPLE}")
    return _from_url(value, what)


def _kind(value: object) -> str:
    # Of other values only the type is shown: there may be a password in them.
    return quoted(value) if value is None or isinstance(value, (bool, int, float)) else type(value).__name__


def _from_url(value: str, what: str) -> ProxyUrl:
    scheme = value.strip().partition("://")[0].lower()
    ports: Mapping[str, int] = PROXY_PORTS
    free: tuple[str, ...] = ()
    if "://" in value and scheme not in PROXY_PORTS:
        _check_known(scheme, value, what)
        ports, free = {scheme: 0}, (scheme,)
    parts = split_url(value, what, ports, "socks5h://host:1080", free=free)
    if free:
        return ProxyUrl(scheme, parts.host, parts.port, parts.user, parts.password, parts.path or "", parts.query)
    if parts.query:
        raise ConfigError(f"{what} {masked(value)}: a proxy's URL has no options after '?'; the object form has some")
    if not parts.host:
        raise ConfigError(f"{what} {masked(value)}: the proxy's host is missing")
    return ProxyUrl(scheme, parts.host, parts.port, parts.user, parts.password)


def _check_known(scheme: str, value: str, what: str) -> None:
    if find_handler(scheme) is not None:
        return
    known = [f"{name}://" for name in known_schemes()]
    raise ConfigError(
        f"{what} {masked(value)}: unknown scheme, expected {listed(known)}{nearest(scheme + '://', known)} "
        "(bulkmail.register_proxy adds others)"
    )


def _from_object(value: Mapping[Any, Any], what: str) -> ProxyUrl:
    for key in value:
        if key in _OF_AN_EGRESS:
            raise ConfigError(f"{what}: '{key}' is of an egress, not of a proxy: expected in an object of 'egress'")
        if key not in _OBJECT_KEYS:
            near = nearest(key, _OBJECT_KEYS) if isinstance(key, str) else ""
            raise ConfigError(f"{what}: unknown key {quoted(key)}, expected {listed(_OBJECT_KEYS)}{near}")
    if not isinstance(value.get("proxy"), (str, ProxyUrl)):
        found = f"'proxy' is {_kind(value['proxy'])}" if "proxy" in value else "'proxy' is missing"
        raise ConfigError(f"{what}: {found}, expected the URL of one proxy, to which the other keys belong")
    given = {key: parse(value[key], f"{what}: '{key}'") for key, parse in _EXTRAS.items() if value.get(key) is not None}
    return replace(_hop(value["proxy"], what), **given)


def _parse_headers(value: object, what: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ConfigError(f'{what} is not an object of names and texts, such as {{"X-Tenant": "news"}}')
    return tuple(value.items())


_EXTRAS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "ca_file": parse_path,
    "server_name": parse_server_name,
    "headers": _parse_headers,
    "timeout": parse_timeout,
}


# ---- what no proxy can be given


def _check_credentials(proxy: ProxyUrl) -> None:
    user, password = proxy.user or "", proxy.password or ""
    if proxy.password is not None and not user:
        raise ConfigError(f"proxy {proxy}: a password without a user")
    if _control(user + password):
        raise ConfigError(f"proxy {proxy}: user or password has a control character or line break")
    try:
        longest = max(len(user.encode()), len(password.encode()))
    except UnicodeEncodeError:
        raise ConfigError(f"proxy {proxy.scheme}://: user or password is not valid Unicode") from None
    if proxy.scheme in ("http", "https") and ":" in user:
        raise ConfigError(f"proxy {proxy}: the user has a ':', which HTTP's Basic scheme cannot carry (RFC 7617)")
    if proxy.scheme in ("socks4", "socks4a"):
        if password:
            raise ConfigError(f"proxy {proxy}: SOCKS4 has a user id and no password; socks5:// has both")
        if longest > MAX_SOCKS_CREDENTIAL:
            raise ConfigError(f"proxy {proxy}: the user id has more than {MAX_SOCKS_CREDENTIAL} bytes")
    elif proxy.scheme.startswith("socks"):
        if proxy.user == "":
            raise ConfigError(f"proxy {proxy}: the user is empty, expected 1 to 255 bytes (RFC 1929)")
        if longest > MAX_SOCKS_CREDENTIAL:
            raise ConfigError(f"proxy {proxy}: user or password has more than {MAX_SOCKS_CREDENTIAL} bytes (RFC 1929)")


def _check_extras(proxy: ProxyUrl) -> None:
    if proxy.scheme != "https" and (proxy.ca_file is not None or proxy.server_name is not None):
        key = "ca_file" if proxy.ca_file is not None else "server_name"
        raise ConfigError(f"proxy {proxy}: '{key}' is for https:// proxies, which have a certificate")
    if proxy.headers and proxy.scheme not in ("http", "https"):
        raise ConfigError(f"proxy {proxy}: 'headers' are for http:// and https:// proxies")
    for name, value in proxy.headers:
        if not _header_name(name):
            raise ConfigError(f"proxy {proxy}: 'headers' has the name {quoted(name)}, expected a word such as X-Tenant")
        if name.lower() in _OUR_HEADERS:
            how = ": put user and password into the URL" if name.lower() == "proxy-authorization" else ""
            raise ConfigError(f"proxy {proxy}: the header {name} is not yours to give{how}")
        if _bad_in_header(value) or not _encodable(value):
            raise ConfigError(f"proxy {proxy}: the header {name} has a line break or control character in its value")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
