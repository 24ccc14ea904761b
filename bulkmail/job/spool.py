"""Recipients that are no plain file (compressed, standard input, a query, the manifest's list) become one.

A chunk of the journal names rows by their place in a file, so there has to be a file for as long as the journal lives:
beside the journal. It is written under another name and renamed when whole; it is readable by its owner only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from bulkmail.errors import ManifestError
from bulkmail.job.compressed import BLOCK
from bulkmail.job.disk import DISK_ERRNOS, sync_folder
from bulkmail.job.ledger import JournalFault

DIGEST_SIZE = 32


def new_digest() -> Any:
    """What a source is pinned by: BLAKE2b, as strong as SHA-256 and 0.15 us a row instead of 0.5."""
    return blake2b(digest_size=DIGEST_SIZE)


def inline_blocks(items: Sequence[str | dict[str, Any]]) -> Iterator[bytes]:
    """The manifest's own list as JSON lines."""
    for item in items:
        yield json.dumps({"email": item} if isinstance(item, str) else item).encode() + b"\n"


def write_spool(content: Iterable[bytes], target: Path, *, keep: bool, time_ns: int | None = None) -> Path:
    """Write the content to `target` and return it.

    keep     a spool of an earlier run is there: it stays, and content that differs from it is refused
    time_ns  the time that a new file gets as its own, by which is_of knows what it was made of
    raises   ManifestError  the content cannot be read, or differs; the folder is missing
             JournalFault   the disk is full or fails
    """
    part = target.with_name(target.name + ".part")
    try:
        digest = _write(content, part)
        if time_ns is not None:
            os.utime(part, ns=(time_ns, time_ns))
        if keep and target.exists():
            if digest != file_digest(target):
                raise ManifestError(
                    f"the recipients are not those that the job began with (kept in {target}); "
                    "put them back to resume, or start anew",
                    path="$.recipients",
                )
        else:
            os.replace(part, target)
            sync_folder(target.parent)
    except OSError as error:
        raise _refused(error, target) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def is_of(target: Path, origin: os.stat_result) -> bool:
    """Whether a spool was made of this file, as it is now: to unpack ten million rows to compare them takes long."""
    try:
        return target.stat().st_mtime_ns == origin.st_mtime_ns
    except OSError:
        return False


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
    if error.errno in DISK_ERRNOS:
        return JournalFault(f"cannot write {target}: {error.strerror}")
    if not target.parent.is_dir():
        return ManifestError(
            f"the folder {target.parent} for the journal does not exist; it is not made for you", path="$.journal"
        )
    return ManifestError(f"cannot keep the recipients in {target}: {error.strerror}", path="$.journal")
