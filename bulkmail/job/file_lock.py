"""A lock on a file, which one process holds at a time and loses when it ends.

By flock(2) where the system has it; the package filelock, which takes ten times as long to load as a run takes to lock,
serves the others: Windows, file systems without flock. Both take the same lock.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02

_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)  # some file systems say EACCES
_MISSING = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # the last two differ on macOS


class Held(Exception):
    """Somebody else has it."""


class FileLock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._other: Any = None

    def acquire(self, seconds: float = 0.0) -> None:
        """Take it within so many seconds. raises Held, OSError"""
        if sys.platform == "win32" or not self._by_flock(time.monotonic() + seconds):
            self._by_package(seconds)

    def _by_flock(self, deadline: float) -> bool:
        """False: the file system has none."""
        import fcntl

        made, file = self._opened()
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in _MISSING:
                        if made:
                            self._path.unlink()  # to the package a file that is there is a lock that is held
                        return False
                    if error.errno not in _HELD:
                        raise
                    if time.monotonic() >= deadline:
                        raise Held from None
                else:
                    self._file, file = file, -1
                    return True
                time.sleep(POLL_SECONDS)
        finally:
            if file >= 0:
                os.close(file)

    def _opened(self) -> tuple[bool, int]:
        """Whether the file was made, and a descriptor of it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return True, os.open(self._path, flags | os.O_EXCL, 0o644)
        except FileExistsError:
            return False, os.open(self._path, flags, 0o644)

    def _by_package(self, seconds: float) -> None:
        import filelock

        self._other = filelock.FileLock(self._path, thread_local=False)
        try:
            self._other.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        except filelock.Timeout:
            raise Held from None

    def release(self) -> None:
        if self._file is not None:
            import fcntl

            file, self._file = self._file, None
            try:
                # A process that was forked meanwhile has the file open too: closing ours would leave it the lock.
                fcntl.flock(file, fcntl.LOCK_UN)
            finally:
                os.close(file)
        elif self._other is not None:
            self._other.release()
