"""Recipients that are no plain file (standard input, gzip, the manifest's own list) become one beside the journal.

A chunk of the journal names rows by their place in a file, so there has to be a file for as long as the journal lives.
It is written under another name and renamed when whole; it is readable by its owner only.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from bulkmail.errors import ManifestError
from bulkmail.job.ledger import JournalFault

BLOCK = 1 << 20  # bytes held in memory at a time; larger ones copy no faster
GZIP_MAGIC = b"\x1f\x8b"
DIGEST_SIZE = 32


def new_digest() -> Any:
    """What a source is pinned by: BLAKE2b, as strong as SHA-256 and 0.15 us a row instead of 0.5."""
    return blake2b(digest_size=DIGEST_SIZE)


def blocks(read: Callable[[int], bytes], name: str) -> Iterator[bytes]:
    """The content of a stream, decompressed if its first bytes are gzip's. `read(n)` gives n bytes, less at the end."""
    first = read(BLOCK)
    plain = iter(lambda: read(BLOCK), b"")
    if first.startswith(GZIP_MAGIC):
        yield from _gunzip(_chain(first, plain), name)
    elif name.lower().endswith(".gz"):
        raise ManifestError(f"{name} is not a gzip file, as its name says", path="$.recipients")
    elif first:
        yield from _chain(first, plain)


def inline_blocks(items: Sequence[str | dict[str, Any]]) -> Iterator[bytes]:
    """The manifest's own list as JSON lines."""
    for item in items:
        yield json.dumps({"email": item} if isinstance(item, str) else item).encode() + b"\n"


def write_spool(content: Iterable[bytes], target: Path, *, keep: bool) -> Path:
    """Write the content to `target` and return it.

    keep     a spool of an earlier run is there: it stays, and content that differs from it is refused
    raises   ManifestError  the content cannot be read, or differs; the folder is missing
             JournalFault   the disk is full or fails
    """
    part = target.with_name(target.name + ".part")
    try:
        digest = _write(content, part)
        if keep and target.exists():
            if digest != file_digest(target):
                raise ManifestError(
                    f"the recipients are not those that the job began with (kept in {target}); "
                    "put them back to resume, or start anew",
                    path="$.recipients",
                )
        else:
            os.replace(part, target)
    except OSError as error:
        raise _refused(error, target) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def file_digest(path: Path) -> str:
    """The digest of a file's whole content, in hexadecimal."""
    with open(path, "rb", buffering=0) as file:
        return rest_digest(file, new_digest())


def rest_digest(file: BinaryIO, digest: Any) -> str:
    """Add what is left of a file to a digest."""
    while block := file.read(BLOCK):
        digest.update(block)
    return str(digest.hexdigest())


def _write(content: Iterable[bytes], part: Path) -> str:
    digest = new_digest()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    with open(descriptor, "wb", buffering=BLOCK) as file:
        for block in content:
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(descriptor)
    return str(digest.hexdigest())


def _refused(error: OSError, target: Path) -> ManifestError | JournalFault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return JournalFault(f"cannot write {target}: {error.strerror}")
    if not target.parent.is_dir():
        return ManifestError(
            f"the folder {target.parent} for the journal does not exist; it is not made for you", path="$.journal"
        )
    return ManifestError(f"cannot keep the recipients in {target}: {error.strerror}", path="$.journal")


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _gunzip(content: Iterable[bytes], name: str) -> Iterator[bytes]:
    """At most BLOCK bytes at a time, however well they were compressed. A file may have several members (RFC 1952)."""
    inflate = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for data in content:
            while data:
                begun = True
                yield inflate.decompress(data, BLOCK)
                data = inflate.unconsumed_tail
                if inflate.eof:
                    data = inflate.unused_data.lstrip(b"\0")  # tapes and some tools pad with zeros
                    inflate = zlib.decompressobj(wbits=31)
                    begun = False
    except zlib.error as error:
        raise ManifestError(f"{name} is damaged: {error}", path="$.recipients") from error
    if begun:
        raise ManifestError(f"{name} is cut off: its gzip data ends too early", path="$.recipients")
