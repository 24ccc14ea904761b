"""Bytes to and from a proxy before the tunnel stands. Reads exactly what belongs to the proxy's answer.

An SMTP server speaks first, so that its greeting may be in the same segment as the end of the proxy's answer. A byte of
it read here would be lost.
"""

from __future__ import annotations

import re
import ssl

from bulkmail.errors import ProxyError
from bulkmail.net.line import Line
from bulkmail.net.tls import words_of
from bulkmail.proxyurl import ProxyUrl

_blank_line = re.compile(rb"\r?\n\r?\n").search


class TargetRefused(ProxyError):
    """The proxy works and says that it cannot reach this target."""


class Channel:
    """The line to a proxy during the handshake.

    Owns      nothing: the line is the caller's.
    Promises  leaves every byte after the answer in the line.
    Errors    ProxyError for a reset, an end of stream or a bound passed, naming the proxy and `step`.
    """

    def __init__(self, proxy: ProxyUrl, line: Line) -> None:
        self.proxy = proxy
        self.step = "starting"  # what is being done, in words for errors
        self._line = line

    async def write(self, data: bytes) -> None:
        try:
            await self._line.send(data)
        except OSError as error:
            raise self._lost(error) from error

    async def read_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += await self._receive(count - len(data))
        return bytes(data)

    async def read_head(self, start: bytes, limit: int) -> bytes:
        """Up to and with the first blank line: the head of an HTTP response.

        A lone LF ends a line too (RFC 9112 section 2.2).

        start   what it must begin with; a server of another protocol is refused at once, it may never send a blank line
        limit   bytes
        """
        head = bytearray()
        while True:
            searched = max(0, len(head) - 3)
            head += await self._receive(1)  # waits; while no blank line was seen, this byte is the head's
            seen = bytes(head) + self._peek(limit)
            if not seen.startswith(start[: len(seen)]):
                raise self.error(f"it does not speak HTTP, it said {seen[:40]!a}")
            blank = _blank_line(seen, searched)
            end = blank.end() if blank else len(seen)
            head += self._line.take(end - len(head))
            if blank and len(head) == end:
                return bytes(head)
            if len(head) > limit:
                raise self.error(f"its answer has more than {limit} bytes of headers")

    def error(self, reason: str, reply_code: int | None = None, kind: type[ProxyError] = ProxyError) -> ProxyError:
        return kind(f"proxy {self.proxy}: {self.step}: {reason}", proxy=str(self.proxy), reply_code=reply_code)

    async def _receive(self, count: int) -> bytes:
        try:
            data = await self._line.receive(count)
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self.error("it closed the connection")
        return data

    def _peek(self, count: int) -> bytes:
        try:
            return self._line.peek(count)
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> ProxyError:
        words = words_of(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
        return self.error(f"the connection to it was lost: {words}")
