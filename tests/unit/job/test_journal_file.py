"""The journal as a file: whose it is, who holds it, what it is pinned to, and what happens when the disk fails."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from bulkmail.errors import JournalError
from bulkmail.job import file_lock, journal_file
from bulkmail.job.journal import Journal
from bulkmail.job.journal_file import reading, set_aside
from bulkmail.job.ledger import Fenced, NewChunk, Trouble
from bulkmail.job.report import status
from unit.job.journal_tools import PIN, child, fill, new_journal, rows, settle

NOW = 1_700_000_000.0
TESTS = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.journal"


# ---- whose it is -----------------------------------------------------------------------------------------------------


def test_an_existing_journal_is_not_overwritten(path: Path) -> None:
    new_journal(path).close()
    with pytest.raises(JournalError, match="there is a journal already"):
        new_journal(path)


def test_a_missing_journal_is_named(path: Path) -> None:
    for call in (Journal.open, status):
        with pytest.raises(JournalError, match=r"news\.journal: there is no journal"):
            call(path)
    assert not list(path.parent.iterdir())


def test_a_folder_that_does_not_exist_is_named_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(JournalError, match=f"folder {folder} does not exist"):
        new_journal(folder / "news.journal")
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + bytes(200)])
def test_a_foreign_file_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for call in (Journal.open, status, set_aside):
        with pytest.raises(JournalError, match="is not a bulkmail journal"):
            call(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE job (job)")
    with pytest.raises(JournalError, match="is not a bulkmail journal"):
        Journal.open(path)


def test_a_journal_of_another_format_is_refused(path: Path) -> None:
    new_journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    for call in (Journal.open, status):
        with pytest.raises(JournalError, match="format 99"):
            call(path)


def test_a_damaged_journal_is_an_error_that_says_so(path: Path) -> None:
    journal = new_journal(path)
    fill(journal, chunks=20, n=1000)
    journal.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xaa" * (len(data) - 4096)
    path.write_bytes(data)
    for call in (Journal.open, status):
        with pytest.raises(JournalError, match="damaged"):
            call(path)


def test_an_outcome_that_is_none_is_damage(path: Path) -> None:
    journal = new_journal(path)
    fill(journal)
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE chunk SET outcome = CAST('.........x' AS BLOB) WHERE no = 1")
        db.commit()
    with pytest.raises(JournalError, match=r"damaged.*1 of 10 bytes"):
        status(path)


@pytest.mark.parametrize("change", ["outcome = 'DDDDDDDDDD'", "outcome = x'44'", "claimed = 11", "claimed = -1"])
def test_a_hand_that_edits_cannot_break_a_chunk(path: Path, change: str) -> None:
    with contextlib.closing(new_journal(path)) as journal:
        fill(journal)
    with contextlib.closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(f"UPDATE chunk SET {change}")


# ---- what it holds besides -------------------------------------------------------------------------------------------


def test_settings_and_the_job_come_back(path: Path) -> None:
    new_journal(path, meta={"message_id_domain": "example.com"}).close()
    with contextlib.closing(Journal.open(path)) as journal:
        assert (journal.job, journal.meta, journal.fence) == ("news", {"message_id_domain": "example.com"}, 2)


# ---- who holds it ----------------------------------------------------------------------------------------------------


def test_a_second_run_is_kept_out_and_told_the_first_ones_pid(path: Path) -> None:
    journal = new_journal(path)
    result = child("Journal.open(path)", str(path))
    assert f"news.journal: the journal is in use by another run, process {os.getpid()}\n" in result.stderr
    with pytest.raises(JournalError, match="in use"):
        set_aside(path)
    journal.close()
    assert child("Journal.open(path).close()", str(path)).returncode == 0


def test_readers_do_not_keep_a_run_out(path: Path) -> None:
    new_journal(path).close()
    with reading(path) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM job").fetchall()
        journal = Journal.open(path)
        fill(journal)
        assert db.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
        journal.close()


def test_a_run_waits_out_a_reader_that_asks_whether_it_lives(path: Path) -> None:
    """The question takes the lock for a moment; a run that begins in that moment must not be refused."""
    new_journal(path).close()
    code = """
        import filelock, time
        with filelock.FileLock(sys.argv[1] + ".lock"):
            print("held", flush=True)
            sys.stdin.read()
            time.sleep(0.1)
    """
    head = "import sys\n" + textwrap.dedent(code)
    holder = subprocess.Popen([sys.executable, "-c", head, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.stdin.close()
    Journal.open(path).close()
    assert holder.wait(10) == 0
    holder.stdout.close()


def test_a_run_that_lost_its_journal_to_another_is_fenced(path: Path) -> None:
    """As when a lock is lost on a network file system: the newest run alone may write."""
    old = new_journal(path)
    fill(old, n=4)
    (chunk,) = old.lease(1, NOW)
    old._lock.release()
    new = Journal.open(path)
    batch = settle(chunk, b"D", troubles=[Trouble("a@example.com", 1, 1, 0, 1, ord("F"))])
    for attempt in (lambda: old.advance(batch), lambda: old.finish("finished"), lambda: old.release([(chunk.no, 0)])):
        with pytest.raises(Fenced, match="another run"):
            attempt()
    new.recover()
    assert new.counts().pending == 4
    assert new._db.execute("SELECT count(*) FROM trouble").fetchone() == (0,)
    old._db.close()
    new.close()


@pytest.mark.parametrize(("host", "live"), [(None, True), ("another.example", False)])
def test_where_the_lock_cannot_be_asked_the_process_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None, live: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    new_journal(path).close()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(file_lock.FileLock, "acquire", refuse)
    here = host or platform.node()
    assert journal_file.is_live(path, os.getpid(), here) is (live and sys.platform != "win32")
    assert journal_file.is_live(path, gone.pid, here) is False
    with pytest.raises(JournalError, match=r"news\.journal\.lock: .*Permission denied"):
        Journal.open(path)


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_where_the_file_system_has_no_flock_the_lock_is_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    first = file_lock.FileLock(path)
    first.acquire()
    with pytest.raises(file_lock.Held):
        file_lock.FileLock(path).acquire()
    first.release()
    again = file_lock.FileLock(path)
    again.acquire()
    again.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_lock_that_is_released_is_not_kept_by_a_process_forked_meanwhile(path: Path) -> None:
    lock = file_lock.FileLock(path)
    lock.acquire()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)  # until the test has its answer
        os._exit(0)
    try:
        lock.release()
        again = file_lock.FileLock(path)
        again.acquire()
        again.release()
    finally:
        os.close(theirs)
        os.waitpid(child, 0)
        os.close(ours)


def test_a_lock_is_waited_for_as_long_as_was_said(path: Path) -> None:
    first, second = file_lock.FileLock(path), file_lock.FileLock(path)
    first.acquire()
    begun = time.monotonic()
    with pytest.raises(file_lock.Held):
        second.acquire(0.1)
    assert time.monotonic() - begun >= 0.1
    threading.Timer(0.1, first.release).start()
    second.acquire(30)
    second.release()


def test_closing_twice_is_harmless_and_frees_the_lock(path: Path) -> None:
    journal = new_journal(path)
    journal.close()
    journal.close()
    Journal.open(path).close()


# ---- readers ---------------------------------------------------------------------------------------------------------


def test_status_is_read_by_others_while_a_run_writes(path: Path) -> None:
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    for sent in range(1, 11):
        journal.advance(settle(chunk, b"D" * sent))
        summary = status(path)
        assert (summary["state"], summary["delivered"], summary["recipients"]) == ("running", sent, 10)
    journal.close()
    assert status(path)["state"] == "stopped"


CRASHED = """
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, 1.0)
    journal.advance(settle(chunk, b"DD", 3))
    import os
    os._exit(9)
