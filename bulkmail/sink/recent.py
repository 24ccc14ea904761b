"""The newest messages, in memory: what a page shows where nothing is stored."""

from __future__ import annotations

from bulkmail.sink import store
from bulkmail.sink.session import Message


class Recent(store.Kept):
    """A list in which the oldest messages make room: who looks at a page waits for what comes now.

    It may be changed at any time; it is then counted anew, here and not in `bytes`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._coming = 0  # bytes of messages that are under way
        self._listed, self._counted = 0, 0  # bytes of the list, when it had so many messages

    def begin(self, message: Message) -> RecentIncoming:
        return RecentIncoming(self, message)

    def make_room(self, size: int) -> bool:
        """For that many bytes more, which are then under way; whether there is room for them."""
        self._coming += size
        self._count()
        drop = 0
        while self._listed + self._coming > store.MAX_KEPT_BYTES and drop < len(self.messages):
            self._listed -= len(self.messages[drop].content)
            drop += 1
        self._drop(drop)
        return self._listed + self._coming <= store.MAX_KEPT_BYTES

    def give_back(self, size: int) -> None:
        self._coming -= size

    def add(self, message: Message) -> None:
        self._count()
        self._coming -= len(message.content)
        self._listed += len(message.content)
        self.messages.append(message)
        self._counted = len(self.messages)
        if self._counted > store.MAX_KEPT_MESSAGES:
            self._listed -= len(self.messages[0].content)
            self._drop(1)

    def _drop(self, count: int) -> None:
        if count:
            del self.messages[:count]
            self._counted = len(self.messages)

    def _count(self) -> None:
        if len(self.messages) != self._counted:
            self._counted = len(self.messages)
            self._listed = sum(len(message.content) for message in self.messages)


class RecentIncoming:
    def __init__(self, recent: Recent, message: Message) -> None:
        self._recent, self._message = recent, message
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._full = False

    def write(self, chunk: bytes) -> None:
        if self._full:
            return
        self._bytes += len(chunk)
        self._chunks.append(chunk)
        if not self._recent.make_room(len(chunk)):  # what is under way alone fills it
            self.abandon()
            self._full = True

    def commit(self) -> None:
        if self._full:
            raise store.NotStored(452, "Too many messages in memory", "4.3.1")
        self._message.content = b"".join(self._chunks)
        self._recent.add(self._message)

    def abandon(self) -> None:
        self._recent.give_back(self._bytes)
        self._bytes = 0
        self._chunks.clear()
