"""Access tokens by a refresh grant (option `oauth2`; RFC 6749 section 6)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from bulkmail.errors import AuthError
from bulkmail.loginoptions import OAuth2
from bulkmail.smtp.auth.mechanism import readable
from bulkmail.smtp.wirelog import redacted

MAX_ANSWER = 65536  # bytes: the largest answers, with an id token, have a tenth
SOCKET_SECONDS = 30.0  # to connect, and for each piece; the whole has the deadline of the TokenSource
MAX_LIFE = 10 * 365 * 86400.0  # seconds: a token that is good for longer is good for ever


KEPT = 64  # replaced refresh tokens, the latest ones: a process has a few relays

# Where a server replaces the refresh token (RFC 6749 section 6), the configured one may be worth nothing from then on,
# for every Mailer and Connection of this process. Kept in memory, not stored.
_replaced: dict[OAuth2, str] = {}


class RefreshGrant:
    """The access tokens that one refresh token gets."""

    renewable, caches = True, False

    def __init__(self, settings: OAuth2) -> None:
        self._settings = settings
        self.name = f"the token endpoint {urlsplit(settings.token_url).netloc}"

    async def fetch(self, renew: bool) -> tuple[str, float | None]:
        request = _Request(self._settings.token_url, self._form())
        try:
            status, body = await asyncio.get_running_loop().run_in_executor(None, request.run)
        except (OSError, HTTPException, ValueError) as error:
            # without its cause: what urllib says of a request may hold the request
            raise AuthError(f"{self.name} cannot be asked: {_reason(error)}") from None
        finally:
            request.end()
        if len(body) > MAX_ANSWER:
            raise AuthError(f"{self.name} answered with more than {MAX_ANSWER} bytes", permanent=True)
        answer = _object(body)
        if status != 200:
            raise self._refusal(status, answer)
        return self._token(answer)

    def _form(self) -> bytes:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret,
            "refresh_token": _replaced.get(self._settings, self._settings.refresh_token),
            "scope": self._settings.scope,
        }
        return urlencode({name: value for name, value in form.items() if value is not None}).encode()

    def _refusal(self, status: int, answer: dict[str, Any]) -> AuthError:
        """RFC 6749 section 5.2. Only a 400 or 401 is about the grant; the rest may pass."""
        words = [str(answer[name]) for name in ("error", "error_description") if answer.get(name)]
        newest = _replaced.pop(self._settings, "") if status in (400, 401) else _replaced.get(self._settings, "")
        secrets = (newest, self._settings.client_secret or "", self._settings.refresh_token)
        said = redacted(": ".join(words) or f"HTTP status {status}", secrets)
        return AuthError(f"{self.name} refused to renew the token: {readable(said)}", permanent=status in (400, 401))

    def _token(self, answer: dict[str, Any]) -> tuple[str, float | None]:
        token, renewed = answer.get("access_token"), answer.get("refresh_token")
        if not isinstance(token, str):
            raise AuthError(f"{self.name} answered without an access_token")
        if isinstance(renewed, str) and renewed:
            _replaced.pop(self._settings, None)
            _replaced[self._settings] = renewed
            if len(_replaced) > KEPT:
                del _replaced[next(iter(_replaced))]
        return token, _seconds(answer.get("expires_in"))


def _seconds(value: Any) -> float | None:
    """expires_in: a number, which some send as text."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < MAX_LIFE else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    if isinstance(inner, OSError):
        return readable(inner.strerror or str(inner) or type(inner).__name__)
    return type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the secrets elsewhere."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Request:
    """One POST, in a thread. end(), from the loop, hangs up: the thread of a request that nobody awaits ends soon."""

    def __init__(self, url: str, form: bytes) -> None:
        self._url, self._form = url, form
        self._sock: socket.socket | None = None
        self._ended = False

    def run(self) -> tuple[int, bytes]:
        """The status and the body, of which not much more than MAX_ANSWER bytes are read."""
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        request = urllib.request.Request(self._url, self._form, headers)
        try:
            response = self._opener().open(request, timeout=SOCKET_SECONDS)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.read(MAX_ANSWER + 1)

    def _opener(self) -> urllib.request.OpenerDirector:
        if self._url.startswith("https:"):
            return urllib.request.build_opener(_NoRedirect, _Https(self))
        # in clear, and so on this machine: no proxy of the environment gets to see it
        return urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}), _Http(self))

    def connected(self, sock: socket.socket) -> None:
        self._sock = sock
        if self._ended:
            self.end()

    def end(self) -> None:
        self._ended = True
        if self._sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # of TCP: a goodbye of TLS would wait


class _Http(urllib.request.HTTPHandler):
    def __init__(self, owner: _Request) -> None:
        super().__init__()
        self._owner = owner

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        owner = self._owner

        class Connection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                owner.connected(self.sock)

        return self.do_open(Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, owner: _Request) -> None:
        super().__init__()
        self._owner = owner

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        owner = self._owner

        class Connection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                owner.connected(self.sock)

        return self.do_open(Connection, req, context=ssl.create_default_context())
