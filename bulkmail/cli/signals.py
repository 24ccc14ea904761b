"""What SIGINT and SIGTERM do to a running job: the first stops it in good order, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

STOPPED = 3  # exit status of a job that was stopped before its end

# A closed terminal (SIGHUP) stops in good order too, unless nohup or the like has it ignored.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stoppable(Protocol):
    def stop(self) -> None: ...


class StopOnSignal:
    """A context in which signals stop `job`.

    job        what to stop; None before there is one: a signal then raises KeyboardInterrupt
    on_leave   called in turn before the process leaves at the second signal; must not wait for locks
    """

    def __init__(self) -> None:
        self.job: Stoppable | None = None
        self.on_leave: list[Callable[[], object]] = []
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self.job is None:
            raise KeyboardInterrupt
        if self._count > 1:
            self._leave()
        _write_stderr(b"bulkmail: stopping when what is in flight is settled; once more leaves at once\n")
        self.job.stop()

    def _leave(self) -> None:
        for call in self.on_leave:
            with contextlib.suppress(Exception):
                call()
        os._exit(STOPPED)


def _write_stderr(text: bytes) -> None:
    # Straight to the descriptor: the handler may have interrupted a write to sys.stderr, which cannot be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, text)
