"""POST over one connection that is kept open, in a thread, with a deadline for the whole of each request."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from bulkmail.job.specs import WebhookSpec

MAX_ANSWER = 64 << 10  # bytes of an answer that are read, so that its connection can be used again
LONGEST_RETRY_AFTER = 3600.0  # seconds: what a receiver may ask for
DROPPED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True, slots=True)
class Answer:
    """status: 0 where there was none; said: what went wrong, without the URL's path; retry_after: seconds, or None."""

    status: int
    said: str = ""
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Poster:
    """spec: where to. Neither redirects nor proxies: what is sent is about people, and goes where it was meant to."""

    def __init__(self, spec: WebhookSpec) -> None:
        parts = urlsplit(spec.url)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout = spec.timeout
        self._context: ssl.SSLContext | None = None
        self._ca_file = spec.ca_file
        self._connection: http.client.HTTPConnection | None = None
        self.name = f"{parts.scheme}://{parts.netloc}"

    def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Never raises."""
        late = threading.Event()
        timer = threading.Timer(self._timeout, self._break_off, [late])
        timer.daemon = True
        timer.start()
        try:
            return self._post(body, headers)
        except Exception as error:  # of whatever kind: the receiver's doing, or the deadline's
            self.close()
            return Answer(0, f"no answer within {self._timeout:g} s" if late.is_set() else _words(error))
        finally:
            timer.cancel()

    def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        used = self._connection is not None
        try:
            return self._exchange(body, headers)
        except DROPPED:
            if not used:
                raise
            self.close()  # it was idle for longer than the receiver likes
            return self._exchange(body, headers)

    def _exchange(self, body: bytes, headers: dict[str, str]) -> Answer:
        connection = self._connection = self._connection or self._connect()
        connection.request("POST", self._target, body, headers)
        response = connection.getresponse()
        response.read(MAX_ANSWER)
        if not response.isclosed():
            self.close()
        said = "" if 200 <= response.status < 300 else f"HTTP status {response.status}"
        return Answer(response.status, said, _retry_after(response.getheader("Retry-After"), time.time()))

    def _connect(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        self._context = self._context or ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._context)

    def _break_off(self, late: threading.Event) -> None:
        late.set()
        self.abort()

    def abort(self) -> None:
        """From another thread: the request under way fails now."""
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TCP: a goodbye of TLS would wait

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _retry_after(text: str | None, now: float) -> float | None:
    """RFC 9110 section 10.2.3: seconds, or a date."""
    if text is None:
        return None
    try:
        seconds = float(text) if text.strip().isdigit() else email.utils.parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
