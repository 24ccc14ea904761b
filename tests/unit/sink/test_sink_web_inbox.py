"""Which messages the sink's page lists: the newest in memory, and those that a Maildir's envelopes.jsonl tells of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import store as store_module

pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")

from bulkmail.sink.web import inbox
from unit.sink.web_client import mail, web

Run = Callable[[Any], Any]


def test_in_memory_the_oldest_make_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with web() as page_:
            monkeypatch.setattr(store_module, "MAX_KEPT_MESSAGES", 3)
            for n in range(5):
                await page_.send(mail(f"n{n}"))
            assert await page_.subjects() == ["n4", "n3", "n2"]
            monkeypatch.setattr(store_module, "MAX_KEPT_BYTES", 2 * len(mail("n0")))
            await page_.send(mail("n5"))
            assert await page_.subjects() == ["n5", "n4"]
            page_.server.messages.clear()
            await page_.send(mail("n6"))
            assert await page_.subjects() == ["n6"]
            with pytest.raises(AssertionError, match=r"452 4\.3\.1"):
                await page_.send(mail("n7", text="x" * 1000))
            await page_.send(mail("n8"))
            assert await page_.subjects() == ["n8"]

    run(main())


def test_messages_are_deleted_one_by_one_and_all(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            ids = [await page_.send(mail(f"n{n}")) for n in range(3)]
            assert (await page_.ask(f"/api/messages/{ids[1]}", "DELETE")).status == 204
            assert await page_.subjects() == ["n2", "n0"]
            assert (await page_.ask(f"/api/messages/{ids[1]}", "DELETE")).status == 404
            assert (await page_.ask("/api/messages", "DELETE")).status == 204
            assert page_.server.messages == []

    run(main())


def test_the_files_of_a_maildir_are_not_deleted(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with web(store=tmp_path) as page_:
            ident = await page_.send(mail())
            for path in ("/api/messages", f"/api/messages/{ident}"):
                assert (await page_.ask(path, "DELETE")).status == 405
            assert len(list((tmp_path / "new").iterdir())) == 1

    run(main())


def test_a_maildir_that_was_there_before_is_shown_and_junk_in_it_is_not(run: Run, tmp_path: Path) -> None:
    async def fill() -> None:
        async with web(store=tmp_path) as page_:
            for n in range(4):
                await page_.send(mail(f"n{n}"))

    async def main() -> None:
        names = [json.loads(line)["file"] for line in (tmp_path / "envelopes.jsonl").read_text().splitlines()]
        os.rename(tmp_path / names[0], tmp_path / names[0].replace("new/", "cur/").__add__(":2,FS"))
        os.unlink(tmp_path / names[1])
        good = {"id": "x", "file": "new/x", "from": "", "to": [], "received": ""}
        hostile: list[Any] = [
            7, [], {}, good | {"file": "../../etc/passwd"}, good | {"id": "../x"}, good | {"to": None},
            good | {"from": 1}, good | {"file": "new/../x"},
        ]  # fmt: skip
        with open(tmp_path / "envelopes.jsonl", "ab") as file:
            file.write(b"\xff not json\n\n" + b"[" * 100_000 + b"\n")
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in hostile))
        async with web(store=tmp_path) as page_:
            await page_.send(mail("n4"))
            assert await page_.subjects() == ["n4", "n3", "n2", "n0"]
            told = await page_.json("/api/messages")
            assert told["total"] == 4  # of the one that is gone nothing is left
            with open(tmp_path / "envelopes.jsonl", "ab") as file:
                file.write(b'{"id": "half')  # a line that is being written
            assert await page_.subjects() == ["n4", "n3", "n2", "n0"]
            os.truncate(tmp_path / "envelopes.jsonl", 0)
            assert await page_.subjects() == []

    run(fill())
    run(main())


def test_of_a_huge_maildir_the_newest_are_shown(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with web(store=tmp_path) as page_:
            for n in range(6):
                await page_.send(mail(f"n{n}"))
        line = (tmp_path / "envelopes.jsonl").read_bytes().splitlines(keepends=True)[0]
        for name, bound in (("MAX_INDEXED", 2), ("MAX_TAIL", 3 * len(line) - 20), ("MAX_LINE", len(line) - 9)):
            with monkeypatch.context() as patch:
                patch.setattr(inbox, name, bound)
                async with web(store=tmp_path) as page_:
                    told = await page_.json("/api/messages")
                    subjects = [row["subject"] for row in told["messages"]]
                    assert subjects == ([] if name == "MAX_LINE" else ["n5", "n4"])
                    assert told["complete"] == (name == "MAX_LINE")

    run(main())


def test_a_line_that_was_taken_back_and_written_over_is_not_listed(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with web(store=tmp_path) as page_:
            await page_.send(mail("kept"))
            file = tmp_path / "envelopes.jsonl"
            whole = file.read_bytes()
            first = await page_.send(mail("taken back"))
            assert await page_.subjects() == ["taken back", "kept"]
            longer = file.read_bytes()[len(whole) :].replace(first.encode(), b"another-id-which-is-longer.1")
            file.write_bytes(whole + longer)
            told = await page_.json("/api/messages")
            assert told["messages"][0]["id"] == "another-id-which-is-longer.1"
            assert told["total"] == 2

    run(main())
