"""A URL taken apart, hosts checked, and what of a URL may be shown in an error.

URLs with passwords are typed by people. A raw "/", "?", "#" or "@" in a password moves every border of the URL, so that
a piece of the password may stand where a port or an option is expected; such a URL is refused as a whole, and neither
`masked` nor any error shows the doubtful pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from bulkmail.address import MAX_DOMAIN, ascii_domain
from bulkmail.errors import ConfigError
from bulkmail.records import Record

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*").fullmatch
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)"
_host_name = re.compile(rf"{_LABEL}(?:\.{_LABEL})*+\.?").fullmatch
_bracketed = re.compile(r"\[([^\]]*)\](?::(.*))?").fullmatch
_address_with_port = re.compile(r"\[[^\]]*\](?::[0-9]*)?|[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*").fullmatch
_port = re.compile(r"[0-9]{1,5}").fullmatch
_bad_percent = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_unprintable = re.compile(r"[\x00-\x20\x7f]").search
_URI_SAFE = "!#$%&'()*+,/:;=?@[]~-._"  # reserved and unreserved of RFC 3986, and % of what is encoded already
_web_host = re.compile(r"(https?://)([^/?#@:]+)", re.IGNORECASE).match
_option_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}").fullmatch
_secret_name = re.compile(r"pass|pwd|secret|token|oauth|credential", re.IGNORECASE).search

# Options whose value may well hold an "@"; anywhere else it betrays a password that was not percent-encoded.
_MAY_HOLD_AT = frozenset(("proxy", "ca_file", "cert_file", "key_file", "wire_log"))


@dataclass(frozen=True, eq=False, repr=False)
class UrlParts(Record):
    """Scheme in lower case, user and password percent-decoded, host "" if there is none, query as it was written.

    path: of a scheme that names a socket by its path instead of a host, decoded; of a free one as written; or None
    """

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    host: str
    port: int
    query: str
    path: str | None = None


def split_url(
    url: object,
    what: str,
    ports: Mapping[str, int],
    example: str,
    with_path: tuple[str, ...] = (),
    free: tuple[str, ...] = (),
) -> UrlParts:
    """The parts of a URL whose scheme is one of `ports` (scheme -> default port).

    what     how errors call it, such as "relay URL"
    with_path   schemes that are followed by the path of a socket, and by no host
    free        schemes that may have a path, which is somebody else's to read
    raises   ConfigError  never with the password or what may be a piece of it
    """
    if not isinstance(url, str):
        raise ConfigError(f"the {what} must be text, not {type(url).__name__}")
    url = url.strip()
    shown = f"{what} {masked(url)}"
    scheme, separator, rest = url.partition("://")
    if not separator or not _scheme(scheme):
        raise ConfigError(f"{shown}: expected a URL such as {example}")
    scheme = scheme.lower()
    _check_scheme(scheme, shown, ports)
    authority, path, query = _sections(rest)
    if _unprintable(url) or _raw_credentials(path, query):
        raise ConfigError(f"{shown}: a space, '/', '?', '#' or '@' in user, password or option must be percent-encoded")
    if scheme in with_path:
        return UrlParts(scheme, None, None, "", ports[scheme], query, _socket_path(authority, path, shown))
    if path not in ("", "/") and scheme not in free:
        raise ConfigError(f"{shown}: nothing but options (?name=value) can follow the host")
    user, password, host_port = _login(authority, shown)
    host, port = _host_and_port(host_port, shown)
    port = ports[scheme] if port is None else port
    return UrlParts(scheme, user, password, host, port, query, path if scheme in free else None)


def _socket_path(authority: str, path: str, shown: str) -> str:
    if authority or not path.strip("/"):
        raise ConfigError(f"{shown}: expected the path of a socket after three slashes, as in lmtp+unix:///run/lmtp")
    found = decoded(path, f"{shown}: the path")
    if "\0" in found:
        raise ConfigError(f"{shown}: the path has a NUL")
    return found


def _login(authority: str, shown: str) -> tuple[str | None, str | None, str]:
    """User, password, and the rest of the authority. An "@" in a raw password does no harm: the last one counts."""
    userinfo, _, host_port = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if colon and not user:
        raise ConfigError(f"{shown}: a password without a user")
    return (
        decoded(user, f"{shown}: the user") if user else None,
        decoded(password, f"{shown}: the password") if colon else None,
        host_port,
    )


def _check_scheme(scheme: str, shown: str, ports: Iterable[str]) -> None:
    if scheme not in ports:
        known = [f"{name}://" for name in ports]
        raise ConfigError(f"{shown}: unknown scheme, expected {listed(known)}{nearest(scheme + '://', known)}")


def _sections(rest: str) -> tuple[str, str, str]:
    """Authority, path (with any fragment) and query of what follows "scheme://"."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    return authority, path, query


def _raw_credentials(path: str, query: str) -> bool:
    """Whether an "@" or "#" shows that a password was not percent-encoded, so that any part may be a piece of it."""
    if "@" in path or "#" in path + query:
        return True
    return any("@" in piece and piece.partition("=")[0] not in _MAY_HOLD_AT for piece in query.split("&"))


