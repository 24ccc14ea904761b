"""What the page lists: the messages of the list in memory, or those of a Maildir; newest first."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, overload

import orjson

from bulkmail.sink.session import Message
from bulkmail.sink.store import Kept

# Of a Maildir the newest are shown. An entry is some 500 bytes; older mail is in the folder for whoever wants it.
MAX_INDEXED = 20_000
# Bytes of the end of envelopes.jsonl in which they are looked for: 50,000 lines of the usual length.
MAX_TAIL = 16 * 1024 * 1024
# Bytes of one line: a message to 20,000 recipients. A longer one is passed over.
MAX_LINE = 1024 * 1024
BLOCK = 256 * 1024
MARK = 200  # bytes of the end of what was read; the time is in it, which no other line has
# Recipients of a message that are told; the rest are counted.
MAX_SHOWN = 1000
MAX_LISTED = 10

_flags = ["".join(some) for count in range(7) for some in combinations("DFPRST", count)]
_file = re.compile(r"new/([^/\0:]{1,200})").fullmatch
_ident = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch


class Gone(Exception):
    """The message is not there any more."""


class Entry(Protocol):
    """One message of a list."""

    @property
    def id(self) -> str: ...

    def envelope(self) -> dict[str, Any]:
        """As in envelopes.jsonl; `to` has at most MAX_LISTED addresses, `recipients` says how many there are."""

    def full_envelope(self) -> dict[str, Any]:
        """The same with up to MAX_SHOWN addresses. Gone"""

    def read(self, most: int) -> tuple[bytes, int]:
        """(the first bytes of the content, the size of it all). Gone"""

    def path(self) -> str | None:
        """Of its file; None in memory. Gone"""


class Inbox(Protocol):
    """Called in threads, but for version()."""

    kind: str
    deletes: bool

    def version(self) -> str:
        """Changes whenever the list does; cheap."""

    def entries(self) -> tuple[Sequence[Entry], bool]:
        """(newest first, whether there are older ones that are not listed)."""

    def find(self, ident: str) -> Entry | None: ...

    def drop(self, entry: Entry) -> None:
        """Its file is gone."""


# --- in memory


@dataclass(frozen=True, slots=True)
class KeptEntry:
    message: Message

    @property
    def id(self) -> str:
        return self.message.id

    def envelope(self) -> dict[str, Any]:
        return self._envelope(MAX_LISTED)

    def full_envelope(self) -> dict[str, Any]:
        return self._envelope(MAX_SHOWN)

    def _envelope(self, most: int) -> dict[str, Any]:
        message = self.message
        return {
            "id": message.id,
            "from": message.sender,
            "to": message.recipients[:most],
            "recipients": len(message.recipients),
            "remote_address": message.remote_address,
            "remote_port": message.remote_port,
            "proxy_address": message.proxy_address,
            "helo": message.helo,
            "tls": message.tls,
            "auth": message.auth,
            "received": message.received.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }

    def read(self, most: int) -> tuple[bytes, int]:
        return self.message.content[:most], len(self.message.content)

    def path(self) -> str | None:
        return None


class KeptEntries(Sequence[Entry]):
    """Of these messages, oldest first, the entries newest first; each is made when it is asked for."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, at: int) -> Entry: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...

    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(at, slice):
            return [KeptEntry(message) for message in self._messages[::-1][at]]
        return KeptEntry(self._messages[-1 - at])  # IndexError behind the last, which ends a loop


class KeptInbox:
    kind, deletes = "memory", True

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def version(self) -> str:
        last = self.kept.messages[-1:]
        return f"{len(self.kept.messages)}-{last[0].id if last else ''}"

    def entries(self) -> tuple[Sequence[Entry], bool]:
        return KeptEntries(self.kept.messages[:]), False  # the loop goes on adding to its list

    def find(self, ident: str) -> Entry | None:
        found = (message for message in reversed(self.kept.messages[:]) if message.id == ident)
        message = next(found, None)
        return None if message is None else KeptEntry(message)

    def drop(self, entry: Entry) -> None:
        pass


# --- a Maildir


