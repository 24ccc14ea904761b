"""An event loop whose clock a test turns by hand, and a transport that keeps what is written."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from bulkmail.smtp.session import Session, Turn


class FakeLoop:
    """As much of asyncio's loop as a Session uses. Nothing runs but in run() and pass_seconds()."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
        self._soon.append(lambda: callback(*args))

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._number), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self.call_at(self.now + seconds, callback)

    def run(self) -> None:
        """All that is due now."""
        while self._soon:
            self._soon.popleft()()

    def pass_seconds(self, seconds: float) -> None:
        """Turn the clock, calling what falls due on the way at its time."""
        self.run()
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()
                self.run()
        self.now = end

    def timers(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._timers)


class Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback, self.cancelled = callback, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTransport:
    """`written`: each write as the session made it. `unsent`: what it says that its buffer holds."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> Any:
        return "TLS" if name == "ssl_object" else None  # as if encrypted: then all goes through the transport


COMMAND_TIMEOUT, DATA_TIMEOUT, TURN_DELAY = 30.0, 60.0, 0.005


class Rig:
    """A session that has been greeted and may be given work; `turns`: when its owner was called."""

    def __init__(self, *, pipelining: bool = True, greeted: bool = True, left: int = 1000) -> None:
        self.loop, self.transport = FakeLoop(), FakeTransport()
        self.turns: list[float] = []
        self.turn = Turn(self.loop, self._on_turn, TURN_DELAY)  # type: ignore[arg-type]
        self.session = Session(self.loop, self.turn, COMMAND_TIMEOUT, DATA_TIMEOUT)  # type: ignore[arg-type]
        self.session.connection_made(self.transport)  # type: ignore[arg-type]
        if greeted:
            self.session.greeting(10.0)
            self.say(b"220 hi\r\n")
        self.session.wire.pipelining = pipelining
        self.session.left = left
        self.loop.run()
        self.turns.clear()

    def _on_turn(self) -> None:
        self.turns.append(self.loop.now)

    def say(self, data: bytes) -> None:
        """The server's bytes."""
        self.session.data_received(data)

    def done(self) -> list[Any]:
        return self.turn.take_done()
