"""Messages out of Maildirs, mbox files, folders of .eml files, single files and standard input; one at a time.

What matters of a notification stands at its beginning: of each message MAX_READ bytes are kept, the rest is passed
over. Nothing here trusts what it reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bulkmail.errors import ConfigError

# A notification's own parts have some KB; the returned message follows them, and its header is all that is needed.
MAX_READ = 1 << 20
LINE = 1 << 16  # bytes read at a time: a hostile "line" of a gigabyte is many of these

MAILDIR = ("new", "cur")
MESSAGE_SUFFIXES = (".eml", ".msg", ".txt")


class Raw(NamedTuple):
    """A message as it stands in a mailbox. problem: why it could not be read; then there is no data."""

    name: str
    data: bytes
    problem: str | None = None


def messages(paths: Iterable[str]) -> Iterator[Raw]:
    """All messages of all paths, in order. "-" is standard input. raises  ConfigError  a path that is not there"""
    checked = list(paths)
    for path in checked:
        if path != "-" and not Path(path).exists():
            raise ConfigError(f"{path}: there is no such file or folder; expected a Maildir, an mbox, a folder of .eml")
    for path in checked:
        if path == "-":
            yield from _stream(sys.stdin.buffer, "standard input")
        elif Path(path).is_dir():
            yield from _folder(Path(path))
        else:
            yield from _file(Path(path))


def _folder(folder: Path) -> Iterator[Raw]:
    parts = [folder / name for name in MAILDIR if (folder / name).is_dir()]
    names = parts or [folder]
    for part in names:
        with os.scandir(part) as entries:
            files = sorted(entry.name for entry in entries if _is_message(entry, bool(parts)))
        if not parts and not files:
            raise ConfigError(
                f"{folder} has no folders 'new' and 'cur' and no .eml file: expected a Maildir, or .eml files"
            )
        for name in files:
            yield from _file(part / name)


def _is_message(entry: os.DirEntry[str], in_maildir: bool) -> bool:
    if entry.name.startswith(".") or not entry.is_file():
        return False
    return in_maildir or entry.name.lower().endswith(MESSAGE_SUFFIXES)


def _file(path: Path) -> Iterator[Raw]:
    try:
        with open(path, "rb") as file:
            yield from _stream(file, str(path))
    except OSError as error:  # deleted or moved meanwhile: a Maildir is read while others use it
        yield Raw(str(path), b"", error.strerror or str(error))


def _stream(file: BinaryIO, name: str) -> Iterator[Raw]:
    first = file.readline(LINE)
    if first.startswith(b"From "):
        yield from _mbox(file, name)
        return
    data = first + file.read(MAX_READ - len(first))
    yield Raw(name, data) if data.strip() else Raw(name, b"", "it is empty")


def _mbox(file: BinaryIO, name: str) -> Iterator[Raw]:
    """After the first "From " line. A message ends at a blank line with such a line behind it (mboxrd; RFC 4155)."""
    count, kept, size = 1, list[bytes](), 0
    blank, begins = False, True
    while line := file.readline(LINE):
        if begins and blank and line.startswith(b"From "):
            yield Raw(f"{name}#{count}", b"".join(kept))
            count, kept, size = count + 1, [], 0
        elif size < MAX_READ:
            kept.append(_unquoted(line) if begins else line)
            size += len(line)
        blank, begins = begins and line in (b"\n", b"\r\n"), line.endswith(b"\n")
    yield Raw(f"{name}#{count}", b"".join(kept))


def _unquoted(line: bytes) -> bytes:
    """mboxrd puts a ">" before each line that is "From " behind any number of ">"."""
    return line[1:] if line.startswith(b">") and line.lstrip(b">").startswith(b"From ") else line
