"""What has to be on the disk before anybody is sent to: files and the folders that name them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

# The disk is full or broken: what a job can go on after.
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def sync_folder(folder: Path) -> None:
    """So that a loss of power cannot take back the names in it, a new file's or a renamed one's. OSError: the disk."""
    _sync(folder)


def sync_file(path: Path) -> None:
    """A file that somebody else wrote, and its name. OSError: the disk."""
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there, nor files synced by who only reads them
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise  # else it is on something that cannot be synced: a pipe, some network file systems
