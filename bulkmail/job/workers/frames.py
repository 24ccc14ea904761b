"""What a run and its workers say to each other, over a pair of sockets that no other process holds.

A frame is its length, then a tuple that begins with a word, pickled: both ends are the same program, and a parent has
made both. What is no such frame ends the line.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any, Final

LENGTH: Final = struct.Struct("<Q")
# The first frame holds a message's manifest with all that is attached to it; a commit has some 100 KB.
MAX_FRAME: Final = 1 << 32

Frame = tuple[Any, ...]


class Line(asyncio.Protocol):
    """on_frame: called with each frame; on_end: once, when the line is gone. Errors of either are the loop's."""

    def __init__(self, on_frame: Callable[[Frame], None], on_end: Callable[[], None]) -> None:
        self._on_frame, self._on_end = on_frame, on_end
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are none of asyncio's classes

    def send(self, *frame: Any) -> None:
        """A line that is gone says nothing: on_end has told."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(packed(frame))

    def data_received(self, data: bytes) -> None:
        got = self._got
        got += data
        at = 0
        while len(got) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(got, at)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes, expected at most {MAX_FRAME}")
            end = at + LENGTH.size + length
            if len(got) < end:
                break
            frame = pickle.loads(memoryview(got)[at + LENGTH.size : end])
            at = end
            if type(frame) is not tuple or not frame or type(frame[0]) is not str:
                raise ValueError("a frame that is no tuple with a word")
            self._on_frame(frame)
        del got[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self._on_end()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def packed(frame: Frame) -> tuple[bytes, bytes]:
    data = pickle.dumps(frame, protocol=5)
    return LENGTH.pack(len(data)), data
