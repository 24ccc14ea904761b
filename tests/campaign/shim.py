"""disk_shim.c from Python: compiled, preloaded by starting the program anew, and told what to do."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("disk_shim.c")
RECORD = struct.Struct("<c3xIQqqdd")


def can_be_made() -> bool:
    return sys.platform == "linux" and shutil.which("cc") is not None


def preload(folder: Path) -> None:
    """Start this program anew with the shim; returns in the new one."""
    if "disk_shim" in os.environ.get("LD_PRELOAD", ""):
        return
    library = folder / "disk_shim.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    environ = os.environ | {"LD_PRELOAD": str(library), "BULKMAIL_CAMPAIGN": str(folder)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def _shim() -> Any:
    shim = ctypes.CDLL(None)
    shim.shim_clock.restype = ctypes.POINTER(ctypes.c_int64)
    return shim


def clock() -> Any:
    """clock()[0] = seconds: how far the clock of children that use it is off."""
    return _shim().shim_clock()


def use_clock() -> None:
    _shim().shim_use_clock(1)


def record(log: Path, folder: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _shim().shim_record(descriptor, os.fsencode(folder))


def fail(folder: Path, after: int, number: int) -> None:
    """After so many changes in the folder every further one fails with this errno."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    _shim().shim_record(descriptor, os.fsencode(folder))
    _shim().shim_fail(ctypes.c_long(after), number)


class Change(NamedTuple):
    """kind: c create, w write, t truncate, s sync, d sync of the folder, r rename, u unlink."""

    kind: str
    file: int
    at: int
    name: str
    data: bytes
    begun: float
    ended: float


def changes(log: Path) -> Iterator[Change]:
    """What was recorded; a record that a kill cut off is left out."""
    content, at = log.read_bytes(), 0
    while at + RECORD.size <= len(content):
        kind, named, file, offset, length, begun, ended = RECORD.unpack_from(content, at)
        at += RECORD.size
        if at + named + length > len(content):
            return
        name, data = content[at : at + named].decode(), content[at + named : at + named + length]
        at += named + length
        yield Change(kind.decode(), file, offset, name, data, begun, ended)
