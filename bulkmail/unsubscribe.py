"""Signed unsubscribe URLs: made for each recipient of a job, checked by the web handler behind them.

    https://example.com/u/17?list=news   ->   https://example.com/u/17?list=news&sig=0Wn9bM3kXyQ2vHf6T1cRZs8d

The signature is an HMAC-SHA-256 (RFC 2104) of host, path and query, so that nobody can make the URL of another
recipient out of their own. It proves nothing about who opens the URL: whoever has the message may unsubscribe its
recipient, as RFC 8058 wants it.

What is signed is what a web server takes a URL to mean, since browsers, mail clients and frameworks rewrite how it is
written: which characters are percent-encoded, the host's case, a default port, http for https behind a proxy that ends
TLS. Nothing may be added, left out or put in another order.
"""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias
from urllib.parse import parse_qsl, quote_from_bytes, unquote_to_bytes, urlsplit

from bulkmail.errors import ConfigError
from bulkmail.urlparts import legal_uri, parse_host, quoted

PARAMETER = "sig"
MIN_KEY = 16  # bytes: 128 bits, so that the key is no weaker than the signature
# Bytes of the HMAC that go into the URL: RFC 2104 section 5 asks for half of its 32. A multiple of three is base64
# without padding or spare bits, so that a signature is written in one way: 24 characters.
SIGNATURE_BYTES = 18
# Bytes of what a stranger sends to the handler; a header has room for 980 (RFC 5322), a one-click body for some 200.
MAX_URL = 8192
MAX_BODY = 65_536

Key: TypeAlias = str | bytes

# A signature that the same key has made of something else does not pass here.
_DOMAIN = b"bulkmail unsubscribe url 1\0"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

# The URLs that canonical() would leave as they are, which most are: unreserved characters (RFC 3986 section 2.3) stand
# for themselves, others are percent-encoded, but for what separates: "/" in the path, "&" and "=" in the query.
_ENCODED = r"%(?:[01][0-9A-F]|2[0-9ABC]|3[ABCEF]|40|5[BCDE]|60|7[BCDF]|[89A-F][0-9A-F])"
_plain = re.compile(
    rf"https?:(//[a-z0-9.-]++/(?:[A-Za-z0-9._~/-]++|{_ENCODED})*+(?:\?(?:[A-Za-z0-9._~&=-]++|{_ENCODED}|%2F)++)?)"
).fullmatch
_signature = re.compile(rf"(?<![^&]){PARAMETER}=([A-Za-z0-9_-]*)(?![^&])").finditer
_origin = re.compile(r"https?://[^/?#@\s]+", re.IGNORECASE).fullmatch
_up_to_path = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*").match
_boundary = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE).search
_named = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="?List-Unsubscribe"?\s*(?:;|$)', re.I | re.M).search


def sign_url(url: str, key: Key) -> str:
    """The URL with its signature as the last parameter of its query.

    url     http or https; what may not stand in a URL becomes percent-encoded
    raises  ConfigError (a ValueError)  for a key of less than 16 bytes and for a URL that cannot be signed
    """
    return Signer(key).sign(url)


def verify_url(url: str, keys: Key | Iterable[Key], *, origin: str | None = None) -> bool:
    """Whether the URL, as it was requested, has been signed with one of the keys.

    url     all of it, or only path and query, which then need `origin`
    origin  "https://example.com": takes the place of scheme and host, which a server behind a proxy may not know
    raises  ConfigError  for keys and an origin that cannot be used; never for what is wrong with the URL
    """
    signers = [Signer(key) for key in ([keys] if isinstance(keys, (str, bytes)) else keys)]
    if not signers:
        raise ConfigError("verify_url: there is no key")
    if origin is not None:
        url = _moved(url, origin)
    if len(url) > MAX_URL:
        return False
    try:
        unsigned, given = _taken_apart(url)
        signed = canonical(unsigned)
    except ValueError:
        return False
    # No early end: the time taken does not tell which key it was.
    return any([hmac.compare_digest(signer.signature(signed), given) for signer in signers])


def is_one_click(body: bytes, content_type: str | None) -> bool:
    """Whether the body of a POST is that of a mail client's one-click unsubscribe (RFC 8058 section 3.2).

    content_type  multipart/form-data or form-urlencoded; where the request has none, it is read as the latter
    """
    if len(body) > MAX_BODY:
        return False
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _multipart_value(body, content_type or "") == b"One-Click"
    if kind not in ("", "application/x-www-form-urlencoded"):
        return False
    try:
        return ("List-Unsubscribe", "One-Click") in parse_qsl(body.decode().strip(), max_num_fields=100)
    except ValueError:
        return False


