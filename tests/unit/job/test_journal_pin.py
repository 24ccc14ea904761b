"""A journal belongs to one manifest and one list: others are refused, the same are known again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.journal import Journal
from unit.job.journal_tools import PIN, FakePin, new_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.journal"


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
        ({"size": 5, "path": "/lists/other.jsonl"}, ["path", "size"]),
        ({"mtime_ns": 1, "digest": "d2"}, ["digest"]),
        ({"mtime_ns": 1, "digest": None}, ["mtime"]),
        ({"mtime_ns": 1, "size": 7, "digest": None}, ["size"]),
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


class _UnreadPin:
    """Of a list that nobody wants to read whole again."""

    path, format, size = PIN.path, PIN.format, PIN.size

    def __init__(self, mtime_ns: int) -> None:
        self.mtime_ns, self.asked = mtime_ns, False

    @property
    def digest(self) -> str:
        self.asked = True
        return "d2"


def test_a_list_of_the_same_size_and_time_is_not_read_again(path: Path) -> None:
    new_journal(path).close()
    pin = _UnreadPin(PIN.mtime_ns)
    Journal.open(path, pin=pin).close()
    assert not pin.asked


def test_a_list_written_just_before_the_job_began_is_read_again(path: Path) -> None:
    written = PIN._replace(mtime_ns=1_700_000_000 * 10**9)
    Journal.create(path, job="news", manifest_digest="m1", pin=written, now=1_700_000_001.9).close()
    with pytest.raises(JournalError, match="another digest"):
        Journal.open(path, pin=_UnreadPin(written.mtime_ns))
    Journal.open(path, pin=written).close()


def test_a_list_that_was_touched_is_accepted_where_nobody_is_in_yet(path: Path) -> None:
    """The disk was full before the first recipient was in: the list is read anew."""
    unread = PIN._replace(digest=None)
    Journal.create(path, job="news", manifest_digest="m1", pin=unread).close()
    Journal.open(path, pin=unread._replace(mtime_ns=1)).close()
    with pytest.raises(JournalError, match="another size"):
        Journal.open(path, pin=unread._replace(size=7, mtime_ns=1))
