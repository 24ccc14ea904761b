"""The newest messages, in memory: what a page shows where nothing is stored."""

from __future__ import annotations

from bulkmail.sink import store
from bulkmail.sink.session import Message


class Recent(store.Kept):
    """A list in which the oldest messages make room: who looks at a page waits for what comes now."""

    def begin(self, message: Message) -> store.Incoming:
        return RecentIncoming(self, message)

    def make_room(self, size: int) -> None:
        """For so many bytes more, if that can be."""
        if len(self.messages) < self.listed:
            self.recount()
        count = freed = 0
        while count < len(self.messages) and self.bytes - freed + size > store.MAX_KEPT_BYTES:
            freed += len(self.messages[count].content)
            count += 1
        self._drop(count, freed)

    def make_place(self) -> None:
        """For one message more."""
        count = max(len(self.messages) - store.MAX_KEPT_MESSAGES + 1, 0)
        self._drop(count, sum(len(message.content) for message in self.messages[:count]))

    def _drop(self, count: int, size: int) -> None:
        if count:
            del self.messages[:count]
            self.listed -= count
            self.listed_bytes -= size
            self.bytes -= size


class RecentIncoming(store.KeptIncoming):
    _store: Recent

    def write(self, chunk: bytes) -> None:
        if not self._full:
            self._store.make_room(len(chunk))
        super().write(chunk)

    def commit(self) -> None:
        if not self._full:
            self._store.make_place()
        super().commit()
