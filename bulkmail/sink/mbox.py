"""Messages go into one file, an mbox (RFC 4155) with the quoting called mboxrd."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path

from bulkmail.errors import ConfigError
from bulkmail.sink.groups import Groups
from bulkmail.sink.maildir import sync_folder, write_all
from bulkmail.sink.session import Message
from bulkmail.sink.store import HeldIncoming, InMemory, not_stored

# How long a reader may hold the file before messages are refused; it reads or rewrites all of it meanwhile.
LOCK_SECONDS = 10.0
LOCK_PAUSE = 0.01

_from_lines = re.compile(rb"^(>*From )", re.MULTILINE)
_not_an_address = re.compile(r"[\s\x00-\x1f\x7f]")


class Mbox(InMemory):
    """An mbox, made if absent. It is opened and locked for each group of messages, as others may replace it.

    fsync  the file is synced before its messages are told to have been taken

    Each message is held in memory until it is complete, then written by a thread, since the lock may have to be waited
    for. Line ends become LF: what is stored is not byte for byte what came.
    """

    def __init__(self, path: str | Path, fsync: bool = False) -> None:
        super().__init__()
        self.path = Path(path)
        self._fsync = fsync
        try:
            os.close(self._open())
            if fsync:
                sync_folder(self.path.parent)
        except OSError as error:
            raise ConfigError(f"the mbox {str(path)!r} cannot be used: {error.strerror}") from error
        self._threads = ThreadPoolExecutor(1, "bulkmail-mbox")
        self.groups = Groups(self.append, self._threads)

    def begin(self, message: Message) -> MboxIncoming:
        return MboxIncoming(self, message)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    # --- in the thread

    def append(self, messages: Sequence[Message]) -> list[OSError | None]:
        """Add messages, each whole or not at all; what became of each."""
        try:
            file = self._open_locked()
        except OSError as error:
            return [error] * len(messages)
        start = os.fstat(file).st_size
        try:
            outcomes = self._append(file, messages, start)
            end = os.fstat(file).st_size
        except BaseException:
            os.close(file)
            raise
        try:
            os.close(file)  # which unlocks it
        except OSError as error:  # over a network the disk may be found full as late as this
            self._take_back(start, end)
            return [error] * len(messages)
        return outcomes

    def _append(self, file: int, messages: Sequence[Message], start: int) -> list[OSError | None]:
        try:
            outcomes = [add(file, entry_of(message)) for message in messages]
            if self._fsync:
                os.fsync(file)
        except OSError as error:
            os.ftruncate(file, start)
            return [error] * len(messages)
        return outcomes

    def _take_back(self, start: int, end: int) -> None:
        """Cut off what stands between `start` and `end`, if nobody wrote behind it."""
        file = self._open_locked()
        try:
            if os.fstat(file).st_size == end:
                os.ftruncate(file, start)
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        return os.open(self.path, flags, 0o600)

    def _open_locked(self) -> int:
        """The file that the path names now, locked as `mailbox` locks."""
        end = time.monotonic() + LOCK_SECONDS
        while True:
            file = self._open()
            try:
                if try_lock(file) and os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except FileNotFoundError:
                pass  # replaced this moment
            except BaseException:
                os.close(file)
                raise
            os.close(file)
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, "somebody else holds the lock")
            time.sleep(LOCK_PAUSE)


class MboxIncoming(HeldIncoming):
    _store: Mbox

    async def commit(self) -> None:
        try:
            self.message.content = self.content()
            await self._store.groups.join(self.message)
        except OSError as error:
            raise not_stored(error) from error
        finally:
            self.abandon()


def try_lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: like `mailbox`, we do without
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def add(file: int, entry: bytes) -> OSError | None:
    """Write an entry at the end of a locked file; what went wrong, and then nothing of it is there.

    OSError if it cannot even be taken back.
    """
    end = os.lseek(file, 0, os.SEEK_END)
    try:
        write_all(file, gap(file, end) + entry)
    except OSError as error:
        os.ftruncate(file, end)
        return error
    return None


def gap(file: int, end: int) -> bytes:
    """What has to stand between what is there and the next From_ line, which an empty line precedes."""
    if end == 0:
        return b""
    os.lseek(file, max(end - 2, 0), os.SEEK_SET)
    last = os.read(file, 2)
    os.lseek(file, end, os.SEEK_SET)
    if not last.endswith(b"\n"):
        return b"\n\n"
    return b"" if last == b"\n\n" else b"\n"


def entry_of(message: Message) -> bytes:
    """A message as it stands in the file: From_ line, quoted text, an empty line. (RFC 4155 appendix A.)"""
    text = message.content.replace(b"\r\n", b"\n")
    if not text.endswith(b"\n"):
        text += b"\n"
    return from_line(message) + _from_lines.sub(rb">\1", text) + b"\n"


def from_line(message: Message) -> bytes:
    """ "From SENDER DATE". A space in a sender (within quotes) would end it for readers, so it becomes "_"."""
    sender = _not_an_address.sub("_", message.sender) or "MAILER-DAEMON"
    when = message.received.astimezone(UTC)
    return f"From {sender} {when.ctime()}\n".encode("utf-8", "replace")
