"""Batches of events that wait for their receiver: the first in memory, the others in a file beside the journal.

Owns      <journal>.events, from open() to close(); whoever opens it holds the journal's lock.
Promises  batches leave in the order they came; what was not delivered is there for the next run, under the same id.
          A batch may be delivered twice (a run was killed after its answer), never half.
Bounds    MEMORY bytes, then FILE bytes; what comes beyond is dropped, and counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bulkmail.job.event_file import write_all

MEMORY = 8 << 20  # bytes: some 20,000 events, a few seconds' worth of a quick job
FILE = 256 << 20  # bytes: some 600,000 events, at 40 ms a request of 500 sent in a minute
MAX_LINE = 64 << 20  # bytes of one batch in the file; a longer line is none of ours

_head = re.compile(rb"(msg_[0-9a-f]{32}) (\d{1,6}) ").match


@dataclass(frozen=True, slots=True)
class Batch:
    """id: the same however often it is sent; count: events in it; body: JSON without line breaks."""

    id: str
    count: int
    body: bytes

    def line(self) -> bytes:
        return b"%s %d %s\n" % (self.id.encode(), self.count, self.body)


class Outbox:
    """Used by the thread that adds and the one that sends, and closed by a third."""

    def __init__(self, path: Path, *, memory: int = MEMORY, file: int = FILE) -> None:
        self.path, self._memory_bound, self._file_bound = path, memory, file
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._bytes = 0  # of those in memory
        self._fd: int | None = None
        self._read = self._written = 0  # places in the file
        self._spilled = 0  # events in the file that are not read yet
        self._ending = self._closed = False
        self.dropped = 0  # events
        self.error: str | None = None  # of the file

    # -- the file

    def open(self) -> None:
        """Go on with what an earlier run left. A file that cannot be used is an `error`, and then there is none."""
        with self._changed, self._noting():
            fd = _open_private(self.path, os.O_RDWR)
            with open(self.path, "rb") as file:
                self._written, self._spilled = _whole_lines(file)
            os.truncate(fd, self._written)
            self._fd = fd

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """The file's errors are no errors of whoever adds or sends."""
        try:
            yield
        except OSError as error:
            self.error = f"{self.path}: {error.strerror or error}"

    def _spill(self, batch: Batch) -> bool:
        line, written = batch.line(), False
        if self._written + len(line) > self._file_bound and self._read >= self._file_bound // 2:
            self._cut_off_read()
        if self._fd is None or self._written + len(line) > self._file_bound:
            return False
        with self._noting():
            os.lseek(self._fd, self._written, os.SEEK_SET)
            write_all(self._fd, line)
            written = True
        if not written:
            with contextlib.suppress(OSError):  # of a disk that is full: what is half there is no line
                os.truncate(self._fd, self._written)
            return False
        self._written += len(line)
        self._spilled += batch.count
        return True

    def _refill(self) -> None:
        """Read the next of the file into memory."""
        if self._fd is None or self._read == self._written:
            return
        with open(self.path, "rb") as file:
            file.seek(self._read)
            while self._read < self._written and self._bytes < self._memory_bound:
                line = file.readline(MAX_LINE)
                self._read = self._read + len(line) if line.endswith(b"\n") else self._written
                found = _head(line)
                if found is not None:  # else it is damaged
                    self._take(Batch(found[1].decode(), int(found[2]), line[found.end() : -1]))

    def _cut_off_read(self) -> None:
        assert self._fd is not None
        os.close(self._fd)  # Windows replaces no file that is open
        self._fd = None
        with self._noting():
            self._write_anew(())
            self._written, self._read = self._written - self._read, 0
        with self._noting():
            self._fd = _open_private(self.path, os.O_RDWR)

    def _write_anew(self, first: Iterable[Batch]) -> None:
        """The file with these, and then what of it is not read yet."""
        new = self.path.with_name(self.path.name + ".new")
        try:
            with open(_open_private(new, os.O_WRONLY | os.O_TRUNC), "wb") as out, open(self.path, "rb") as old:
                out.writelines(batch.line() for batch in first)
                old.seek(self._read)
                shutil.copyfileobj(old, out, 1 << 20)
            os.replace(new, self.path)
        except OSError:  # of a disk that is full
            new.unlink(missing_ok=True)
            raise

    def _take(self, batch: Batch) -> None:
        self._spilled -= batch.count
        self._batches.append(batch)
        self._bytes += len(batch.body)

    # -- adding

    def add(self, batch: Batch) -> None:
        with self._changed:
            if self._read == self._written and self._bytes + len(batch.body) <= self._memory_bound:
                self._batches.append(batch)
                self._bytes += len(batch.body)
            elif not self._spill(batch):
                self.dropped += batch.count
            self._changed.notify_all()

    # -- sending

    def head(self) -> Batch | None:
        """The next to send; waits for one. None: there is none, and none will come."""
        with self._changed:
            while not self._closed:
                with self._noting():
                    if not self._batches:
                        self._refill()
                if self._batches:
                    return self._batches[0]
                if self._ending:
                    return None
                self._changed.wait()
            return None

    def done(self, batch: Batch, *, dropped: bool = False) -> None:
        """It was delivered, or never will be."""
        with self._changed:
            if self._closed or not self._batches or self._batches[0] is not batch:
                return  # it has been put into the file for the next run meanwhile
            self._batches.popleft()
            self._bytes -= len(batch.body)
            self.dropped += batch.count if dropped else 0
            if not self._batches and self._read == self._written and self._read:
                self._empty_file()

    def _empty_file(self) -> None:
        with self._noting():
            assert self._fd is not None
            os.truncate(self._fd, 0)
            self._read = self._written = 0

    def pause(self, seconds: float) -> bool:
        """Wait that long. True: it is ending, so that the wait was cut short."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ending or self._closed, seconds)

    # -- the end

    def end(self) -> None:
        """Nothing more will be added."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def waiting(self) -> int:
        """Events that are not delivered yet, those that an earlier run left among them."""
        with self._changed:
            return sum(batch.count for batch in self._batches) + self._spilled

    def close(self) -> None:
        """Leave in the file what was not delivered; no file where there is nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            if self._fd is None:
                self.dropped += sum(batch.count for batch in self._batches)
                self._batches.clear()
                return
            os.close(self._fd)
            with self._noting():
                self._leave_rest()

    def _leave_rest(self) -> None:
        """What is in memory stood before what is in the file."""
        if not self._batches and self._read == self._written:
            self.path.unlink(missing_ok=True)
        elif self._batches or self._read:
            self._write_anew(self._batches)


def _whole_lines(file: BinaryIO) -> tuple[int, int]:
    """(bytes, events) of its whole lines: a run that was killed may have left half of one at the end."""
    size = events = 0
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        if not line.endswith(b"\n"):
            break
        size += len(line)
        found = _head(line)
        events += int(found[2]) if found else 0
    return size, events


def _open_private(path: Path, flags: int) -> int:
    """A descriptor of a file that only its owner may read: recipients' addresses are in it."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
