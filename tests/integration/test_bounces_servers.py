"""Bounces that Postfix and Exim make of a job's messages find their recipients again."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Refuse, Server
from integration.cli_program import bulkmail, write_job
from integration.servers.common import wait_until

MESSAGE = {
    "from": "news@example.test",
    "to": "{{ email }}",
    "envelope_from": "bounce+{{ id }}@example.test",
    "subject": "Hello {{ name }}",
    "text": "Hello {{ name }}.\n",
}
NAMES = ("ann", "gone", "zoe", "full+tag")
ROWS = "".join(
    json.dumps({"email": f"{name}@example.test", "name": name.title(), "id": f"id-{name}"}) + "\n" for name in NAMES
)


def read_back(folder: Path, mail: Path, *options: object) -> dict[str, Any]:
    done = bulkmail("bounces", mail, "--journal", "news.journal", "--json", *options, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def send(folder: Path, url: str, **keys: Any) -> Path:
    """The job, sent; its journal."""
    write_job(folder, url, ROWS, message=MESSAGE, **keys)
    done = bulkmail("send", "news.json", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "news.journal"


class Destination:
    """The server that Postfix and Exim pass on to: it refuses two recipients, and keeps what else comes."""

    def on_rcpt(self, session: Any, address: str, parameters: Any) -> None:
        if address.startswith("gone@"):
            raise Refuse(550, "no such user", enhanced="5.1.1")
        if address.startswith("full+tag@"):
            raise Refuse(552, "mailbox full", enhanced="5.2.2")


class Running:
    """A sink in a thread of its own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Server(Destination()) as self.server:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(20)
        return self.server

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)


@pytest.mark.parametrize(
    ("keys", "how"), [({"dsn": {}}, "envid"), ({}, "message_id")], ids=["with an ENVID", "without one"]
)
def test_what_postfix_bounces_is_matched_judged_and_suppressed(
    start_postfix: Any, tmp_path: Path, keys: dict[str, Any], how: str
) -> None:
    with Running() as destination:
        way = f"smtp:[127.0.0.1]:{destination.port}"
        routes = f"inline:{{ {{ gone@example.test = {way} }}, {{ full+tag@example.test = {way} }} }}"
        server = start_postfix(settings={"transport_maps": routes})
        send(tmp_path, server.url, **keys)
        server.wait_for(4)  # two deliveries and two bounces
    result = read_back(tmp_path, server.folder / "mail" / "inbox", "--suppress", "bounced.txt")
    found = {item["recipient"]: item for item in result["items"] if item["kind"] == "bounce"}
    assert set(found) == {"gone@example.test", "full+tag@example.test"}
    assert (found["gone@example.test"]["class"], found["gone@example.test"]["reason"]) == ("hard", "bad_recipient")
    assert (found["full+tag@example.test"]["class"], found["full+tag@example.test"]["reason"]) == (
        "soft",
        "mailbox_full",
    )
    assert {item["matched_by"] for item in found.values()} == {how}
    assert {item["number"] for item in found.values()} == {2, 4}
    assert (result["messages"], result["other"], result["matched"]) == (4, 2, 2)
    assert (tmp_path / "bounced.txt").read_text() == "gone@example.test\n"


def test_a_success_that_postfix_confirms_is_matched(start_postfix: Any, tmp_path: Path) -> None:
    server = start_postfix()
    send(tmp_path, server.url, dsn={"notify": ["success"], "envid": True})
    server.wait_for(8)  # four deliveries, and what tells of them
    result = read_back(tmp_path, server.folder / "mail" / "inbox")
    assert (result["delivered"], result["matched_by"]) == (4, {"envid": 4})
    told = {item["recipient"] for item in result["items"] if item["kind"] == "delivered"}
    assert told == {f"{name}@example.test" for name in NAMES}


def test_what_exim_bounces_is_matched(start_exim_onward: Any, tmp_path: Path) -> None:
    with Running() as destination:
        exim = start_exim_onward(destination.port)
        send(tmp_path, exim.url, dsn={})
        wait_until(lambda: len(destination.messages) == 4, "two deliveries and two bounces")
        mail = tmp_path / "mail"
        mail.mkdir()
        for n, message in enumerate(destination.messages):
            (mail / f"{n}.eml").write_bytes(message.content)
    result = read_back(tmp_path, mail, "--suppress", "bounced.txt")
    found = {item["recipient"]: item for item in result["items"] if item["kind"] == "bounce"}
    assert {address: item["class"] for address, item in found.items()} == {
        "gone@example.test": "hard",
        "full+tag@example.test": "soft",
    }
    assert {item["matched_by"] for item in found.values()} == {"envid"}
    assert (tmp_path / "bounced.txt").read_text() == "gone@example.test\n"


@pytest.fixture
def start_exim_onward(certificates: Any) -> Any:
    from contextlib import ExitStack

    from integration.servers.exim import exim

    with ExitStack() as running:
        yield lambda port: running.enter_context(exim(onward=f"  port = {port}"))
