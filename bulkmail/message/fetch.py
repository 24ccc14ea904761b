"""What a URL stands for: http and https by the standard library, data: (RFC 2397). For callers that allowed it.

Owns      a thread per fetch, so that a server that drips bytes, and a name that does not resolve, end in time too.
Promises  at most MAX_FETCH bytes and FETCH_SECONDS; redirects to http and https only, and never from https to http; no
          proxy, cookie or password but what the URL itself says.
Errors    MessageError with the URL, without its password and query, which may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import socket
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Thread
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urljoin, urlsplit

from bulkmail.address import ascii_domain
from bulkmail.errors import MessageError

MAX_FETCH = 1 << 26  # bytes: more than the mailboxes of the big receivers take
FETCH_SECONDS = 60.0  # with name look-up, redirects and all
MAX_REDIRECTS = 5
_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):").match
_unfit = re.compile(r"[\x00-\x20\x7f]").search
_data_url = re.compile(r"data:([^,]*),(.*)", re.IGNORECASE | re.DOTALL).fullmatch


@dataclass(frozen=True, slots=True)
class Fetched:
    """type: as the other side states it, None where it does not; name: the last part of the URL's path, maybe none."""

    data: bytes
    type: str | None
    name: str | None


def fetch(url: str, what: str) -> Fetched:
    """raises  MessageError  naming `what` and the URL"""
    found = _scheme(url)
    scheme = found[1].lower() if found else ""
    if scheme == "data":
        return _from_data(url, what)
    if scheme not in ("http", "https"):
        raise MessageError(f"{what}: {masked(url)!r}, expected a url that begins with https://, http:// or data:")
    work = _Work(url)
    thread = Thread(target=work.run, name="bulkmail fetch", daemon=True)
    thread.start()
    thread.join(FETCH_SECONDS)
    if thread.is_alive():
        work.abandon()
        raise MessageError(f"{what}: {masked(url)} did not come within {FETCH_SECONDS:g} seconds")
    if isinstance(work.outcome, Fetched):
        return work.outcome
    raise MessageError(f"{what}: {masked(url)} cannot be fetched: {work.outcome}")


def masked(url: str) -> str:
    """A URL for an error: no user, no query, no fragment; of data: only the beginning."""
    if url[:5].lower() == "data:":
        return url[:40] + ("…" if len(url) > 40 else "")
    head, _, query = url.partition("#")[0].partition("?")
    head = re.sub(r"//[^/]*@", "//***@", head)
    return head + ("?…" if query else "")


def _from_data(url: str, what: str) -> Fetched:
    found = _data_url(url)
    if found is None:
        raise MessageError(f"{what}: {masked(url)!r} has no comma, expected data:TYPE;base64,CONTENT")
    kind, content = found[1], found[2]
    stated = kind.lower().removesuffix(";base64").rstrip()
    data = unquote_to_bytes(content)
    if kind.lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MessageError(f"{what}: {masked(url)!r} is not base64: {error}") from None
    return Fetched(data, stated if "/" in stated else "text/plain", None)


class _Refused(Exception):
    """Why a fetch came to nothing, as the end of a sentence."""


class _Work:
    """One fetch. `outcome`: what was fetched, or why not."""

    def __init__(self, url: str) -> None:
        self.outcome: Fetched | str = "it was not tried"
        self._url = url
        self._deadline = time.monotonic() + FETCH_SECONDS
        self._connection: HTTPConnection | None = None

    def run(self) -> None:
        try:
            self.outcome = self._fetch()
        except _Refused as error:
            self.outcome = str(error)
        except (OSError, HTTPException, ValueError) as error:
            # The text of some of them holds what the server said or the URL itself: only the kind is told.
            self.outcome = _reason(error)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Whatever is waited for ends."""
        connection = self._connection
        if connection is None:
            return
        if isinstance(connection.sock, socket.socket):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _fetch(self) -> Fetched:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            response = self._ask(parts)
            if response.status not in _REDIRECTS:
                return self._taken(response, parts)
            url = _next(url, response.getheader("Location"))
            self.abandon()
        raise _Refused(f"it was redirected more than {MAX_REDIRECTS} times")

    def _ask(self, parts: SplitResult) -> HTTPResponse:
        host = parts.hostname
        if not host or _unfit(self._url):
            raise _Refused("it is no legal URL")
        kind = HTTPSConnection if parts.scheme.lower() == "https" else HTTPConnection
        name = host if ":" in host else ascii_domain(host)
        connection = kind(name, parts.port, timeout=max(self._deadline - time.monotonic(), 0.001))
        self._connection = connection
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
        )
        headers = {"User-Agent": "bulkmail", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def _taken(self, response: HTTPResponse, parts: SplitResult) -> Fetched:
        if response.status != 200:
            raise _Refused(f"the server answered with status {response.status}")
        if response.getheader("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            raise _Refused("the server compressed it, which was not asked for")
        data = bytearray()
        while block := response.read(_BLOCK):
            data += block
            if len(data) > MAX_FETCH:
                raise _Refused(f"it has more than {MAX_FETCH} bytes")
        stated = response.getheader("Content-Length", "")
        if stated.isdecimal() and int(stated) != len(data):
            raise _Refused(f"the connection ended after {len(data)} of {stated} bytes")
        return Fetched(bytes(data), response.getheader("Content-Type"), _file_name(parts.path))


def _next(url: str, location: str | None) -> str:
    if not location:
        raise _Refused("it was redirected to nowhere")
    there = urljoin(url, location)
    scheme, before = urlsplit(there).scheme.lower(), urlsplit(url).scheme.lower()
    if scheme not in ("http", "https") or (before == "https" and scheme == "http"):
        raise _Refused(f"it was redirected from {before} to {scheme or 'nothing'}")
    if _unfit(there):
        raise _Refused("it was redirected to what is no legal URL")
    return there


def _file_name(path: str) -> str | None:
    name = unquote(path.rsplit("/", 1)[-1]).strip()
    return name if name.isprintable() and not any(c in name for c in "/\\") and name else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return {"timeout": "it took too long", "TimeoutError": "it took too long"}.get(
        type(error).__name__, f"the answer is no proper HTTP ({type(error).__name__})"
    )
