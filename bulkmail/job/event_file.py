"""Events in a file: each a JSON line, written while the job runs (`send --events`, and `events` of the manifest)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import orjson

FLUSH_SECONDS = 0.05  # `tail -f` sees an event at most this much later
MAX_WAITING = 8 << 20  # bytes: some 30,000 events; beyond, the job waits for a reader that is slower than the mail
PATIENCE_ON_LEAVING = 0.5  # seconds that a second signal waits for the last lines; the user wants to be out


class EventWriter:
    """Writes events to a file or standard output from a thread of its own.

    `put` costs an encoding and an append. The thread takes what is waiting every FLUSH_SECONDS and writes it at once.
    Lines are handed over without locks, since a signal handler calls `leave` in the midst of a `put`.

    A file is appended to, so that the events of a run and of its `--resume` stand in one; a line that a crash cut short
    is ended first. If writing fails (disk full, reader gone) the job goes on without events: `error` has the reason.
    """

    def __init__(self, target: str, stdout_fd: int = 1) -> None:
        """`target`: a path, or "-" for `stdout_fd`. Raises OSError if the path cannot be opened."""
        self.error: OSError | None = None
        self._fd = stdout_fd if target == "-" else open_for_append(Path(target))
        self._owned = target != "-"
        self._lines: deque[bytes] = deque()
        self._put = 0  # bytes handed over, counted by the job's thread only
        self._taken = 0  # bytes written or dropped, counted by the writer's thread only
        self._closing = False
        self._done = False
        self._thread = threading.Thread(target=self._write_on, name="bulkmail-events", daemon=True)
        self._thread.start()

    def put(self, event: dict[str, Any]) -> None:
        line = encode(event)
        self._put += len(line)
        self._lines.append(line)
        while self._put - self._taken > MAX_WAITING and not self._closing:
            time.sleep(FLUSH_SECONDS / 10)

    def close(self) -> None:
        """Write what is waiting, then close the file."""
        self._closing = True
        self._thread.join()
        if self._owned:
            os.close(self._fd)

    def leave(self) -> None:
        """From a signal handler, before os._exit: give the last lines a moment to go out."""
        self._closing = True
        deadline = time.monotonic() + PATIENCE_ON_LEAVING
        while not self._done and time.monotonic() < deadline:
            time.sleep(0.01)

    def _write_on(self) -> None:
        while not self._closing:
            self._write_waiting()
            time.sleep(FLUSH_SECONDS)
        self._write_waiting()
        self._done = True

    def _write_waiting(self) -> None:
        block = b"".join([self._lines.popleft() for _ in range(len(self._lines))])
        try:
            if block and self.error is None:
                write_all(self._fd, block)
        except OSError as error:
            self.error = error
        self._taken += len(block)


def encode(event: dict[str, Any]) -> bytes:
    """One line of JSON with its newline."""
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate, which orjson refuses and json escapes
        return json.dumps(event, default=str).encode() + b"\n"


def write_all(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


def open_for_append(path: Path) -> int:
    """A descriptor at the end of `path`, at the start of a line. Pipes and devices are opened as they are."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                os.write(fd, b"\n")
    return fd
