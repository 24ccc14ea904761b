"""The journal as a file: is it one, who holds it, how it is opened for a run and for readers.

A run holds a lock on `<journal>.lock`; readers never need it, they only ask whether somebody has it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bulkmail.errors import JournalError
from bulkmail.job.disk import DISK_ERRNOS
from bulkmail.job.file_lock import FileLock, Held
from bulkmail.job.journal_migrate import as_current, is_current, migrate
from bulkmail.job.journal_schema import ADVANCE, APPLICATION_ID
from bulkmail.job.ledger import JournalFault

# A reader that asks whether a run is alive holds the lock for some microseconds; a run that starts then tries again.
LOCK_SECONDS = 0.5
# A sqlite3 shell with an open transaction of its own makes a run wait this long, then stop.
BUSY_SECONDS = 30.0
# What the write-ahead log may keep on disk between checkpoints, after a large fill for instance.
WAL_KEPT = 16 << 20
# Pages of 4 KiB between checkpoints: one then writes 4 MB and takes some milliseconds.
CHECKPOINT_PAGES = 1000

LEVELS = {"process": "NORMAL", "power": "FULL"}

SQLITE_MAGIC = b"SQLite format 3\0"
# What the job can go on after, once the disk has room or another program lets go.
_REFUSED = ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")
_FAULTS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM")


@contextlib.contextmanager
def guard(path: Path) -> Iterator[None]:
    """Translate the errors of SQLite and the system: JournalFault where the disk failed, JournalError otherwise."""
    try:
        yield
    except sqlite3.Error as exc:
        name = getattr(exc, "sqlite_errorname", None) or ""
        # SQLite does not say why it cannot open a file: if not for want of a permission, it is for want of room.
        full = name.startswith("SQLITE_CANTOPEN") and os.access(path.parent, os.W_OK)
        if full or name.startswith(_FAULTS):
            raise JournalFault(f"{path}: the journal cannot be written or read: {exc}") from exc
        if name.startswith(_REFUSED):
            raise JournalError(f"{path}: the journal cannot be written or read: {exc}") from exc
        raise JournalError(f"{path}: the journal is damaged or cannot be used: {exc}") from exc
    except UnicodeDecodeError as exc:  # damage in the text of an error, or in a value
        raise JournalError(f"{path}: the journal is damaged: {exc}") from exc
    except OSError as exc:
        raise _system_error(path, exc) from exc


def _system_error(path: Path, exc: OSError) -> JournalError:
    kind = JournalFault if exc.errno in DISK_ERRNOS else JournalError
    return kind(f"{path}: the journal cannot be written or read: {exc.strerror or exc}")


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """An error about bytes or types that a journal of ours does not have, as the JournalError that names it."""
    try:
        yield
    except LookupError as exc:
        raise JournalError(f"{path}: the journal is damaged: it refers to {exc}, which is not there") from exc
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise JournalError(f"{path}: the journal is damaged: {exc}") from exc


# The journals that runs of this process write to. POSIX takes a process's locks from a file as soon as the process
# closes any descriptor of it, SQLite's locks as well: another program that then closes the database as its last user
# deletes the write-ahead log, and what the run commits afterwards is gone. So nobody but SQLite may open these.
written: set[tuple[int, int]] = set()


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_header(path: Path) -> None:
    """JournalError unless there is a file at `path` that bulkmail made (a SQLite database with our application id)."""
    if identity(path) in written:
        return
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        raise JournalError(f"{path}: there is no journal") from None
    except OSError as exc:
        raise JournalError(f"{path}: the journal cannot be read: {exc.strerror or exc}") from exc
    if not head.startswith(SQLITE_MAGIC) or head[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise JournalError(f"{path} is not a bulkmail journal")


# ---- the lock --------------------------------------------------------------------------------------------------------


def lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


class RunLock:
    """Keeps a second run out, from construction to release() or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Raises JournalError with the pid of the run that holds it, or where the journal's folder does not exist."""
        if not path.parent.is_dir():
            raise JournalError(f"{path}: the journal's folder {path.parent} does not exist; make it first")
        self._lock = FileLock(lock_path(path))
        try:
            self._lock.acquire(LOCK_SECONDS)
        except Held:
            raise JournalError(f"{path}: the journal is in use by another run{_holder(path)}") from None
        except OSError as exc:
            raise _system_error(lock_path(path), exc) from exc

    def release(self) -> None:
        self._lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(JournalError, sqlite3.Error, TypeError), reading(path) as db:
        pid, host = db.execute("SELECT pid, host FROM run ORDER BY fence DESC LIMIT 1").fetchone()
        return f", process {pid}" + (f" on {host}" if host != platform.node() else "")
    return ""


