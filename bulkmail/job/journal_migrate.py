"""Journals of older versions: brought to the present format step by step, in place for a run, in a copy for readers.

To change the tables: change `journal_schema`, add the step here, count SCHEMA_VERSION up, and keep a journal of the old
format among the tests' data. Views are made anew after the last step.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from bulkmail.errors import JournalError
from bulkmail.job.journal_schema import VIEWS

Step = Callable[[sqlite3.Connection], object]

FIRST_VERSION = 1  # the oldest format that there is
# What makes format n + 1 of format n = FIRST_VERSION + its place. A step changes tables and knows no code but its own
# SQL: what it calls today may do something else tomorrow.
STEPS: tuple[Step, ...] = ()


def is_current(db: sqlite3.Connection, path: Path, steps: tuple[Step, ...] | None = None) -> bool:
    """Whether it has the present format. JournalError where this program cannot bring it there."""
    found, newest = _version(db), _newest(steps)
    if found > newest:
        raise JournalError(
            f"{path}: the journal has format {found}, made by a newer bulkmail; this one knows formats up to {newest}"
        )
    if found < FIRST_VERSION:
        raise JournalError(f"{path}: the journal is damaged: it has format {found}, and none is before {FIRST_VERSION}")
    return found == newest


def migrate(db: sqlite3.Connection, path: Path, steps: tuple[Step, ...] | None = None) -> None:
    """Bring it to the present format. A transaction for each step: who is killed in between goes on from there."""
    given = STEPS if steps is None else steps
    while not is_current(db, path, given):
        _take_step(db, given)


def _take_step(db: sqlite3.Connection, steps: tuple[Step, ...]) -> None:
    with _transaction(db):
        version = _version(db)
        for (view,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall():
            db.execute(f'DROP VIEW "{view}"')
        steps[version - FIRST_VERSION](db)
        if version + 1 == _newest(steps):
            for statement in filter(str.strip, VIEWS.split(";\n")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {version + 1}")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _newest(steps: tuple[Step, ...] | None) -> int:
    return FIRST_VERSION + len(STEPS if steps is None else steps)


@contextlib.contextmanager
def as_current(db: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to read from: `db` itself, or where it is older a copy in the present format, which goes at the end.

    The copy is a temporary file of SQLite's: a journal may be larger than the memory.
    """
    if is_current(db, path):
        yield db
        return
    with contextlib.closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as copy:
        db.backup(copy)
        migrate(copy, path)
        yield copy
