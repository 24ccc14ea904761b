"""The mbox: the standard library reads back what came, whatever came, and another program may lock or replace it."""

from __future__ import annotations

import asyncio
import mailbox
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConfigError
from bulkmail.sink import Server
from bulkmail.sink import mbox as mbox_module
from bulkmail.sink.mbox import Mbox, entry_of, from_line
from unit.sink.sink_client import ENVELOPE, HELLO, Client
from unit.sink.store_talk import deliver, in_mbox, message

Run = Callable[[Any], Any]
# What a program that reads an mbox does: locks it as the standard library does, and says when it has.
READER = """
import mailbox, sys
box = mailbox.mbox(sys.argv[1]); box.lock(); print("locked", flush=True); sys.stdin.readline(); box.unlock()
"""


def test_messages_are_read_by_the_standard_library(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "box"
    content = b"Subject: x\r\n\r\nFrom here\r\n>From there\r\nFromage\r\n\r\nFrom nowhere\r\n"

    async def main() -> None:
        async with Server(mbox=path) as server, Client(server) as client:
            await client.say(HELLO)
            assert (await client.deliver(content)).startswith("250 2.0.0 Ok: queued as ")
            assert (await client.deliver(b"Subject: y\r\n\r\nlast\r\n")).startswith("250")
            assert (server.messages, server.counts["messages"]) == ([], 2)

    run(main())
    box = mailbox.mbox(path, create=False)
    assert [mail["subject"] for mail in box] == ["x", "y"]
    assert [mail.get_from().split()[0] for mail in box] == ["a@example.com"] * 2  # type: ignore[attr-defined]
    quoted = content.replace(b"\r\nFrom ", b"\r\n>From ").replace(b"\r\n>From there", b"\r\n>>From there")
    assert in_mbox(path)[0] == quoted.replace(b"\r\n", b"\n")
    assert path.read_bytes().endswith(b"\n\n")


@given(st.lists(st.lists(st.sampled_from([b"From ", b">", b"\r\n", b"\n", b"\r", b"x", b"\x00", b"\xff"])), max_size=4))
def test_each_message_is_one_entry_and_unquoting_gives_it_back(pieces: list[list[bytes]]) -> None:
    contents = [b"".join(parts) for parts in pieces]
    entries = []
    for content in contents:
        mail = message()
        mail.content = content
        entries.append(entry_of(mail))
    found = b"".join(entries).split(b"From a@b Tue Jan  2 03:04:05 2024\n")[1:]
    assert len(found) == len(contents)
    for entry, content in zip(found, contents, strict=True):
        assert not any(line.startswith(b"From ") for line in entry.split(b"\n"))
        text = content.replace(b"\r\n", b"\n")
        whole = text if text.endswith(b"\n") else text + b"\n"
        unquoted = b"\n".join(
            line[1:] if line.startswith(b">") and line.lstrip(b">").startswith(b"From ") else line
            for line in entry.removesuffix(b"\n").split(b"\n")
        )
        assert unquoted == whole


@pytest.mark.parametrize("sender, shown", [
    ("", "MAILER-DAEMON"), ('"a b\tc"@d', '"a_b_c"@d'), ("ü@b", "ü@b"), ("a\r\nFrom x@y", "a__From_x@y"),
    ("a\x00\x85\u2028b", "a___b"), ("\udcff@b", "?@b"),
])  # fmt: skip
def test_no_sender_breaks_the_first_line(sender: str, shown: str) -> None:
    assert from_line(message(sender=sender)) == f"From {shown} Tue Jan  2 03:04:05 2024\n".encode()


@pytest.mark.parametrize("before, between", [
    (b"", b""), (b"From x\n\nbody\n\n", b""), (b"From x\n\nbody\n", b"\n"), (b"From x\n\nbody", b"\n\n"),
    (b"x", b"\n\n"),
])  # fmt: skip
def test_it_goes_on_behind_what_is_there(before: bytes, between: bytes, tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(before)
    store = Mbox(tmp_path / "box")
    with asyncio.Runner() as runner:
        assert deliver(store, 1, b"x\n", runner) is None
    store.close()
    assert (tmp_path / "box").read_bytes() == before + between + b"From a@b Tue Jan  2 03:04:05 2024\nx\n\n"


def test_it_waits_for_a_reader_and_refuses_when_that_takes_too_long(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "box"
    server = Server(mbox=path)
    reader = subprocess.Popen([sys.executable, "-c", READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdin is not None and reader.stdout is not None
    assert reader.stdout.readline() == b"locked\n"

    async def main() -> None:
        async with server, Client(server) as client, Client(server) as other:
            await client.say(HELLO)
            with monkeypatch.context() as patch:
                patch.setattr(mbox_module, "LOCK_SECONDS", 0.0)
                assert await client.deliver() == "451 4.3.0 The message cannot be stored"
            assert path.read_bytes() == b""
            assert await client.codes(ENVELOPE, 3) == [250, 250, 354]
            client.writer.write(b"x\r\n.\r\n")
            assert (await other.say(HELLO))[0].startswith("250")  # nobody else waits
            assert path.read_bytes() == b""
            reader.communicate(b"\n")
            assert (await client.reply()).startswith("250")

    run(main())
    assert reader.returncode == 0
    assert in_mbox(path) == [b"x\n"]


def test_a_file_that_was_replaced_is_the_new_one_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "box"
    store = Mbox(path)
    with asyncio.Runner() as runner:
        assert deliver(store, 1, b"one\n", runner) is None
        os.rename(path, tmp_path / "rotated")
        assert deliver(store, 2, b"two\n", runner) is None
    store.close()
    assert (in_mbox(tmp_path / "rotated"), in_mbox(path)) == ([b"one\n"], [b"two\n"])


def test_messages_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkmail.sink import store as store_module

    monkeypatch.setattr(store_module, "MAX_KEPT_BYTES", 5000)
    store = Mbox(tmp_path / "box")
    with asyncio.Runner() as runner:
        other = store.begin(message())
        other.write(b"x" * 3000)
        no = deliver(store, 1, b"x" * 2001, runner)
        assert no is not None and (no.code, no.enhanced) == (452, "4.3.1")
        other.abandon()
        assert deliver(store, 2, b"x" * 2001, runner) is None
    assert store.bytes == 0
    store.close()


def test_an_mbox_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the mbox .* cannot be used: Is a directory"):
        Server(mbox=tmp_path)
    with pytest.raises(ConfigError, match="cannot be used: No such file or directory"):
        Server(mbox=tmp_path / "no" / "box")
