"""Mailboxes of every kind, whole and damaged: each message once, of a bounded size."""

from __future__ import annotations

import io
import mailbox
from pathlib import Path
from typing import Any

import pytest

from bulkmail.bounces.mailboxes import MAX_READ, messages
from bulkmail.errors import ConfigError


def read(*paths: Any) -> list[tuple[str, bytes]]:
    return [(raw.name, raw.data) for raw in messages(map(str, paths))]


def test_a_maildir_of_the_standard_library(tmp_path: Path) -> None:
    box = mailbox.Maildir(tmp_path / "box")
    for n in range(3):
        box.add(f"Subject: {n}\n\nbody\n")
    next(iter(box)).set_subdir("cur")
    assert sorted(data for _, data in read(tmp_path / "box")) == [b"Subject: %d\n\nbody\n" % n for n in range(3)]


def test_an_mbox_of_the_standard_library_with_quoted_from_lines(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "box")
    box.add("Subject: 1\n\nFrom here on\n\nFrom there\n")
    box.add("Subject: 2\n\nbody\n")
    box.flush()
    box.close()
    found = [data.rstrip() for _, data in read(tmp_path / "box")]
    assert found == [b"Subject: 1\n\nFrom here on\n\nFrom there", b"Subject: 2\n\nbody"]


def test_an_mbox_with_windows_newlines_and_no_end(tmp_path: Path) -> None:
    file = tmp_path / "box"
    file.write_bytes(b"From a\r\nSubject: 1\r\n\r\nx\r\n\r\nFrom b\r\nSubject: 2\r\n\r\nwithout an end")
    assert [data.split(b"\r\n")[0] for _, data in read(file)] == [b"Subject: 1", b"Subject: 2"]


def test_a_folder_of_files_takes_messages_alone(tmp_path: Path) -> None:
    for name in ("b.eml", "a.EML", ".hidden.eml", "notes.pdf"):
        (tmp_path / name).write_text(f"Subject: {name}\n\n")
    assert [Path(name).name for name, _ in read(tmp_path)] == ["a.EML", "b.eml"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"Subject: 1\n\nbody\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    assert read("-") == [("standard input", b"Subject: 1\n\nbody\n")]


def test_what_is_huge_is_cut_and_the_next_message_found(tmp_path: Path) -> None:
    line = b"x" * 1000 + b"\n"
    (tmp_path / "a.eml").write_bytes(b"Subject: 1\n\n" + line * 3000)
    (tmp_path / "box").write_bytes(b"From a\nSubject: 1\n\n" + b"y" * 3_000_000 + b"\n\nFrom b\nSubject: 2\n\n")
    assert [len(data) for _, data in read(tmp_path / "a.eml")] == [MAX_READ]
    first, second = read(tmp_path / "box")
    assert len(first[1]) < MAX_READ + (1 << 16) and second[1].startswith(b"Subject: 2")


def test_what_cannot_be_read_is_said_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1").write_bytes(b"")
    (tmp_path / "new" / "2").write_bytes(b"Subject: 2\n\n")
    found = list(messages([str(tmp_path)]))
    assert [raw.problem for raw in found] == ["it is empty", None]


def test_a_path_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        next(messages(["-", str(tmp_path / "nowhere")]))
    with pytest.raises(ConfigError, match="expected a Maildir"):
        read(tmp_path)
