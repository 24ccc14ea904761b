"""The Maildir: byte for byte, atomic, and honest when the disk is full."""

from __future__ import annotations

import errno
import json
import mailbox
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Message, Refuse, Server
from bulkmail.sink import maildir as store_module
from bulkmail.sink.maildir import Maildir
from unit.sink.sink_client import HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]


def message() -> Message:
    return Message(
        "id.1", "a@b", ["c@d"], {}, "192.0.2.1", 1234, None, "me", None, None, datetime(2024, 1, 2, tzinfo=UTC)
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_messages_and_envelopes_are_stored(run: Run, tmp_path: Path) -> None:
    content = b"Subject: caf\xc3\xa9\r\n\r\n.dot\r\n\x00\xff bytes\r\n"

    async def main() -> None:
        async with Server(store=tmp_path / "new" / "box") as server, Client(server) as client:
            await client.say(HELLO)
            await client.say("MAIL FROM:<ü@b> SMTPUTF8\r\n".encode() + RCPT + b"RCPT TO:<x@y>\r\nDATA\r\n", 4)
            reply = (await client.say(content.replace(b"\r\n.", b"\r\n..") + b".\r\n"))[0]
            await client.deliver()
            assert server.messages == []
            check(reply.rpartition(" ")[2], client.writer.get_extra_info("sockname")[1])

    def check(ident: str, port: int) -> None:
        folder = tmp_path / "new" / "box"
        lines = [json.loads(line) for line in (folder / "envelopes.jsonl").read_text().splitlines()]
        assert len(lines) == 2
        received = lines[0].pop("received")
        assert abs((datetime.fromisoformat(received) - datetime.now(UTC)).total_seconds()) < 60
        assert received.endswith("Z")
        file = lines[0].pop("file")
        assert lines[0] == {
            "id": ident, "from": "ü@b", "to": ["b@example.com", "x@y"], "remote_address": "127.0.0.1",
            "remote_port": port, "proxy_address": None, "helo": "client.test", "tls": None, "auth": None,
        }  # fmt: skip
        assert (folder / file).read_bytes() == content
        box = mailbox.Maildir(folder, create=False)
        assert sorted(str(mail["subject"]) for mail in box) != []
        assert len(box) == 2
        assert not list((folder / "tmp").iterdir())

    run(main())


def test_large_messages_go_to_the_disk_as_they_come(run: Run, tmp_path: Path) -> None:
    line = b"x" * 998 + b"\r\n"

    async def main() -> None:
        async with Server(store=tmp_path) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                await client.deliver(line * 3000)
            async with Client(server) as client:
                await client.say(HELLO)
                await client.say(b"MAIL FROM:<a@b>\r\n" + RCPT + b"DATA\r\n" + line * 3000, 3)
                await until(lambda: sum(file.stat().st_size for file in (tmp_path / "tmp").iterdir()) > 1_000_000)
            await until(lambda: not list((tmp_path / "tmp").iterdir()))  # it was never ended

    run(main())
    (stored,) = (tmp_path / "new").iterdir()
    assert stored.read_bytes() == line * 3000


def full(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call, code", [("open", 452), ("write", 452), ("close", 452), ("rename", 452)])
def test_a_full_disk_is_a_452_and_leaves_nothing(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Maildir(tmp_path)
    incoming = box.begin(message())
    incoming.write(b"x\r\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(Refuse) as refusal:
            incoming.commit()
    assert (refusal.value.code, refusal.value.enhanced) == (code, "4.3.1")
    assert files(tmp_path) == ["envelopes.jsonl"]
    assert (tmp_path / "envelopes.jsonl").read_bytes() == b""
    box.begin(message()).commit()
    assert len(files(tmp_path)) == 2
    box.close()


def test_other_errors_are_a_451(tmp_path: Path) -> None:
    box = Maildir(tmp_path)
    incoming = box.begin(message())
    (tmp_path / "tmp").rmdir()
    with pytest.raises(Refuse) as refusal:
        incoming.commit()
    assert (refusal.value.code, refusal.value.enhanced) == (451, "4.3.0")
    box.close()


def test_a_line_cut_short_by_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Maildir(tmp_path)
    box.begin(message()).commit()
    before = (tmp_path / "envelopes.jsonl").read_bytes()
    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: real_write(file, bytes(data)[:10]))
        with pytest.raises(Refuse):
            box.begin(message()).commit()
    assert (tmp_path / "envelopes.jsonl").read_bytes() == before
    assert len(list((tmp_path / "new").iterdir())) == 1
    box.close()


def test_a_full_disk_in_the_middle_of_a_large_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SPILL_BYTES", 10)
    box = Maildir(tmp_path)
    incoming = box.begin(message())
    incoming.write(b"x" * 20)
    assert list((tmp_path / "tmp").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        incoming.write(b"y" * 20)
    incoming.write(b"z" * 20)
    with pytest.raises(Refuse):
        incoming.commit()
    assert files(tmp_path) == ["envelopes.jsonl"]
    box.close()


def test_a_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    box = Maildir(tmp_path)
    incoming = box.begin(message())
    other = Path(box.path("tmp", incoming._name))
    other.write_bytes(b"somebody else's")
    with pytest.raises(Refuse):
        incoming.commit()
    assert other.read_bytes() == b"somebody else's"
    box.close()


def test_the_disk_fills_while_clients_send(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Server(store=tmp_path) as server, Client(server) as client:
            await client.say(HELLO)
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", full)
                assert await client.deliver() == "452 4.3.1 Insufficient system storage"
            assert (await client.deliver()).startswith("250")
            assert (server.counts["messages"], server.counts["refused"]) == (1, 1)

    run(main())
    assert len((tmp_path / "envelopes.jsonl").read_text().splitlines()) == 1


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used: Not a directory"):
        Server(store=tmp_path / "file" / "box")


HOSTILE = [
    b'EHLO a\xff\xc0\x80b\r\nMAIL FROM:<>\r\nRCPT TO:<"a\\"b"@c.test>\r\n',
    b'EHLO {"id":1}\r\nMAIL FROM:<"x\\ny {}"@b.test> SIZE=1\r\nRCPT TO:<"\\\\"@c.test>\r\n',
    "EHLO \u2028\x85\r\nMAIL FROM:<\u2028\x85@b.test> SMUTF8\r\n".replace("SMU", "SMTPU").encode() + RCPT,
    HELLO + b"MAIL FROM:<a\r\n.\r\n@b>\r\nMAIL FROM:<a\x00@b>\r\nMAIL FROM:<\xff@b> SMTPUTF8\r\n" + MAIL + RCPT,
    HELLO + MAIL + b"".join(b"RCPT TO:<%s%d@example.com>\r\n" % (b"x" * 50, n) for n in range(1000)),
]


@pytest.mark.parametrize("said", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_client_says_its_record_is_one_line_of_json(run: Run, said: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(store=tmp_path) as server, Client(server) as client:
            client.writer.write(said + b"DATA\r\n.\r\n")
            while "queued as" not in await client.reply():
                pass

    run(main())
    data = (tmp_path / "envelopes.jsonl").read_bytes()
    assert data.endswith(b"\n") and data.count(b"\n") == 1
    assert not any(control in data[:-1] for control in map(bytes, zip(range(32), strict=False)))
    record = json.loads(data)
    assert len(record["to"]) == said.count(b"RCPT TO")
    assert (tmp_path / record["file"]).is_file()
