"""The journal in trouble: the disk is full or fails, the file is damaged, or taken away while it is written to."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bulkmail.errors import JournalError
from bulkmail.job import journal_file, journal_place
from bulkmail.job.journal import Journal
from bulkmail.job.journal_fill import make_file
from bulkmail.job.ledger import JournalFault, Trouble
from bulkmail.job.report import iter_report, status
from unit.job.journal_tools import PIN, child, fill, new_journal, read, settle

NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.journal"


# ---- damage ----------------------------------------------------------------------------------------------------------


def worked_on(path: Path, commits: int = 40) -> None:
    """A journal with some of everything, and its write-ahead log beside it, as after kill -9."""
    code = """
        import os
        from bulkmail.job.detail import DetailBuffer
        from bulkmail.job.ledger import NewChunk, Trouble
        journal = new_journal(path)
        fill(journal, chunks=3, n=200)
        chunk, = journal.lease(1, 1.0)
        main = journal.name_id("main")
        for i in range(1, int(sys.argv[2]) + 1):
            details = DetailBuffer()
            details.add(chunk.no, i - 1, 1, main, 0, 10.0, 11.0, 250, b"250 2.0.0 Ok: queued as %X\\r\\n" % i, ord("D"))
            late = Trouble("x@example.com", 300 + i, chunk.no, 150, 1, ord("d"), "busy", 450, "4.2.0", "later", main)
            retry = NewChunk("*", rows(300 + i, 1), 1, 1, 5.0, chunk.no)
            journal.advance(settle(chunk, b"D" * i, i + 2, troubles=[late], details=details.flush(), retries=[retry]))
        os._exit(9)
    """
    done = child(code, str(path), str(commits))
    assert done.returncode == 9, done.stderr


def read_all(path: Path, where: str) -> bool:
    """Read it as status, report and a resuming run do. False: a JournalError said why that cannot be."""
    try:
        counts = status(path)
        parts = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
        assert sum(counts[part] for part in parts) == counts["recipients"], where
        for _ in iter_report(path, read=read):
            pass
        with contextlib.closing(Journal.open(path)) as journal:
            journal.recover("resend", now=1.0)
            while journal.lease(1, 1e9):
                pass
    except JournalError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_a_torn_end_of_the_write_ahead_log_is_cut_back_to_a_commit(path: Path, seed: int) -> None:
    """Each commit delivers one more, so what is left says how many commits are."""
    worked_on(path)
    wal = path.with_name(path.name + "-wal")
    whole, chance = wal.read_bytes(), random.Random(seed)
    copy = path.with_name("copy.journal")
    found = []
    for size in [*sorted(chance.sample(range(len(whole)), 12)), len(whole)]:
        shutil.copyfile(path, copy)
        noise = chance.randbytes(min(512, len(whole) - size)) if chance.random() < 0.5 else b""
        copy.with_name("copy.journal-wal").write_bytes(whole[:size] + noise)
        copy.with_name("copy.journal-shm").unlink(missing_ok=True)
        with contextlib.closing(Journal.open(copy, manifest_digest="m1", pin=PIN)) as journal:
            if journal.filled:
                in_doubt = journal.recover()
                counts = journal.counts()
                assert (in_doubt, counts.recipients) == (2 if counts.delivered else 0, 600 + counts.deferred)
                found.append(counts.delivered)
    assert found == sorted(found)
    assert found[-1] == 40


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_rot_are_an_error_or_counts_that_add_up(path: Path, seed: int) -> None:
    worked_on(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, chance = path.read_bytes(), random.Random(seed)
    whole_ones = 0
    for _ in range(60):
        at = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at : at + chance.choice([1, 16, 512])] = chance.randbytes(chance.choice([1, 16, 512]))
        path.write_bytes(bytes(damaged[: len(whole)]))
        whole_ones += read_all(path, f"byte {at}")
    assert whole_ones > 0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_database_that_was_cut_off_is_an_error(path: Path, share: float) -> None:
    worked_on(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert not read_all(path, f"{share} of it")
    assert path.read_bytes() == whole[: int(len(whole) * share)]


# ---- the disk --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_fault_and_what_was_committed_stands(path: Path) -> None:
    journal = new_journal(path)
    fill(journal, chunks=2, n=1000)
    first, second = journal.lease(2, NOW)
    journal.advance(settle(first, b"D" * 500))
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFault, match=r"news\.journal: the journal cannot be written.*full"):
        for i in range(1000):
            big = Trouble("a" * 5000, i, second.no, 0, 1, ord("d"))
            journal.advance(settle(second, b"", claimed=i + 1, troubles=[big]))
    claimed = second.claimed
    journal._db.execute("PRAGMA max_page_count = 1000000")
    journal.advance(settle(second, b"", claimed=claimed))  # the same again, once there is room
    assert (journal.counts().delivered, journal.counts(live=False).in_doubt) == (500, claimed)
    journal.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("where", ["create", "fill", "advance"])
def test_a_disk_that_takes_no_more_stops_the_run_and_leaves_a_journal(path: Path, where: str) -> None:
    """The system refuses the write itself, as it does on a full disk."""
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        def limit(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        where = sys.argv[2]
        if where == "create":
            limit(20000)
        journal = new_journal(path)
        if where == "fill":
            limit(150_000)
        fill(journal, chunks=200, n=1000)
        limit(path.with_name(path.name + "-wal").stat().st_size + 50_000)
        chunk, = journal.lease(1, 1.0)
        for sent in range(1, 1001):
            journal.advance(settle(chunk, b"D" * sent))
            print(sent, flush=True)
    """
    result = child(code, str(path), where)
    assert "bulkmail.job.ledger.JournalFault" in result.stderr, result.stderr
    if where == "create":
        assert not path.exists()
        return
    journal = Journal.open(path)
    if where == "fill":
        assert (journal.filled, journal.counts().recipients) == (False, 0)
        fill(journal)
        assert journal.counts().recipients == 10
    else:
        journal.recover()
        assert journal.counts().delivered >= len(result.stdout.split()) > 0
    journal.close()