def is_live(path: Path, pid: int, host: str) -> bool:
    """Whether a run holds the journal now. pid, host: its last run's, asked where the lock cannot be."""
    if not lock_path(path).exists():
        return False
    lock = FileLock(lock_path(path))
    try:
        lock.acquire()
    except Held:
        return True
    except OSError:
        return host == platform.node() and _is_alive(pid)
    lock.release()
    return False


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether a run of this machine holds the journal now."""
    return is_live(Path(path), 0, "")


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return False  # there signal 0 is Ctrl-C, not a question
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---- connections -----------------------------------------------------------------------------------------------------


def _uri(path: Path, query: str) -> str:
    return f"{path.absolute().as_uri()}?{query}"


def _connect(path: Path, query: str) -> sqlite3.Connection:
    return sqlite3.connect(
        _uri(path, query), uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
    )


def open_for_run(path: Path, level: str) -> sqlite3.Connection:
    """A connection that may write, with the temporary view that `advance` inserts into."""
    db = _connect(path, "mode=rw")
    try:
        is_current(db, path)  # a newer one is refused as it is
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {LEVELS[level]}")
        db.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache too, where anything is synced
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        db.execute("PRAGMA temp_store = MEMORY")
        migrate(db, path)
        db.executescript(ADVANCE)
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, also while a run writes, after kill -9, and where the folder cannot be written.

    Keep transactions short: while one is open the write-ahead log cannot be cut back.
    """
    check_header(path)
    with guard(path), contextlib.ExitStack() as stack:
        yield stack.enter_context(as_current(_open_reader(path, stack), path))


def _open_reader(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    """SQLite reads a WAL journal by files beside it, which it makes if it must and may.

    Where it may not: without a write-ahead log the file is all there is; with one, a copy elsewhere is read.
    """
    try:
        return _try_reader(path, "mode=ro", stack)
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK) or not os.access(path, os.R_OK):
            raise
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size == 0:
        return _try_reader(path, "immutable=1", stack)
    import shutil
    import tempfile

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkmail-")))
    for part in (path, wal):
        shutil.copyfile(part, folder / part.name)
    return _try_reader(folder / path.name, "mode=rw", stack)


def _try_reader(path: Path, query: str, stack: contextlib.ExitStack) -> sqlite3.Connection:
    db = stack.enter_context(contextlib.closing(_connect(path, query)))
    db.execute("SELECT 1 FROM job").fetchone()
    return db


# ---- setting aside ---------------------------------------------------------------------------------------------------


def set_aside(path: Path, now: float | None = None) -> Path:
    """Rename a journal (and the recipients spooled beside it) so that a new job can begin; its new path.

    The name gets the time (`now`, Unix seconds): news.journal becomes news.20260131-235959.journal. Raises JournalError
    where it is in use or is no journal.
    """
    check_header(path)
    lock = RunLock(path)
    try:
        target = free_name(path, time.localtime(now))
        _move(path, target)
        return target
    finally:
        lock.release()


def bring_back(aside: Path, path: Path) -> None:
    """Undo set_aside: the new job could not begin, and what it left at `path` is gone."""
    lock = RunLock(path)
    try:
        _move(aside, path)
    finally:
        lock.release()


def _move(path: Path, target: Path) -> None:
    with guard(path):
        _move_spool(path, target)
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))


def free_name(path: Path, when: time.struct_time, mark: str = "") -> Path:
    """A name for a journal that is put aside: the mark and the time before its ending."""
    stamp = mark + time.strftime("%Y%m%d-%H%M%S", when)
    target = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.stem}.{stamp}-{count}{path.suffix}")
    return target


def _move_spool(path: Path, target: Path) -> None:
    """Rename what standard input or a .gz was spooled to, and let the journal know. A damaged journal keeps its own."""
    spool = path.with_name(path.name + ".recipients")
    moved = target.with_name(target.name + ".recipients")
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(_connect(path, "mode=rw")) as db:
        if spool.exists() and Path(db.execute("SELECT src_path FROM job").fetchone()[0]) == spool:
            db.execute("UPDATE job SET src_path = ?", (str(moved),))
            spool.rename(moved)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