"""


def test_status_after_a_crash_counts_the_claimed_as_in_doubt(path: Path) -> None:
    assert child(CRASHED, str(path)).returncode == 9
    summary = status(path)
    assert (summary["state"], summary["delivered"], summary["in_doubt"], summary["pending"]) == ("stopped", 2, 1, 7)


# Root may write anywhere, so it gives that up; what is imported late is imported before, since only root may read it.
READ_AS_NOBODY = """
    import os, tempfile
    from bulkmail.job.report import status
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other.journal"
        new_journal(other).close()
        status(other)
    if os.geteuid() == 0:
        os.setuid(65534)
    assert not os.access(path.parent, os.W_OK)
    print(status(path)["delivered"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no write permission there")
@pytest.mark.parametrize("how", ["closed", "crashed"])
def test_a_journal_in_a_folder_that_cannot_be_written_can_be_read(path: Path, how: str) -> None:
    if how == "crashed":
        child(CRASHED, str(path))
        path.with_name(path.name + "-shm").unlink()  # a copy on a read-only medium may come without it
    else:
        with contextlib.closing(new_journal(path)) as journal:
            fill(journal)
            journal.advance(settle(journal.lease(1, NOW)[0], b"DD"))
    for parent in path.parents[:3]:
        parent.chmod(0o755)  # pytest's own folders are for one user alone
    for part in path.parent.iterdir():
        part.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        result = child(READ_AS_NOBODY, str(path))
        assert (result.stdout, result.stderr) == ("2\n", "")
    finally:
        path.parent.chmod(0o755)


def test_reading_leaves_no_files_behind_a_closed_journal(path: Path) -> None:
    new_journal(path).close()
    before = sorted(part.name for part in path.parent.iterdir())
    status(path)
    after = sorted(part.name for part in path.parent.iterdir())
    assert [name for name in after if not name.endswith(("-wal", "-shm"))] == before
    Journal.open(path).close()
    assert sorted(part.name for part in path.parent.iterdir()) == before


# ---- setting aside ---------------------------------------------------------------------------------------------------


def test_setting_aside_keeps_the_old_journal_under_its_time(path: Path) -> None:
    assert child(CRASHED, str(path)).returncode == 9
    first = set_aside(path, NOW)
    assert not path.exists() and not path.with_name(path.name + "-wal").exists()
    new_journal(path).close()
    second = set_aside(path, NOW)
    assert (first.suffix, second.stem) == (".journal", first.stem + "-2")
    assert first.stem.startswith("news.202311")
    assert status(first)["delivered"] == 2


def test_what_was_spooled_goes_with_its_journal(path: Path) -> None:
    spool = path.with_name(path.name + ".recipients")
    spool.write_text("rows")
    new_journal(path, pin=PIN._replace(path=str(spool))).close()
    target = set_aside(path, NOW)
    moved = target.with_name(target.name + ".recipients")
    assert (spool.exists(), moved.read_text()) == (False, "rows")
    with reading(target) as db:
        assert db.execute("SELECT src_path FROM job").fetchone() == (str(moved),)


def test_a_list_of_ones_own_stays_where_it_is(path: Path) -> None:
    new_journal(path).close()
    path.with_name(path.name + ".recipients").write_text("not this journal's")
    target = set_aside(path, NOW)
    assert path.with_name(path.name + ".recipients").exists()
    with reading(target) as db:
        assert db.execute("SELECT src_path FROM job").fetchone() == (PIN.path,)


def test_a_retry_for_a_route_that_the_fill_did_not_know(path: Path) -> None:
    journal = new_journal(path)
    fill(journal, n=2)
    (chunk,) = journal.lease(1, NOW)
    journal.advance(settle(chunk, b"mD", retries=[NewChunk("slow", rows(1, 1), 1, 1, 0.0, 1)]))
    (retry,) = journal.lease(1, NOW, ["slow"])
    assert (retry.route, list(retry.numbers)) == ("slow", [1])
    journal.close()
    journal = Journal.open(path)
    journal.recover()
    assert list(journal.lease(1, NOW, ["slow"])[0].numbers) == [1]
    journal.close()


# ---- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-400 * 86_400, -3600, 3600])
def test_a_retry_waits_no_longer_because_the_clock_was_put_back(path: Path, jump: int) -> None:
    """A machine comes up with a clock of next year, sends, and then asks for the time: retries waited for that year."""
    journal = new_journal(path, now=NOW)
    fill(journal, n=2)
    (chunk,) = journal.lease(1, NOW)
    journal.advance(settle(chunk, b"mD", retries=[NewChunk("*", rows(1, 1), 1, 1, NOW + 60, 1)]))
    journal.close()
    for _ in range(2):  # the second run finds the times as the first has put them
        journal = Journal.open(path, now=NOW + jump)
        journal.recover()
        due = journal.next_due(NOW + jump)
        assert due is not None and due - (NOW + jump) == pytest.approx(60 if jump < 0 else 0, abs=5)
        journal.close()


def test_the_time_of_a_run_does_not_jump_with_the_clock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = new_journal(path)
    fill(journal)
    (chunk,) = journal.lease(1, NOW)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    journal.advance(settle(chunk, b"D"))
    monkeypatch.undo()
    journal.finish("stopped")
    assert status(path)["seconds"] < 60
    journal.close()
