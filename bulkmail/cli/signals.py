"""What signals do to a running job.

SIGINT, SIGTERM   the first stops it in good order, the second leaves at once
SIGHUP            the terminal was closed: as SIGTERM. Otherwise, as daemons have it: limits are read again from the
                  manifest. Where it is ignored (nohup) it stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

STOPPED = 3  # exit status of a job that was stopped before its end

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
        self._terminal = False  # it was begun on one

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._terminal = has_terminal()
            for number in SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None) and not self._hung_up():
            self._reload()
            return
        self._count += 1
        if self.job is None:
            raise KeyboardInterrupt
        if self._count > 1:
            self._leave()
        _write_stderr(b"bulkmail: stopping when what is in flight is settled; once more leaves at once\n")
        self.job.stop()

    def _hung_up(self) -> bool:
        """The terminal that it was begun on is gone: it is taken away before the signal is sent."""
        return self._terminal and not has_terminal()

    def _reload(self) -> None:
        reload = getattr(self.job, "reload", None)  # a load run has no limits to read
        if reload is not None:
            reload()

    def _leave(self) -> None:
        for call in self.on_leave:
            with contextlib.suppress(Exception):
                call()
        os._exit(STOPPED)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal: a hang-up takes it away."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0))
    except OSError:
        return False
    try:
        os.tcgetpgrp(terminal)
    except OSError:
        return False
    finally:
        os.close(terminal)
    return True


def _write_stderr(text: bytes) -> None:
    # Straight to the descriptor: the handler may have interrupted a write to sys.stderr, which cannot be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, text)
