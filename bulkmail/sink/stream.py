"""The content of a message while it comes in, for `on_data`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator

# Pieces held for a hook that is slower than its client; a piece is one read, 256 KB at most.
AHEAD = 4


class Stream:
    """An async iterator of bytes: CRLF line ends, dots undone, cut anywhere.

    A sync hook is called when the message is complete and may iterate as usual. Iterating raises MessageRefused when
    the message broke a rule or a limit or was given up, ConnectionLost when it never ended; what came of it is then not
    a message.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = self._unread = False
        self._error: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._next(StopAsyncIteration)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._ended:  # the rest would be missed
            raise RuntimeError("the message is still coming: an async hook iterates with `async for`")
        return self._next(StopIteration)

    def _next(self, end: type[Exception]) -> bytes:
        if self._error is not None:
            raise self._error
        if not self._pieces:
            raise end
        return self._pieces.popleft()

    async def read(self) -> bytes:
        """All of it."""
        return b"".join([piece async for piece in self])

    # --- the connection's side

    def add(self, piece: bytes) -> None:
        if not self._unread:
            self._pieces.append(piece)
            self._changed.set()

    async def drained(self) -> None:
        """Back-pressure: returns when there is room for the next piece, or nobody wants it."""
        while len(self._pieces) >= AHEAD and not self._unread and not self._ended:
            self._room.clear()
            await self._room.wait()

    def end(self, error: Exception | None = None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.set()
            self._room.set()

    def ignore(self) -> None:
        """Nobody reads on: the rest of the message is passed over."""
        self._unread = True
        self._pieces.clear()
        self._room.set()