class Signer:
    """Signs many URLs with one key. raises  ConfigError  for a key that is too short"""

    __slots__ = ("_state",)

    def __init__(self, key: Key) -> None:
        key = key.encode() if isinstance(key, str) else key
        if len(key) < MIN_KEY:
            raise ConfigError(f"the unsubscribe key has {len(key)} bytes, expected at least {MIN_KEY}")
        self._state = hmac.new(key, _DOMAIN, "sha256")

    def sign(self, url: str) -> str:
        """As sign_url. raises  ConfigError"""
        plain = _plain(url)
        if plain is None or f"{PARAMETER}=" in url:
            return self._sign_any(legal_uri(url))
        mark = "&" if "?" in url else "?"
        return f"{url}{mark}{PARAMETER}={self.signature(plain[1])}"

    def _sign_any(self, url: str) -> str:
        whole, hash_, fragment = url.partition("#")
        try:
            signed = canonical(whole)
        except ValueError as error:
            raise ConfigError(f"the unsubscribe url {quoted(url)} cannot be signed: {error}") from None
        query = whole.partition("?")[2]
        if any(name == PARAMETER for name, _, _ in _parameters(query)):
            raise ConfigError(f"the unsubscribe url {quoted(url)} has a parameter {PARAMETER!r} already")
        mark = "&" if query else "" if whole.endswith("?") else "?"
        return f"{whole}{mark}{PARAMETER}={self.signature(signed)}{hash_}{fragment}"

    def signature(self, signed: str) -> str:
        state = self._state.copy()
        state.update(signed.encode())
        return binascii.b2a_base64(state.digest()[:SIGNATURE_BYTES], newline=False).translate(_URL_SAFE).decode()

    def __repr__(self) -> str:
        return "Signer(...)"


def canonical(url: str) -> str:
    """What of a URL is signed: host, port, path and query in the one way to write them. raises  ValueError"""
    plain = _plain(url)
    return plain[1] if plain is not None else _rewritten(url)


def _rewritten(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected something like https://example.com/u/17")
    if "@" in parts.netloc:
        raise ValueError("a user name has no place in it")
    host = parse_host(parts.hostname, "its host")
    port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    # Frameworks hand on the decoded path: %2F and "/" are one there.
    path = quote_from_bytes(unquote_to_bytes(parts.path or "/"), safe="/")
    query = "&".join(name + equals + value for name, equals, value in _parameters(parts.query))
    return f"//{f'[{host}]' if ':' in host else host}{port}{path}" + (f"?{query}" if query else "")


def _parameters(query: str) -> Iterator[tuple[str, str, str]]:
    """(name, "=" or "", value) of each parameter, encoded in the one way; "+" is a space, as in forms."""
    for piece in query.split("&") if query else ():
        name, equals, value = piece.partition("=")
        yield _encoded(name), equals, _encoded(value, safe="=")


def _encoded(text: str, safe: str = "") -> str:
    return quote_from_bytes(unquote_to_bytes(text.replace("+", " ")), safe=safe)


def _taken_apart(url: str) -> tuple[str, str]:
    """The URL as it was before it was signed, and its signature. raises  ValueError  if it has none, or several"""
    before, _, query = url.partition("#")[0].partition("?")
    found = list(_signature(query))
    if len(found) != 1:
        raise ValueError("one signature is expected")
    start, end = found[0].span()
    query = query[: start - 1] + query[end:] if start else query[end + 1 :]
    return (f"{before}?{query}" if query else before), found[0][1]


def _moved(url: str, origin: str) -> str:
    """The URL at another origin."""
    origin = origin.removesuffix("/")
    if not _origin(origin):
        raise ConfigError(f"origin is {quoted(origin)}, expected something like https://example.com")
    found = _up_to_path(url)
    path = url[found.end() :] if found else url
    return origin + path if path.startswith("/") else f"{origin}/{path}"


def _multipart_value(body: bytes, content_type: str) -> bytes | None:
    """The value of the field List-Unsubscribe (RFC 7578 section 4)."""
    boundary = _boundary(content_type)
    if boundary is None:
        return None
    for part in body.split(b"--" + (boundary[1] or boundary[2]).encode()):
        head, _, value = part.replace(b"\r\n", b"\n").partition(b"\n\n")
        if _named(head):
            return value.strip()
    return None