def _host_and_port(text: str, shown: str) -> tuple[str, int | None]:
    bracketed = _bracketed(text)
    if bracketed:
        host, port = bracketed[1].replace("%25", "%", 1), bracketed[2]  # RFC 6874: the zone of [fe80::1%25eth0]
        if ":" not in host or as_ip(host) is None:
            raise ConfigError(f"{shown}: the host in brackets is not an IPv6 address")
    elif text.count(":") > 1:
        raise ConfigError(f"{shown}: an IPv6 address stands in brackets, as in [2001:db8::1]:587")
    else:
        name, _, port = text.partition(":")
        host = parse_host(decoded(name, shown), f"{shown}: the host") if name else ""
    if not port:
        return host, None
    if not _port(port) or not 1 <= int(port) <= 65535:
        # Not shown: without an "@" after it, it may be a password.
        raise ConfigError(f"{shown}: the port is not a number from 1 to 65535")
    return host, int(port)


def parse_host(text: str, what: str) -> str:
    """A host name in A-labels and lower case, or an IP address (no brackets). Underscores pass: networks have them."""
    if as_ip(text) is not None:
        return text
    try:
        host = ascii_domain(text).lower()
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None
    if len(host) > MAX_DOMAIN or not _host_name(host):
        raise ConfigError(f"{what} is {quoted(text)}, expected a host name or an IP address")
    return host


def as_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a text is (an IPv6 zone such as %eth0 may follow), or None."""
    from ipaddress import ip_address

    try:
        return ip_address(text)
    except ValueError:
        return None


def plain_ip(text: str) -> IPv4Address | IPv6Address | None:
    """as_ip() in the one shape in which addresses are compared: without a zone, and IPv4 where that is mapped into IPv6
    (RFC 4291 section 2.5.5.2)."""
    address = as_ip(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def decoded(text: str, what: str) -> str:
    """A percent-decoded part. A stray "%" is an error: "50%abuse" would otherwise become another password."""
    if _bad_percent(text):
        raise ConfigError(f"{what} has a '%' without two hexadecimal digits; a percent sign itself is written %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{what} is not UTF-8 when percent-decoded") from None


def legal_uri(text: str) -> str:
    """What may not stand in a URI becomes percent-encoded UTF-8; what is encoded already stays (RFC 3986 section 2)."""
    found = None if text.isascii() else _web_host(text)
    if found is not None:
        # RFC 3987 section 3.1: a percent-encoded host is legal, and few clients would find it.
        with suppress(ValueError):
            text = found[1] + ascii_domain(found[2]) + text[found.end() :]
    return quote(text, safe=_URI_SAFE)


# ---- what errors show


def host_and_port(host: str, port: int) -> str:
    """ "relay.example:587", "[::1]:587" """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_url(scheme: str, user: str | None, password: str | None, host: str, port: int) -> str:
    """The URL of these parts, the password masked."""
    login = "" if user is None else quote(user, safe="") + ("@" if password is None else ":***@")
    return f"{scheme}://{login}{host_and_port(host, port)}"


def masked(url: str) -> str:
    """A URL, good or bad, with passwords hidden: its own, its proxy's, and whatever may be a stray piece of one."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        return _printable(_only_host(scheme))
    authority, path, query = _sections(rest)
    if _raw_credentials(path, query):
        return _printable(f"{scheme}://{_only_host(rest)}")
    userinfo, at, host = authority.rpartition("@")
    if ":" in userinfo:
        userinfo = userinfo.partition(":")[0] + ":***"
    if not _harmless(host):
        return _printable(f"{scheme}://{userinfo}{at}{_shown_host(host)}")
    pieces = "&".join(_masked_option(piece) for piece in query.split("&") if piece)
    return _printable(f"{scheme}://{userinfo}{at}{host}{path}" + (f"?{pieces}" if pieces else ""))


def _only_host(text: str) -> str:
    """What can be a host and port after the last "@"; of a text without "@", what comes before any path or query."""
    _, at, after = text.rpartition("@")
    host = re.split("[^A-Za-z0-9_.:-]", after.replace("[", "").replace("]", ""), maxsplit=1)[0] if at else ""
    return f"***@{host}" if at else _shown_host(re.split("[/?#]", text, maxsplit=1)[0])


def _shown_host(text: str) -> str:
    return text if _harmless(text) else text.partition(":")[0] + ":***"


def _harmless(text: str) -> bool:
    """Whether what stands for the port is one; "user:password" without a host looks the same."""
    port = text.partition(":")[2]
    return not port or bool(_port(port) or _address_with_port(text))


def _masked_option(piece: str) -> str:
    name, equals, value = piece.partition("=")
    if name == "proxy":
        return f"proxy={masked(unquote_to_bytes(value).decode(errors='replace'))}"
    if not equals or not _option_name(name) or _secret_name(name):
        return f"{name}=***" if equals and _option_name(name) else "***"
    return piece


def _printable(text: str) -> str:
    """Control characters written out, so that an error cannot drive a terminal or forge a log line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """A value as an error shows it: quoted, printable, not longer than 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(words: Iterable[str]) -> str:
    """ "a, b or c" """
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def nearest(word: str, known: Iterable[str]) -> str:
    """ ", did you mean 'tls'?" or "" """
    from difflib import get_close_matches

    close = get_close_matches(word.lower(), list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""
