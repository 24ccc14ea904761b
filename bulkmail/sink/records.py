"""What the log tells of a connection, where it is listened to: made for those that begin at level INFO or lower.

INFO   connected, logged in, a message that was taken, what was refused, disconnected
DEBUG  the name it gives, TLS, each recipient
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from bulkmail.sink import options

if TYPE_CHECKING:
    from bulkmail.sink.connection import Connection
    from bulkmail.wire.server import Event

# Of what a client says, in one record; an address has 256 at most.
MAX_SHOWN = 256
# A client that does nothing but what is refused shall not fill a disk: what is more is in the last record's count.
MAX_REFUSALS = 100


def shown(text: str) -> str:
    """A client's words on one line that it cannot shape: what is not printable is written as in Python, as is "\\"."""
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + "…"
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


class Records:
    """Of one connection. It is told of events, and of what is said to the client; the rest it sees in the codec."""

    def __init__(self, connection: Connection) -> None:
        self._note, self._codec = connection.note, connection.codec
        self._session = session = connection.session
        self._began = asyncio.get_running_loop().time()
        self._helo: str | None = None
        self._user: str | None = None
        self._secure = self._codec.secure
        self._sender, self._recipients, self._number = "", 0, 0
        self._ended: list[tuple[int, str, int, int]] = []  # not yet known to be taken
        self._messages = self._refused = self._bytes = 0
        through = f" through {session.proxy_address}" if session.proxy_address is not None else ""
        tls = f", {session.tls}" if session.tls is not None else ""
        self._note(
            logging.INFO,
            "connected from %s to %s%s%s",
            options.shown(session.remote_address, session.remote_port),
            options.shown(session.local_address, session.local_port),
            through,
            tls,
        )

    def event(self, event: Event) -> None:
        kind = event[0]
        if kind == "mail":
            self._tell_taken()
            self._ended.clear()  # what was not taken by now was refused
            self._sender, self._recipients = event[1], 0
        elif kind == "rcpt":
            self._recipients += 1
            self._note(logging.DEBUG, "recipient <%s>", shown(event[1]))
        elif kind == "data":
            self._number += 1
        elif kind == "end":
            self._ended.append((self._number, self._sender, self._recipients, event[1]))

    def said(self, replies: bytes) -> None:
        """What is sent to the client now."""
        for line in replies.splitlines():
            if line[:1] in (b"4", b"5"):
                self._refused += 1
                if self._refused <= MAX_REFUSALS:
                    self._note(logging.INFO, "refused: %s", shown(line.decode("utf-8", "replace")))
        self._look()
        self._tell_taken()

    def _look(self) -> None:
        codec = self._codec
        if codec.secure != self._secure:
            self._secure, self._helo, self._user = codec.secure, None, None
            self._note(logging.DEBUG, "TLS has begun: %s", self._session.tls)
        if codec.helo != self._helo:
            self._helo = codec.helo
            self._note(logging.DEBUG, "calls itself %s", shown(self._helo or ""))
        if codec.user != self._user:
            self._user = codec.user
            self._note(logging.INFO, "logged in as %s", shown(self._user or ""))

    def _tell_taken(self) -> None:
        """The codec has counted them: of those that ended here the first, since it waits for the verdict on each, or
        for none."""
        taken = self._ended[: self._codec.messages - self._messages]
        for number, sender, recipients, size in taken:
            self._bytes += size
            many = "s" if recipients != 1 else ""
            self._note(
                logging.INFO,
                "message %s.%d from <%s> to %d recipient%s taken, %d bytes",
                *(self._session.id, number, shown(sender), recipients, many, size),
            )
        self._messages += len(taken)
        del self._ended[: len(taken)]

    def end(self) -> None:
        self._tell_taken()
        seconds = asyncio.get_running_loop().time() - self._began
        counts = self._codec.messages, self._bytes, self._refused
        self._note(logging.INFO, "disconnected after %.1f seconds: messages %d, bytes %d, refused %d", seconds, *counts)
