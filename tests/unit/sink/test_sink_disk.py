"""A disk that fails at any point: what was accepted is wholly there, nothing else is, and it goes on afterwards.

The incident: a sink that answered 250 for a message of which half was written, or refused one and kept it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import maildir as maildir_module
from bulkmail.sink.maildir import Maildir
from bulkmail.sink.mbox import Mbox
from unit.sink.store_talk import BadDisk, deliver, in_maildir, in_mbox, message, settled

CONTENTS = [b"Subject: %d\n\n" % n + b"x" * size + b"\n" for n, size in enumerate((10, 3000, 40))]
STORES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], list[bytes]]]] = {
    "maildir": (Maildir, in_maildir),
    "maildir-fsync": (lambda path: Maildir(path, fsync=True), in_maildir),
    "mbox": (Mbox, in_mbox),
    "mbox-fsync": (lambda path: Mbox(path, fsync=True), in_mbox),
}


def after_a_failure(kind: str, path: Path, disk: BadDisk) -> int:
    """Three messages on a disk that may fail, then one on a good one. How many were refused."""
    make, read = STORES[kind]
    store = make(path)
    with asyncio.Runner() as runner:
        with pytest.MonkeyPatch.context() as patch:
            disk.arm(patch)
            outcomes = [deliver(store, n, content, runner) for n, content in enumerate(CONTENTS)]
        taken = [content for content, no in zip(CONTENTS, outcomes, strict=True) if no is None]
        assert read(path) == sorted(taken), disk
        assert {no.code for no in outcomes if no} <= {452 if disk.code in (errno.ENOSPC, errno.EDQUOT) else 451}
        assert deliver(store, 9, b"after\n", runner) is None
        assert read(path) == sorted([*taken, b"after\n"]), disk
    store.close()
    return len(outcomes) - len(taken)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir_module, "SPILL_BYTES", 1500)


def calls_of(kind: str, path: Path) -> list[str]:
    disk = BadDisk()
    assert after_a_failure(kind, path, disk) == 0
    return disk.calls


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails(kind: str, code: int, tmp_path: Path) -> None:
    calls = calls_of(kind, tmp_path / "good")
    assert {"open", "write", "close"} <= set(calls) and ("fsync" in calls) == ("fsync" in kind)
    for number in range(1, len(calls) + 1):
        refused = after_a_failure(kind, tmp_path / str(number), BadDisk(fails_at=number, code=code))
        assert refused == 1, calls[number - 1]


@pytest.mark.parametrize("kind", STORES)
def test_wherever_the_room_ends(kind: str, tmp_path: Path) -> None:
    room, refused = 0, 3
    while refused:
        now = after_a_failure(kind, tmp_path / str(room), BadDisk(room=room))
        assert now <= 3
        refused, room = now, room + 29


@pytest.mark.parametrize("code, reply", [
    (errno.ENOSPC, 452), (errno.EDQUOT, 452), (errno.EFBIG, 452),
    (errno.EROFS, 451), (errno.EMFILE, 451), (errno.ENFILE, 451), (errno.EACCES, 451), (errno.EIO, 451),
])  # fmt: skip
def test_what_a_client_hears(code: int, reply: int, tmp_path: Path) -> None:
    store = Maildir(tmp_path)
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        BadDisk(fails_at=1, code=code).arm(patch)
        no = deliver(store, 1, b"x", runner)
    assert no is not None and (no.code, no.enhanced) == (reply, "4.3.1" if reply == 452 else "4.3.0")
    assert isinstance(no.__cause__, OSError) and no.__cause__.errno == code
    store.close()


def test_one_of_a_group_that_cannot_be_renamed_does_not_harm_the_others(tmp_path: Path) -> None:
    real, box = os.rename, Maildir(tmp_path, fsync=True)
    group = [box.begin(message(n)) for n in range(5)]
    for incoming in group:
        incoming.write(b"x")
        incoming._complete()

    def rename(source: str, target: str) -> None:
        if source.endswith((group[0]._name, group[2]._name)):
            raise OSError(errno.EIO, "broken")
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        outcomes = box.publish(group)
    assert [outcome is None for outcome in outcomes] == [False, True, False, True, True]
    lines = (tmp_path / "envelopes.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["id.1", "id.3", "id.4"]
    assert len(list((tmp_path / "new").iterdir())) == 3
    box.close()


def test_a_line_that_cannot_be_cut_off_at_once_is_cut_off_before_the_next(tmp_path: Path) -> None:
    box = Maildir(tmp_path)
    with asyncio.Runner() as runner:
        assert deliver(box, 1, b"one\n", runner) is None
        with pytest.MonkeyPatch.context() as patch:
            BadDisk(room=30).arm(patch)
            patch.setattr(os, "ftruncate", lambda *_: broken())
            assert deliver(box, 2, b"two\n", runner) is not None
            assert deliver(box, 3, b"three\n", runner) is not None  # the line before it is still there
        assert deliver(box, 4, b"four\n", runner) is None
    assert in_maildir(tmp_path) == [b"four\n", b"one\n"]
    box.close()


def broken() -> None:
    raise OSError(errno.EIO, "broken")


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    box = Maildir(tmp_path)
    with asyncio.Runner() as runner:
        assert deliver(box, 1, b"one\n", runner) is None
        box.close()
        with (tmp_path / "envelopes.jsonl").open("ab") as file:
            file.write(b'{"id": "cut sh' + b"x" * 5000)
        box = Maildir(tmp_path)
        assert deliver(box, 2, b"two\n", runner) is None
    assert in_maildir(tmp_path) == [b"one\n", b"two\n"]
    box.close()


def test_a_file_of_envelopes_that_was_removed_is_made_again(tmp_path: Path) -> None:
    box = Maildir(tmp_path)
    with asyncio.Runner() as runner:
        assert deliver(box, 1, b"one\n", runner) is None
        for file in [tmp_path / "envelopes.jsonl", *(tmp_path / "new").iterdir()]:
            file.unlink()
        assert deliver(box, 2, b"two\n", runner) is None
    assert in_maildir(tmp_path) == [b"two\n"]
    box.close()


def test_a_folder_that_was_removed_refuses_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    box = Maildir(folder)
    with asyncio.Runner() as runner:
        folder.rename(tmp_path / "away")
        no = deliver(box, 1, b"one\n", runner)
        assert no is not None and no.code == 451
        (tmp_path / "away").rename(folder)
        assert deliver(box, 2, b"two\n", runner) is None
    assert in_maildir(folder) == [b"two\n"]
    box.close()


def test_those_who_come_while_the_disk_is_busy_share_its_syncs(tmp_path: Path) -> None:
    disk, box = BadDisk(), Maildir(tmp_path, fsync=True)

    async def all_at_once() -> None:
        group = [box.begin(message(n)) for n in range(50)]
        await asyncio.gather(*(settled(incoming.commit()) for incoming in group))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        disk.arm(patch)
        asyncio.run(all_at_once())
    assert len(in_maildir(tmp_path)) == 50
    # One for each file; of the others, two for each group: the first of those has one message or more.
    assert 50 + 2 <= disk.calls.count("fsync") < 50 + 2 * 50
    box.close()