@pytest.mark.parametrize("what", ["news.journal.new", "news.journal-wal"])
def test_a_file_that_there_is_no_room_to_make_is_a_fault(path: Path, what: str) -> None:
    """A folder in its place: SQLite says the same as where the disk has no room for another name."""
    if what.endswith("-wal"):
        new_journal(path).close()
    path.with_name(what).mkdir()
    with pytest.raises(JournalFault if what.endswith("-wal") else JournalError, match="cannot be written or read"):
        (Journal.open if what.endswith("-wal") else new_journal)(path)


def test_an_unfinished_journal_from_a_killed_create_is_in_nobodys_way(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + ".new" + suffix).write_bytes(b"half a journal")
    new_journal(path).close()
    assert sorted(part.name for part in path.parent.iterdir()) == ["news.journal", "news.journal.lock"]


def test_a_new_journal_is_read_through_its_write_ahead_log_from_the_first(path: Path) -> None:
    """A run that is killed while it turns a database into one with such a log leaves what only a writer can read."""
    make_file(path, "news", "m1", PIN, {}, NOW)
    with path.open("rb") as file:
        assert file.read(20)[18:] == b"\2\2"  # https://sqlite.org/fileformat2.html, section 1.3.3
    assert [part.name for part in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("level", "synchronous"), [("process", 1), ("power", 2)])
def test_levels_ask_the_disk_for_what_they_promise(path: Path, level: str, synchronous: int) -> None:
    journal = new_journal(path, level=level)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()
    with pytest.raises(ValueError, match="level"):
        Journal.open(path, level="never")
    with pytest.raises(ValueError, match="level"):
        new_journal(path.with_name("other.journal"), level="never")
    assert not path.with_name("other.journal").exists()
    Journal.open(path, level=level).close()  # and the lock is free


