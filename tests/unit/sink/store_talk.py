"""Stores without a server: a message in, its verdict out; and a disk that fails when a test says so."""

from __future__ import annotations

import asyncio
import errno
import json
import mailbox
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Message, Refuse
from bulkmail.sink.store import Store

WHEN = datetime(2024, 1, 2, 3, 4, 5, 6, UTC)


def message(number: int = 1, sender: str = "a@b", recipients: list[str] | None = None) -> Message:
    return Message(
        f"id.{number}", sender, recipients or ["c@d"], {}, "192.0.2.1", 1234, None, "me", None, None, WHEN
    )  # fmt: skip


async def settled(later: Awaitable[None]) -> None:
    await later


def deliver(store: Store, number: int, content: bytes, runner: asyncio.Runner) -> Refuse | None:
    """Store a message; why it was refused, if it was."""
    incoming = store.begin(message(number))
    for start in range(0, len(content), 1000):
        incoming.write(content[start : start + 1000])
    try:
        later = incoming.commit()
        if later is not None:
            runner.run(settled(later))
    except Refuse as no:
        return no
    return None


@dataclass
class BadDisk:
    """A disk with room for `room` bytes, whose `fails_at`-th call fails. Everything works until armed."""

    room: int = 1 << 40
    fails_at: int = 1 << 40
    code: int = errno.ENOSPC
    calls: list[str] = field(default_factory=list)

    def arm(self, patch: pytest.MonkeyPatch) -> None:
        real_write, real_close = os.write, os.close

        def write(file: int, data: bytes) -> int:
            self.called("write")
            if data and self.room == 0:
                raise self.error()
            taken = real_write(file, bytes(data)[: self.room])
            self.room -= taken
            return taken

        def close(file: int) -> None:
            real_close(file)  # as Linux does, also when it then reports an error
            self.called("close")

        patch.setattr(os, "write", write)
        patch.setattr(os, "close", close)
        patch.setattr(os, "open", self.failing("open", os.open))
        patch.setattr(os, "rename", self.failing("rename", os.rename))
        patch.setattr(os, "fsync", self.failing("fsync", lambda file: None))  # it takes its time, and proves nothing

    def failing(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            self.called(name)
            return real(*arguments, **more)

        return call

    def called(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.fails_at:
            raise self.error()

    def error(self) -> OSError:
        return OSError(self.code, os.strerror(self.code))


def in_maildir(folder: Path) -> list[bytes]:
    """The messages, sorted, once it is sure that files and envelopes agree and nothing else is there."""
    assert list((folder / "tmp").iterdir()) == []
    envelopes = [json.loads(line) for line in (folder / "envelopes.jsonl").read_bytes().splitlines()]
    assert sorted(envelope["file"] for envelope in envelopes) == sorted(
        f"new/{file.name}" for file in (folder / "new").iterdir()
    )
    return sorted((folder / envelope["file"]).read_bytes() for envelope in envelopes)


def in_mbox(path: Path) -> list[bytes]:
    """The messages, sorted, as the standard library reads them."""
    box = mailbox.mbox(path, create=False)
    try:
        return sorted(box.get_bytes(key) for key in box.keys())  # noqa: SIM118  # a mailbox iterates over its values
    finally:
        box.close()
