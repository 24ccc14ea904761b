"""The journal as a file: whose it is, who holds it, what it is pinned to, and what happens when the disk fails."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import filelock
import pytest

from bulkmail.errors import JournalError
from bulkmail.job import journal_file
from bulkmail.job.journal import Journal
from bulkmail.job.journal_file import reading, set_aside
from bulkmail.job.ledger import Fenced, JournalFault, NewChunk, Trouble
from bulkmail.job.report import status
from unit.job.journal_tools import PIN, FakePin, fill, new_journal, rows, settle

NOW = 1_700_000_000.0
TESTS = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.journal"


def child(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; `path` is its first argument."""
    head = "import sys; from pathlib import Path; path = Path(sys.argv[1])\nfrom unit.job.journal_tools import *\n"
    root = str(TESTS.parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(TESTS)])}
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )


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


# ---- what it is pinned to --------------------------------------------------------------------------------------------


def test_another_manifest_is_refused(path: Path) -> None:
    new_journal(path).close()
    with pytest.raises(JournalError, match=r"another manifest \(its job is 'news'\)"):
        Journal.open(path, manifest_digest="m2")
    Journal.open(path, manifest_digest="m1").close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"path": "/lists/other.jsonl"}, ["path"]),
        ({"format": "csv"}, ["format"]),
        ({"size": 5, "digest": "d2"}, ["size", "digest"]),
        ({"digest": "d2"}, ["digest"]),
        ({"mtime_ns": 1, "digest": None}, ["mtime"]),
        ({"mtime_ns": 1, "size": 7, "digest": None}, ["size", "mtime"]),
    ],
)
def test_changed_recipients_are_refused_by_what_changed(
    path: Path, change: dict[str, object], named: list[str]
) -> None:
    new_journal(path).close()
    with pytest.raises(JournalError) as caught:
        Journal.open(path, pin=PIN._replace(**change))
    words = str(caught.value).split("has another ")[1]
    assert [word for word in ("path", "format", "size", "mtime", "digest") if word in words] == named
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("pin", [PIN, PIN._replace(digest=None), PIN._replace(mtime_ns=1)])
def test_the_same_list_is_accepted(path: Path, pin: FakePin) -> None:
    new_journal(path).close()
    Journal.open(path, pin=pin).close()


def test_a_list_that_was_only_touched_is_pinned_to_its_new_time(path: Path) -> None:
    new_journal(path).close()
    Journal.open(path, pin=PIN._replace(mtime_ns=1)).close()
    Journal.open(path, pin=PIN._replace(mtime_ns=1, digest=None)).close()


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
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    here = host or platform.node()
    assert journal_file.is_live(path, os.getpid(), here) is (live and sys.platform != "win32")
    assert journal_file.is_live(path, gone.pid, here) is False
    with pytest.raises(JournalError, match=r"news\.journal\.lock: .*Permission denied"):
        Journal.open(path)


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


def test_an_unfinished_journal_from_a_killed_create_is_in_nobodys_way(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half a journal")
    new_journal(path).close()
    assert sorted(part.name for part in path.parent.iterdir()) == ["news.journal", "news.journal.lock"]


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
    assert (retry.route, retry.numbers) == ("slow", [1])
    journal.close()
    journal = Journal.open(path)
    journal.recover()
    assert journal.lease(1, NOW, ["slow"])[0].numbers == [1]
    journal.close()
