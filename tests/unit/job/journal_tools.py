"""What the tests of ledger, journal, writer and report share: recipients without a file, and ways to make a ledger."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from bulkmail.job.journal import Journal
from bulkmail.job.ledger import Advance, Chunk, Ledger, pack


class FakePin(NamedTuple):
    path: str = "/lists/news.jsonl"
    format: str = "jsonl"
    size: int = 100_000
    mtime_ns: int = 1_700_000_000_000_000_000
    digest: str | None = "d1"


TESTS = Path(__file__).parents[2]
PIN = FakePin()
OFFSET = 100  # bytes a row, in this list that no file holds


def read(offsets: Any) -> list[dict[str, Any]]:
    """The rows of that list."""
    return [{"email": f"user{offset // OFFSET}@example.com"} for offset in offsets]


def rows(first: int, n: int) -> bytes:
    """n packed recipients, row numbers from `first`."""
    return pack(range(first, first + n), range(first * OFFSET, (first + n) * OFFSET, OFFSET))


def new_journal(path: Path, **changes: Any) -> Journal:
    return Journal.create(path, **({"job": "news", "manifest_digest": "m1", "pin": PIN} | changes))


def fill(ledger: Ledger, chunks: int = 1, n: int = 10, route: str = "*") -> None:
    """`chunks` chunks of n recipients of one route, row numbers from 1."""
    with ledger.fill() as filler:
        for i in range(chunks):
            filler.add_chunk(route, rows(1 + i * n, n), n)
        filler.set_total(chunks * n)


def settle(chunk: Chunk, outcome: bytes, claimed: int | None = None, **more: Any) -> Advance:
    """An advance that begins the chunk's outcomes with `outcome` and claims that far, or to `claimed`."""
    chunk.outcome[: len(outcome)] = outcome
    chunk.claimed = max(chunk.claimed, len(outcome) if claimed is None else claimed)
    return Advance([(chunk.no, chunk.fence, chunk.claimed, bytes(chunk.outcome))], **more)


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
