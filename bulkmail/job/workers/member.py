"""One worker, as the run sees it: its process, the line to it, and what it has in hand."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from bulkmail.job.ledger import Chunk, is_done
from bulkmail.job.workers.frames import Frame, Line
from bulkmail.job.workers.remote import Figures

PROGRAM: Final = "bulkmail.job.workers.worker"
END_SECONDS: Final = 10.0  # a process whose line was closed is killed after that


class Member:
    """index   its number from 0
    held       chunks that it has leased, by number; figures: its last ones
    idle       it has nothing to do, and knew of all that there was: looks is how often it was told of more
    living     its line stands, and it has not said that it is done
    """

    def __init__(self, index: int, on_frame: Callable[[Member, Frame], None], on_end: Callable[[Member], None]) -> None:
        self.index = index
        self.held: dict[int, Chunk] = {}
        self.figures = Figures()
        self.limited_by: dict[str, Any] | None = None
        self.looks = 0
        self.idle = False
        self.living = True
        self._line = Line(lambda frame: on_frame(self, frame), lambda: on_end(self))
        self._process: subprocess.Popen[bytes] | None = None
        self._unsaid: list[Frame] | None = []  # until it has begun

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> socket.socket:
        """Start the process; our end of its line. raises  OSError

        On the thread that runs the job: on Linux the process ends with the thread that started it.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                # A session of its own: Ctrl-C at the terminal is for the run.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", PROGRAM],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        return ours

    async def begin(self, ours: socket.socket, setup: object) -> None:
        """Say what it begins with, then what there was to say meanwhile."""
        await asyncio.get_running_loop().create_connection(lambda: self._line, sock=ours)
        self._line.send("begin", setup)
        unsaid, self._unsaid = self._unsaid or [], None
        for frame in unsaid:
            self._line.send(*frame)

    def send(self, *frame: Any) -> None:
        if self._unsaid is None:
            self._line.send(*frame)
        else:
            self._unsaid.append(frame)

    def look(self, routes: list[str]) -> None:
        """There may be more for it."""
        self.idle = False
        self.looks += 1
        self.send("look", self.looks, routes)

    def leased(self, chunks: list[Chunk]) -> None:
        if chunks:
            self.idle = False
            self.held.update((chunk.no, chunk) for chunk in chunks)

    def advanced(self, rows: list[tuple[int, int, int, bytes]]) -> None:
        """Of a commit."""
        for no, _, _, outcome in rows:
            if is_done(outcome):
                self.held.pop(no, None)

    def hang_up(self) -> None:
        self._line.abort()

    def reap(self) -> int | None:
        """Wait for the process, whose line is closed; its exit status. Blocks."""
        if self._process is None:
            return None
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
