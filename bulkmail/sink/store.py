"""What a store is, the bounded list that servers in tests have, and what messages in memory may take.

A store makes an `Incoming` when a message begins; that takes the content piece by piece and ends with commit() or
abandon(). Only when commit() is done is the message told to have been taken.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Protocol

from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Message

# Of the list of a server in a test's process. Past them a message is refused: one that vanished would be a riddle.
MAX_KEPT_MESSAGES = 100_000
# Of all messages that a store has in memory, those of the list included. Without it, 20,000 clients that each begin a
# message of 64 MiB would take 1.2 TiB.
MAX_KEPT_BYTES = 256 * 1024 * 1024
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NotStored(Refuse):
    """A message could not be kept through no fault of the client's; `__cause__` says why. It is logged."""


class Incoming(Protocol):
    def write(self, chunk: bytes) -> None:
        """Never raises: what goes wrong is said by commit()."""

    def commit(self) -> Awaitable[None] | None:
        """None: the message is kept. Else what to wait for until it is, even if the client has gone.

        Either raises Refuse when the message is not kept; nothing of it is left then.
        """

    def abandon(self) -> None: ...


class Store(Protocol):
    def begin(self, message: Message) -> Incoming: ...

    def close(self) -> None:
        """Nothing comes in any more, and nobody waits for a commit()."""


def not_stored(error: OSError) -> NotStored:
    """What an error of the disk means to a client (RFC 5321 section 4.2.3; RFC 3463): raise it from that error."""
    if error.errno in FULL:
        return NotStored(452, "Insufficient system storage", "4.3.1")
    return NotStored(451, "The message cannot be stored", "4.3.0")


class InMemory:
    """A store that has messages in memory, at least while they come in."""

    def __init__(self) -> None:
        self.bytes = 0


class HeldIncoming:
    """A message that comes in, held in memory."""

    def __init__(self, store: InMemory, message: Message) -> None:
        self._store, self.message = store, message
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._full = False

    def write(self, chunk: bytes) -> None:
        if self._full or self._store.bytes + len(chunk) > MAX_KEPT_BYTES:
            self._full = True
            return
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._store.bytes += len(chunk)

    def content(self) -> bytes:
        """All of it, once; it still counts as held. NotStored if there was no room for it."""
        if self._full:
            self.abandon()
            raise NotStored(452, "Too many messages in memory", "4.3.1")
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)

    def abandon(self) -> None:
        """It is not held any more."""
        self._store.bytes -= self._bytes
        self._bytes = 0
        self._chunks.clear()


class Kept(InMemory):
    """Keeps messages in a list; `changed` is called when there is one more."""

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.changed = changed
        self.messages: list[Message] = []
        self.listed = self.listed_bytes = 0  # what was put into the list, and not seen to have gone

    def begin(self, message: Message) -> Incoming:
        if len(self.messages) < self.listed:
            self.recount()
        return KeptIncoming(self, message)

    def recount(self) -> None:
        """Whose list it is has taken messages out."""
        size = sum(len(message.content) for message in self.messages)
        self.bytes -= self.listed_bytes - size
        self.listed, self.listed_bytes = len(self.messages), size

    def close(self) -> None:
        pass


class KeptIncoming(HeldIncoming):
    _store: Kept

    def commit(self) -> None:
        messages = self._store.messages
        if self._full or len(messages) >= MAX_KEPT_MESSAGES:
            self.abandon()
            raise NotStored(452, "The list of kept messages is full; store or discard them", "4.3.1")
        self.message.content = self.content()
        messages.append(self.message)
        self._store.listed += 1
        self._store.listed_bytes += self._bytes
        if self._store.changed is not None:
            self._store.changed()