@dataclass(frozen=True, slots=True, eq=False)
class FiledEntry:
    """`line` and `length`: where its line is in envelopes.jsonl."""

    box: FiledInbox
    id: str
    file: str
    sender: str
    to: tuple[str, ...]
    recipients: int
    received: str
    line: int
    length: int

    def envelope(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "from": self.sender,
            "to": list(self.to),
            "recipients": self.recipients,
            "received": self.received,
        }

    def full_envelope(self) -> dict[str, Any]:
        try:
            with open(self.box.envelopes, "rb") as file:
                file.seek(self.line)
                line = read_line(file.read(self.length))
        except OSError:
            line = None
        if line is None or line.get("id") != self.id:
            raise Gone(self.id)
        to = [str(address) for address in line["to"][:MAX_SHOWN]]
        told = ("remote_address", "remote_port", "proxy_address", "helo", "tls", "auth")
        return self.envelope() | {name: line.get(name) for name in told} | {"to": to}

    def read(self, most: int) -> tuple[bytes, int]:
        with self._open() as file:
            return file.read(most), os.fstat(file.fileno()).st_size

    def path(self) -> str | None:
        with self._open() as file:
            return str(file.name)

    def _open(self) -> Any:
        """In new, or where a mail program has moved it: cur, with any flags behind its name."""
        folder = self.box.folder
        try:
            return open(folder / "new" / self.file, "rb")
        except OSError:
            pass
        for flags in _flags:
            try:
                return open(folder / "cur" / f"{self.file}:2,{flags}", "rb")
            except OSError:
                continue
        raise Gone(self.id)


class FiledInbox:
    """The messages that envelopes.jsonl tells of. Files that something else put there are not listed."""

    kind, deletes = "maildir", False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.envelopes = self.folder / "envelopes.jsonl"
        self._lock = threading.Lock()
        self._entries: deque[FiledEntry] = deque(maxlen=MAX_INDEXED)
        self._file = 0  # the inode that was read, up to ...
        self._end = 0
        self._mark = b""  # what stood there: a line that could not be published is taken back
        self._older = False

    def version(self) -> str:
        try:
            status = os.stat(self.envelopes)
        except OSError:
            return "none"
        return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"

    def entries(self) -> tuple[Sequence[Entry], bool]:
        with self._lock:
            self._refresh()
            return list(reversed(self._entries)), self._older

    def find(self, ident: str) -> Entry | None:
        return next((entry for entry in self.entries()[0] if entry.id == ident), None)

    def drop(self, entry: Entry) -> None:
        with self._lock:
            if entry in self._entries:
                self._entries.remove(entry)  # type: ignore[arg-type]

    def _refresh(self) -> None:
        try:
            with open(self.envelopes, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or not self._is_as_it_was(file):
                    self._entries.clear()
                    self._file, self._end, self._mark, self._older = status.st_ino, 0, b"", False
                self._read(file, status.st_size)
        except OSError:
            self._entries.clear()
            self._file, self._end, self._mark = 0, 0, b""

    def _is_as_it_was(self, file: Any) -> bool:
        file.seek(self._end - len(self._mark))
        return bool(file.read(len(self._mark)) == self._mark)

    def _read(self, file: Any, size: int) -> None:
        start, skip = self._end, False
        if size - start > MAX_TAIL:
            start, skip, self._older = size - MAX_TAIL, True, True
        file.seek(start)
        for at, line in lines(file, start, size):
            self._end, self._mark = at + len(line), line[-MARK:]
            if not skip and len(line) <= MAX_LINE:
                self._add(at, line)
            skip = False

    def _add(self, at: int, line: bytes) -> None:
        entry = entry_of(self, at, line)
        if entry is not None:
            self._older = self._older or len(self._entries) == MAX_INDEXED
            self._entries.append(entry)


def lines(file: Any, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(where it begins, the line with its newline) of each whole line from `start` on."""
    held, at = bytearray(), start
    while at + len(held) < size:
        block = file.read(min(BLOCK, size - at - len(held)))
        if not block:
            return
        held += block
        first = 0
        while (newline := held.find(b"\n", first)) >= 0:
            yield at + first, bytes(held[first : newline + 1])
            first = newline + 1
        del held[:first]
        at += first


def read_line(line: bytes) -> dict[str, Any] | None:
    """An object with the strings that an entry needs, or None."""
    try:
        value = orjson.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("to"), list):
        return None
    return value if all(isinstance(value.get(key), str) for key in ("id", "file", "from", "received")) else None


def entry_of(box: FiledInbox, at: int, line: bytes) -> FiledEntry | None:
    value = read_line(line)
    if value is None or not _ident(value["id"]):
        return None
    file = _file(value["file"])
    if file is None:
        return None
    to = tuple(str(address)[:400] for address in value["to"][:MAX_LISTED])
    received, sender = value["received"][:40], value["from"][:400]
    return FiledEntry(box, value["id"], file[1], sender, to, len(value["to"]), received, at, len(line))
