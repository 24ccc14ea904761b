"""A power cut, played: what a disk may hold of recorded writes, opened as a journal and held to the truth.

What was synced is there. Of what was not, each write is there, is not, or is there in part: by sectors of 512 bytes, in
any order. A file system keeps the order of its names (as those with a journal do), and what was not synced of them is
lost from some point on.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bulkmail.errors import JournalError
from bulkmail.job.journal import Journal
from bulkmail.job.report import iter_report
from campaign.life import Life, Wrong
from campaign.shim import Change, changes

SECTOR = 512


@dataclass
class File:
    """content: what is on the disk for good. loose: writes and truncates that are not."""

    content: bytearray = field(default_factory=bytearray)
    loose: list[Change] = field(default_factory=list)

    def apply(self, change: Change, keep: Sequence[bool] | None = None) -> None:
        """keep: which of its sectors arrive; all without it."""
        if change.kind == "t":
            del self.content[change.at :]
            self.content.extend(bytes(change.at - len(self.content)))
            return
        end = change.at + len(change.data)
        self.content.extend(bytes(max(0, change.at - len(self.content))))
        if keep is None:
            self.content[change.at : end] = change.data
            return
        for i, (start, stop) in enumerate(sectors(change.at, end)):
            if keep[i]:
                self.content.extend(bytes(max(0, start - len(self.content))))
                self.content[start:stop] = change.data[start - change.at : stop - change.at]

    def settle(self) -> None:
        for change in self.loose:
            self.apply(change)
        self.loose.clear()

    def cut(self, chance: random.Random) -> None:
        """The power goes: some of what is loose arrives."""
        style = chance.choice(["none", "all", "some", "torn", "torn"])
        loose = list(self.loose)
        if style in ("some", "torn"):
            chance.shuffle(loose)
        for change in loose:
            if style == "all" or (style == "some" and chance.random() < 0.5):
                self.apply(change)
            elif style == "torn":
                count = len(list(sectors(change.at, change.at + len(change.data)))) or 1
                arrived = [chance.random() < 0.6 for _ in range(count)]
                if change.kind == "w" or arrived[0]:
                    self.apply(change, arrived)
        self.loose.clear()


def sectors(start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a write that lie in one sector each."""
    edges = [start, *range(start - start % SECTOR + SECTOR, end, SECTOR), end] if end > start else []
    return list(itertools.pairwise(edges))


class Disk:
    """files by inode; names that are there for good, and changes of names that are not."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[str, int] = {}
        self.loose: list[Change] = []

    def take(self, change: Change) -> None:
        if change.kind in "wt":
            self.files.setdefault(change.file, File()).loose.append(change)
        elif change.kind == "s":
            self.files.setdefault(change.file, File()).settle()
        elif change.kind == "d":
            self._rename(len(self.loose))
        else:
            if change.kind == "c":
                self.files[change.file] = File()  # an inode's number may have been another file's
            self.loose.append(change)

    def _rename(self, count: int) -> None:
        for change in self.loose[:count]:
            if change.kind == "c":
                self.names[change.name] = change.file
            elif change.kind == "u":
                self.names.pop(change.name, None)
            elif change.name in self.names:
                self.names[change.data.decode()] = self.names.pop(change.name)
        del self.loose[:count]

    def cut(self, chance: random.Random, folder: Path) -> None:
        """What is left after a power cut, as files in `folder`."""
        self._rename(chance.choice([0, len(self.loose), chance.randint(0, len(self.loose))]))
        for file in self.files.values():
            file.cut(chance)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, inode in self.names.items():
            (folder / name).write_bytes(self.files[inode].content)


def check_cuts(job: Life, log: Path, chance: random.Random, cuts: int) -> Counter[str]:
    """Cut the power at so many moments of a recorded job and check what is left each time."""
    history, tally = list(changes(log)), Counter[str]()
    moments = sorted(chance.choices(range(1, len(history)), k=cuts)) if len(history) > 1 else []
    for moment in moments:
        disk = Disk()
        for change in history[:moment]:
            disk.take(change)
        disk.cut(chance, job.folder / "after")
        taken = {address for address, times in job.taken.items() if times[0] < history[moment].begun}
        tally[f"power cuts at level {job.shape.level}"] += 1
        tally.update(check_left(job, taken, f"cut before change {moment}"))
    return tally


def check_left(job: Life, taken: set[str], where: str) -> Counter[str]:
    """taken: who had the message when the power went."""
    path, power = job.folder / "after" / "job.journal", job.shape.level == "power"
    if not path.exists():
        if power and taken:
            raise Wrong(f"{where}: {len(taken)} have the message and there is no journal")
        return Counter({"cuts before there was a journal": 1})
    try:
        said = resumed(job, path)
    except JournalError as error:
        raise Wrong(f"{where}: {error}") from error
    if power and not said and taken:
        raise Wrong(f"{where}: {len(taken)} have the message and the journal has no recipients")
    forgotten = [address for address in taken if said.get(address) not in ("delivered", "in_doubt")]
    if power and forgotten:
        raise Wrong(f"{where}: {len(forgotten)} would be sent to twice, such as {forgotten[0]}")
    false = [address for address, state in said.items() if state == "delivered" and address not in taken]
    if false:
        raise Wrong(f"{where}: {len(false)} are called delivered and are not, such as {false[0]}")
    return Counter(
        {"forgotten at level process": len(forgotten), "in doubt after cuts": list(said.values()).count("in_doubt")}
    )


def resumed(job: Life, path: Path) -> dict[str, str]:
    """Open it as a resuming run does: the state of everybody, {} where the recipients are not in."""
    spool = path.with_name(path.name + ".recipients")
    with contextlib.closing(Journal.open(path)) as journal:
        (whole,) = journal._db.execute("PRAGMA integrity_check").fetchone()
        if whole != "ok":
            raise Wrong(f"the database is damaged: {whole}")
        if not journal.filled:
            return {}
        journal.recover("skip")
        counts = journal.counts()
        if counts.recipients != len(job.known):
            raise Wrong(f"{counts.recipients} recipients of {len(job.known)}")
        source = Path(journal._db.execute("SELECT src_path FROM job").fetchone()[0])
        if source.parent == job.journal.parent:
            if job.shape.level == "power" or spool.exists():
                point_to(journal._db, spool)
            else:
                return {}
    return {row["recipient"]: row["state"] for row in iter_report(path)}


def point_to(db: sqlite3.Connection, spool: Path) -> None:
    """The copy of the recipients that came with the journal, wherever that is now. OSError where it did not come."""
    found = spool.stat()
    db.execute(
        "UPDATE job SET src_path = ?, src_size = ?, src_mtime_ns = ?", (str(spool), found.st_size, found.st_mtime_ns)
    )