def test_the_write_ahead_log_stays_bounded(path: Path) -> None:
    journal = new_journal(path)
    fill(journal, chunks=1, n=1000)
    (chunk,) = journal.lease(1, NOW)
    wal = path.with_name(path.name + "-wal")
    largest = 0
    for i in range(3000):
        journal.advance(settle(chunk, b"", claimed=1 + i // 3))
        largest = max(largest, wal.stat().st_size)
    assert largest < 2 * 4200 * journal_file.CHECKPOINT_PAGES
    journal.close()


def test_ten_thousand_recipients_take_no_more_than_six_bytes_each(path: Path) -> None:
    journal = new_journal(path)
    fill(journal, chunks=100, n=1000)
    journal.close()
    assert path.stat().st_size < 6 * 100_000


# ---- taken away while it is written to -------------------------------------------------------------------------------


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_place, "PLACE_SECONDS", 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be taken away")
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_journal_that_is_taken_away_stops_the_run_and_its_record_is_kept(
    path: Path, looks_at_once: None, how: str
) -> None:
    """SQLite goes on writing to what has no name; at the end all of it would be gone."""
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    journal.advance(settle(chunk, b"D"))
    if how == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("elsewhere"))
    if how == "replaced":
        path.write_bytes(b"another file")
    with pytest.raises(JournalFault, match="moved, replaced or deleted while the job ran; its record was kept as "):
        journal.advance(settle(chunk, b"DD"))
    with pytest.raises(JournalFault, match="its record was kept as "):
        journal.finish("stopped")
    with contextlib.suppress(JournalError):
        journal.close()
    log = path.with_name(f"{path.name}-wal")
    assert not log.exists() or log.stat().st_size == 0, "it would be played into the copy, and damage it"
    (kept,) = path.parent.glob("*.rescued-*.journal")
    kept.rename(path)
    with contextlib.closing(Journal.open(path, manifest_digest="m1", pin=PIN)) as journal:
        journal.recover()
        assert (journal.counts().delivered, journal.counts().recipients) == (2, 10)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder with an open file cannot be deleted")
def test_a_folder_that_is_deleted_is_told_as_it_is(path: Path, looks_at_once: None, tmp_path: Path) -> None:
    path = tmp_path / "gone" / "news.journal"
    path.parent.mkdir()
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    shutil.rmtree(path.parent)
    with pytest.raises(JournalFault, match="deleted while the job ran; its record cannot be kept: "):
        journal.advance(settle(chunk, b"D"))
    journal.close()


def test_looking_at_a_journal_from_the_process_that_writes_it_does_not_unlock_it(path: Path) -> None:
    """To open and close the file besides SQLite loses SQLite's locks (POSIX): a shell that then looks at the journal
    and leaves takes itself for its last user and deletes the write-ahead log, and the rest of the run goes nowhere."""
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    journal.advance(settle(chunk, b"D"))
    assert status(path)["delivered"] == 1
    shell = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM job'); db.close()"
    subprocess.run([sys.executable, "-c", shell, str(path)], check=True)
    assert path.with_name(path.name + "-wal").exists()
    journal.advance(settle(chunk, b"DD"))
    seen = child("from bulkmail.job.report import status; print(status(path)['delivered'])", str(path))
    assert (seen.stdout, seen.stderr) == ("2\n", "")
    journal.close()


# ---- others that hold it ---------------------------------------------------------------------------------------------


def test_a_shell_that_keeps_a_transaction_open_stops_the_run_and_harms_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "BUSY_SECONDS", 0.05)
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalFault, match="cannot be written or read: database is locked"):
            journal.advance(settle(chunk, b"D"))
    journal.advance(settle(chunk, b"D"))
    assert journal.counts().delivered == 1
    journal.close()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="root alone can become somebody else")
def test_a_journal_that_may_not_be_written_to_is_refused_by_a_run(path: Path) -> None:
    new_journal(path).close()
    for parent in path.parents[:4]:  # those that pytest has made for itself alone
        if parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    path.chmod(0o444)
    path.with_name(path.name + ".lock").chmod(0o666)
    code = """
        import os
        from bulkmail.errors import JournalError
        import filelock
        os.setuid(65534)
        try:
            Journal.open(path)
        except JournalError as error:
            print(type(error).__name__, error)
    """
    done = child(code, str(path))
    assert done.stdout.startswith(f"JournalError {path}: the journal cannot be written or read: "), done.stderr
