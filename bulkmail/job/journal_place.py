"""Where a run's journal is, and whether it is still there."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from bulkmail.job.disk import sync_folder
from bulkmail.job.journal_file import free_name, identity, written
from bulkmail.job.ledger import JournalFault

# A run looks this often (seconds) whether its journal still has its name: a system call, and the GIL with it.
PLACE_SECONDS = 1.0


class Place:
    """Of a journal that this process has open for a run, until leave().

    SQLite would go on writing to a file that was deleted, and all of it would be gone when the run ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = identity(path)
        self._looked_at = time.monotonic()
        self._lost: str | None = None
        if self._file is not None:
            written.add(self._file)

    def leave(self) -> None:
        """SQLite has closed it. Idempotent."""
        if self._file is not None:
            written.discard(self._file)

    def check(self, db: sqlite3.Connection, now: bool = False) -> None:
        """Once in PLACE_SECONDS, or `now`. Outside of transactions.

        JournalFault where the file at the path is another or none: what is committed is then in a copy beside it, which
        the error names.
        """
        if not now and time.monotonic() - self._looked_at < PLACE_SECONDS:
            return
        self._looked_at = time.monotonic()
        if self._lost is None and identity(self._path) != self._file:
            self._lost = f"{self._path}: the journal was moved, replaced or deleted while the job ran; {self._keep(db)}"
        if self._lost is not None:
            # The log keeps its name. It would be played into the copy that is given the journal's, whose pages are
            # others; and a journal that was moved lacks what stands in it.
            with contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise JournalFault(self._lost)

    def _keep(self, db: sqlite3.Connection) -> str:
        copy = free_name(self._path, time.localtime(), "rescued-")
        try:
            db.execute("VACUUM INTO ?", (str(copy),))
            sync_folder(copy.parent)
        except (sqlite3.Error, OSError) as error:
            return f"its record cannot be kept: {error}"
        return f"its record was kept as {copy}: give it the journal's name to resume"
