"""Messages go into a Maildir, their envelopes into its envelopes.jsonl."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bulkmail.errors import ConfigError
from bulkmail.sink.groups import Groups
from bulkmail.sink.session import Message
from bulkmail.sink.store import not_stored

# What a message may have in memory before its file is opened; most are smaller and cost one write.
SPILL_BYTES = 64 * 1024
# Files that are synced at the same time: a file system writes several with one commit of its own journal.
SYNC_THREADS = 8
# How long another process may need for a line that we found half written.
TAIL_SECONDS = 0.05


class Maildir:
    """A Maildir and its envelopes.jsonl, made if absent. Files are written in tmp and renamed into new.

    fsync  a message's file, its line and the folder are on the disk before it is told to have been taken. Without it a
           crash of the machine, not of the process, may lose messages.

    Several may share a folder.
    """

    def __init__(self, folder: str | Path, fsync: bool = False) -> None:
        self.folder = Path(folder)
        self._torn: tuple[int, int] | None = None  # start and end of bytes in envelopes.jsonl that have to go
        try:
            for part in ("tmp", "new", "cur"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            self._open_envelopes()
            mend_tail(self.folder / "envelopes.jsonl")
            if fsync:
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
        except OSError as error:
            raise ConfigError(f"the store {str(folder)!r} cannot be used: {error.strerror}") from error
        self._names = maildir_names()
        self.threads = ThreadPoolExecutor(SYNC_THREADS, "bulkmail-sync") if fsync else None
        self.groups = Groups(self.publish, self.threads) if self.threads is not None else None

    def begin(self, message: Message) -> MaildirIncoming:
        return MaildirIncoming(self, message, next(self._names))

    def path(self, part: str, name: str) -> str:
        return f"{self.folder}/{part}/{name}"

    def close(self) -> None:
        if self.threads is not None:
            self.threads.shutdown(cancel_futures=True)
        os.close(self._envelopes)

    # --- from tmp to new

    def publish(self, group: Sequence[MaildirIncoming]) -> list[OSError | None]:
        """Give each of the group, whose files are complete, its line and its place in new; what became of each."""
        outcomes: list[OSError | None] = []
        while len(outcomes) < len(group):
            outcomes += self._publish(group[len(outcomes) :])
        return outcomes

    def _publish(self, group: Sequence[MaildirIncoming]) -> list[OSError | None]:
        """The outcomes of the first of the group, up to one that cannot be renamed; of all of them, mostly."""
        lines = [incoming.line() for incoming in group]
        try:
            end = self.note(b"".join(lines))
        except OSError as error:
            return [error] * len(group)
        moved, failure = 0, None
        try:
            if self.groups is not None:
                os.fsync(self._envelopes)
            moved, failure = move(group)
            if self.groups is not None and moved:
                sync_folder(self.folder / "new")
        except OSError as error:  # none of the group is sure to be on the disk
            for incoming in group[:moved]:
                incoming.take_out()
            self.take_back(sum(map(len, lines)), end)
            return [error] * len(group)
        if failure is not None:
            self.take_back(sum(map(len, lines[moved:])), end)
            return [None] * moved + [failure]
        return [None] * moved

    # --- envelopes.jsonl

    def note(self, lines: bytes) -> int:
        """Append lines to envelopes.jsonl, whole or not at all; where the file ends then. OSError."""
        self._mend()
        written = os.write(self._envelopes, lines)
        end = os.lseek(self._envelopes, 0, os.SEEK_CUR)
        if written != len(lines):  # the disk is full
            self.take_back(written, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return end

    def take_back(self, length: int, end: int) -> None:
        """Cut off the last `length` bytes, if nobody wrote behind their `end`. The next line waits where that fails."""
        try:
            if os.fstat(self._envelopes).st_size == end:
                os.ftruncate(self._envelopes, end - length)
        except OSError:
            self._torn = end - length, end

    def _mend(self) -> None:
        """What has to be done to envelopes.jsonl before a line can be written. OSError while that is impossible."""
        status = os.fstat(self._envelopes)
        if status.st_nlink == 0:  # somebody removed it: lines written there would be lost
            removed = self._envelopes
            self._open_envelopes()
            os.close(removed)
            self._torn = None
        elif self._torn is not None:
            start, end = self._torn
            if status.st_size == end:
                os.ftruncate(self._envelopes, start)
            self._torn = None

    def _open_envelopes(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._envelopes = os.open(self.folder / "envelopes.jsonl", flags, 0o644)


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

    def commit(self) -> Awaitable[None] | None:
        if self._box.groups is not None:
            return self._commit_synced(self._box.groups)
        try:
            self._complete()
            (failure,) = self._box.publish((self,))
            if failure is not None:
                raise failure
        except OSError as error:
            self._fail(error)
            raise not_stored(error) from error
        return None

    async def _commit_synced(self, groups: Groups[MaildirIncoming]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._box.threads, self._complete, True)
            await groups.join(self)
        except asyncio.CancelledError:  # the server has waited long enough
            self._remove()
            raise
        except OSError as error:
            self._fail(error)
            raise not_stored(error) from error

    def abandon(self) -> None:
        self._chunks.clear()
        self._close()
        self._remove()

    # --- what the box asks

    def line(self) -> bytes:
        return envelope_line(self._message, f"new/{self._name}")

    def move(self) -> None:
        os.rename(self._box.path("tmp", self._name), self._box.path("new", self._name))
        self._made = False  # in tmp

    def take_out(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._box.path("new", self._name))

    # --- the file

    def _complete(self, fsync: bool = False) -> None:
        """All of it is in its file in tmp. OSError."""
        if self._error is not None:
            raise self._error
        self._spill()
        if fsync and self._file is not None:
            os.fsync(self._file)
        self._close()

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


def move(group: Sequence[MaildirIncoming]) -> tuple[int, OSError | None]:
    """How many of the group, from the first on, are in new; why not the next."""
    for number, incoming in enumerate(group):
        try:
            incoming.move()
        except OSError as error:
            return number, error
    return len(group), None


def write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(folder: str | Path) -> None:
    """What was made or renamed in it is there after a crash of the machine, too. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mend_tail(path: Path) -> None:
    """Cut off a line without its end, which a kill in mid-write can leave: the next one would be glued to it."""
    start, end = whole_lines(path)
    if start != end:
        time.sleep(TAIL_SECONDS)
        if whole_lines(path) == (start, end):
            os.truncate(path, start)


def whole_lines(path: Path) -> tuple[int, int]:
    """Where the last complete line of a file ends, and where the file does."""
    with path.open("rb") as file:
        size = place = file.seek(0, os.SEEK_END)
        while place:
            length = min(SPILL_BYTES, place)
            place -= length
            file.seek(place)
            found = file.read(length).rfind(b"\n")
            if found >= 0:
                return place + found + 1, size
    return 0, size


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
