"""Every block of docs/library.md that is marked `python` runs as it stands, against a server that takes everything."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import threading
from pathlib import Path

import pytest

import bulkmail
from bulkmail.sink import Server

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
RELAY = "smtp://relay.example.com:587"


@pytest.fixture(scope="module")
def relay():
    """The URL of a sink in a thread of its own, since some blocks bring their own event loop."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    url, stop = "", asyncio.Event()

    async def main():
        nonlocal url
        async with Server() as server:
            url = server.url
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.mark.parametrize("code", BLOCKS, ids=[code.splitlines()[-1][:40] for code in BLOCKS])
def test_an_example_runs(code, relay, capsys):
    compiled = compile(code.replace(RELAY, relay), "library.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = eval(compiled, {"__name__": "example"})
    if inspect.iscoroutine(done):
        asyncio.run(asyncio.wait_for(done, 60))


def test_no_example_reaches_for_another_server():
    assert len(BLOCKS) >= 8
    assert {url for code in BLOCKS for url in re.findall(r'\w+://[^"]*', code)} == {RELAY}


def test_the_page_has_every_error():
    for name in bulkmail.__all__:
        found = getattr(bulkmail, name)
        if inspect.isclass(found) and issubclass(found, bulkmail.BulkmailError) and found is not bulkmail.BulkmailError:
            row = re.search(rf"^\| `{name}` \| `(\w+)` \| (?:`(\w+)`)? ?\|", PAGE, re.M)
            assert row and row[1] == found.code, name
            assert not row[2] or row[2] in [base.__name__ for base in found.__mro__]


@pytest.mark.parametrize("kind", [bulkmail.Envelope, bulkmail.Receipt])
def test_the_page_has_every_field(kind):
    section = PAGE.split(f"## {kind.__name__}\n")[1].split("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| ([^|]+) \|", section, re.M))
    assert set(kind.__dataclass_fields__) <= set(re.findall(r"`(\w+)`", first_cells))
