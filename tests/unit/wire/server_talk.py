"""A talk with the server's codec, without sockets: what is said, what is answered, what happened."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ServerCounts, ServerSettings

HELLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
OPEN = HELLO + MAIL + RCPT + b"DATA\r\n"
LOGIN = ("user", "pass word")


def b64(text: bytes) -> bytes:
    return b64encode(text)


class Talk:
    """A codec that has greeted; `say` feeds it, answers yes to what it asks, and notes events and replies."""

    def __init__(self, secure: bool = False, local: bool = False, **settings: Any) -> None:
        self.counts = ServerCounts()
        self.codec = ServerCodec(ServerSettings("mx.test", **settings), self.counts, secure=secure, local=local)
        self.codec.start("id")
        self.greeting = self.codec.output()
        self.events: list[tuple[Any, ...]] = []
        self.replies = b""

    def say(self, data: bytes) -> bytes:
        """The replies to `data`."""
        self.note(self.codec.feed(data))
        while self.codec.asking:
            self.note(self.codec.accept())
        replies = self.codec.output()
        self.replies += replies
        return replies

    def note(self, events: Any) -> None:
        for event in events:
            if event[0] == "content" and self.events and self.events[-1][0] == "content":
                self.events[-1] = ("content", self.events[-1][1] + event[1])
            else:
                self.events.append(event)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] == kind]

    def settled(self) -> tuple[Any, ...]:
        """All that must not depend on the cuts. Of refused messages the content may, and of one without an end, which
        may be refused yet."""
        events: list[tuple[Any, ...]] = []
        for event in self.events:
            if event[0] == "abort" and events[-1][0] == "content":
                events.pop()
            events.append(event)
        if events and events[-1][0] == "content":
            events.pop()
        return events, self.replies, self.counts.as_dict(), self.codec.closed, self.codec.user, self.codec.helo


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines() if line[3:4] != b"-"]
