"""Where accepted messages go: a bounded list, or a Maildir.

A store makes an `Incoming` when a message begins; that takes the content piece by piece and ends with commit() or
abandon(). Only when commit() has returned is the message told to have been taken.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bulkmail.errors import ConfigError
from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Message

# Of the list of a server in a test's process. Past them a message is refused: one that vanished would be a riddle.
MAX_KEPT_MESSAGES = 100_000
MAX_KEPT_BYTES = 256 * 1024 * 1024
# What a message may have in memory before its file is opened; most are smaller and cost one write.
SPILL_BYTES = 64 * 1024
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Incoming(Protocol):
    def write(self, chunk: bytes) -> None:
        """Never raises: what goes wrong is said by commit()."""

    def commit(self) -> None:
        """Refuse when the message could not be kept; nothing of it is left then."""

    def abandon(self) -> None: ...


class Store(Protocol):
    def begin(self, message: Message) -> Incoming: ...

    def close(self) -> None: ...


class Kept:
    """Keeps messages in a list."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.bytes = 0  # of the list, and of what is coming in

    def begin(self, message: Message) -> KeptIncoming:
        return KeptIncoming(self, message)

    def close(self) -> None:
        pass

    def clear(self) -> None:
        self.bytes -= sum(len(message.content) for message in self.messages)
        self.messages.clear()


class KeptIncoming:
    def __init__(self, kept: Kept, message: Message) -> None:
        self._kept, self._message = kept, message
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._full = len(kept.messages) >= MAX_KEPT_MESSAGES

    def write(self, chunk: bytes) -> None:
        if self._full or self._kept.bytes + len(chunk) > MAX_KEPT_BYTES:
            self._full = True
            return
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._kept.bytes += len(chunk)

    def commit(self) -> None:
        if self._full or len(self._kept.messages) >= MAX_KEPT_MESSAGES:
            self.abandon()
            raise Refuse(452, "The list of kept messages is full; store or discard them", "4.3.1")
        self._message.content = b"".join(self._chunks)
        self._kept.messages.append(self._message)

    def abandon(self) -> None:
        self._kept.bytes -= self._bytes
        self._bytes = 0
        self._chunks.clear()


class Maildir:
    """A Maildir and its envelopes.jsonl, made if absent. Files are written in tmp and renamed into new.

    Several may share a folder. Nothing is synced: a crash of the machine, not of the process, may lose messages.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            for part in ("tmp", "new", "cur"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            self._envelopes = os.open(self.folder / "envelopes.jsonl", flags, 0o644)
        except OSError as error:
            raise ConfigError(f"the store {str(folder)!r} cannot be used: {error.strerror}") from error
        self._names = maildir_names()

    def begin(self, message: Message) -> MaildirIncoming:
        return MaildirIncoming(self, message, next(self._names))

    def path(self, part: str, name: str) -> str:
        return f"{self.folder}/{part}/{name}"

    def note(self, line: bytes) -> int:
        """Append a line to envelopes.jsonl, whole or not at all; where the file ends then. OSError."""
        written = os.write(self._envelopes, line)
        end = os.lseek(self._envelopes, 0, os.SEEK_CUR)
        if written != len(line):  # the disk is full
            self.take_back(written, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return end

    def take_back(self, length: int, end: int) -> None:
        """Cut off the last `length` bytes, if nobody wrote behind their `end`."""
        if os.fstat(self._envelopes).st_size == end:
            os.ftruncate(self._envelopes, end - length)

    def close(self) -> None:
        os.close(self._envelopes)


class MaildirIncoming:
    def __init__(self, box: Maildir, message: Message, name: str) -> None:
        self._box, self._message, self._name = box, message, name
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._file: int | None = None
        self._made = False
        self._error: OSError | None = None

    def write(self, chunk: bytes) -> None:
        if self._error is not None:
            return
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > SPILL_BYTES:
            try:
                self._spill()
            except OSError as error:
                self._fail(error)

    def commit(self) -> None:
        try:
            if self._error is not None:
                raise self._error
            self._spill()
            self._close()
            line = envelope_line(self._message, f"new/{self._name}")
            end = self._box.note(line)
            try:
                os.rename(self._box.path("tmp", self._name), self._box.path("new", self._name))
            except OSError:
                self._box.take_back(len(line), end)
                raise
        except OSError as error:
            self._fail(error)
            if error.errno in FULL:
                raise Refuse(452, "Insufficient system storage", "4.3.1") from error
            raise Refuse(451, "The message cannot be stored", "4.3.0") from error

    def abandon(self) -> None:
        self._chunks.clear()
        self._close()
        self._remove()

    def _spill(self) -> None:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._file = os.open(self._box.path("tmp", self._name), flags, 0o644)
            self._made = True
        for chunk in self._chunks:
            write_all(self._file, chunk)
        self._chunks.clear()
        self._bytes = 0

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _fail(self, error: OSError) -> None:
        self._error = error
        self._chunks.clear()
        with contextlib.suppress(OSError):  # the first error is the one to tell
            self._close()
        self._remove()

    def _remove(self) -> None:
        if self._made:
            with contextlib.suppress(OSError):  # readers of a Maildir clean tmp up
                os.unlink(self._box.path("tmp", self._name))


def write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def maildir_names() -> Iterator[str]:
    """Names that no other process and no later run makes (https://cr.yp.to/proto/maildir.html)."""
    host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
    for number in itertools.count(1):
        now = time.time_ns() // 1000
        yield f"{now // 1_000_000}.M{now % 1_000_000:06}P{os.getpid()}Q{number}.{host}"


def envelope_line(message: Message, file: str) -> bytes:
    import orjson

    return orjson.dumps(
        {
            "id": message.id,
            "file": file,
            "from": message.sender,
            "to": message.recipients,
            "remote_address": message.remote_address,
            "remote_port": message.remote_port,
            "proxy_address": message.proxy_address,
            "helo": message.helo,
            "tls": message.tls,
            "auth": message.auth,
            "received": message.received,
        },
        option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z,
    )
