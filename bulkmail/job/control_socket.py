"""The socket beside a journal by which its running job is steered: made, found, asked. A line of JSON each way.

Only its owner (and root) may connect: mode 0600, and the peer's user is asked of the system where it tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Any

from bulkmail.errors import ConfigError, JournalError
from bulkmail.job.journal_file import check_header, is_held

SUPPORTED = hasattr(socket, "AF_UNIX") and sys.platform != "win32"
# sun_path holds 108 bytes on Linux and 104 elsewhere, a NUL among them.
MAX_PATH = 107 if sys.platform == "linux" else 103
MAX_LINE = 64 << 10  # bytes of a request
MAX_ANSWER = 64 << 20  # which names every limit of the job, twice
ASK_SECONDS = 10.0  # what the run may take to answer: its loop is busy at most for a commit's worth of messages
FOLDER = "bulkmail-control-"  # begins the name of the folder of a socket whose own path would be too long


def control_path(journal: Path) -> Path:
    return journal.with_name(journal.name + ".control")


def bind(journal: Path) -> socket.socket:
    """A listening socket at <journal>.control; the caller holds the journal's lock, so what is there is of a dead run.

    A path that is too long for a socket is a symbolic link to one in a private folder under the system's temporary one.
    raises  OSError
    """
    remove(journal)
    path, link = control_path(journal).absolute(), None
    if len(os.fsencode(path)) > MAX_PATH:
        link, path = path, _own_folder() / "socket"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind_private(sock, path)
        if link is not None:
            link.symlink_to(path)
    except BaseException:
        sock.close()
        if link is not None:
            _remove_folder(path.parent)
        raise
    sock.listen(16)
    sock.setblocking(False)
    return sock


def _bind_private(sock: socket.socket, path: Path) -> None:
    # Not chmod afterwards: between the two others could connect. The mask is the whole process's, for this one call.
    before = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
    finally:
        os.umask(before)


def _own_folder() -> Path:
    import tempfile  # with shutil and what that brings, tens of modules, for the few whose paths are too long

    return Path(tempfile.mkdtemp(prefix=FOLDER))


def _remove_folder(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def remove(journal: Path) -> None:
    """Take away the socket; the caller holds the journal's lock."""
    path = control_path(journal)
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            folder = Path(os.readlink(path)).parent
            if folder.name.startswith(FOLDER) and folder.stat().st_uid == os.geteuid():
                _remove_folder(folder)
        if stat.S_ISLNK(mode) or stat.S_ISSOCK(mode):
            path.unlink()


def may_steer(sock: Any) -> bool:
    """Whether the user at the other end may give orders: our own, or root. True where the system does not tell."""
    user = _peer_user(sock)
    return user is None or user in (0, os.geteuid())


def _peer_user(sock: Any) -> int | None:
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
    if sys.platform == "darwin" or "bsd" in sys.platform:
        # LOCAL_PEERCRED (1) of SOL_LOCAL (0) is a struct xucred: version, user, number of groups, 16 groups
        with contextlib.suppress(OSError):
            return int(struct.unpack_from("2I", sock.getsockopt(0, 1, 76))[1])
    return None


# ---- the other end ---------------------------------------------------------------------------------------------------


def ask(journal: str | os.PathLike[str], request: dict[str, Any], seconds: float = ASK_SECONDS) -> dict[str, Any]:
    """What the run that holds a journal answers.

    raises  JournalError  no run holds it, or it does not answer; ConfigError: it refuses, with its reason
    """
    path = Path(journal)
    if not SUPPORTED:
        raise JournalError("a running job cannot be steered on this system, which has no Unix sockets")
    check_header(path)
    try:
        line = _exchange(path, json.dumps(request).encode() + b"\n", seconds)
    except TimeoutError:
        raise JournalError(f"{path}: the run that holds it does not answer within {seconds:.0f} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise JournalError(_nobody(path)) from None
    except (ConnectionResetError, BrokenPipeError):
        raise JournalError(f"{path}: its run hung up: it is another user's, or too many steer it at once") from None
    except OSError as error:
        raise JournalError(f"{control_path(path)}: {error.strerror or error}") from None
    return _answer(path, line)


def _nobody(path: Path) -> str:
    if is_held(path):
        return f"{path}: the run that holds it takes no orders yet: it is still reading its recipients, or ending"
    return f"no run holds {path}"


def _exchange(path: Path, line: bytes, seconds: float) -> bytes:
    place = control_path(path).absolute()
    if place.is_symlink():
        place = Path(os.readlink(place))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        if len(os.fsencode(place)) > MAX_PATH:
            raise FileNotFoundError
        sock.connect(os.fspath(place))
        sock.sendall(line)
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) <= MAX_ANSWER:
            piece = sock.recv(MAX_LINE)
            if not piece:
                break
            answer += piece
    return bytes(answer)


def _answer(path: Path, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError
    except ValueError:
        said = "has ended" if not line else "gives an answer that is none"
        raise JournalError(f"{path}: the run that holds it {said}") from None
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    return answer
