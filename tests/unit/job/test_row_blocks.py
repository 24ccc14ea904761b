"""Rows that lie far apart and are asked for route by route: the same as the scan's, from blocks or one by one."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.recipients import Source

ROUTES = 100  # rows of a route lie 100 others apart: too far to be read in one go
SHARE = 64  # of a route's rows, asked for at a time


def rows_of(ending: str, count: int, longest: int) -> bytes:
    """Rows of any length up to `longest`, the last one without a line end."""
    rng = random.Random(count)
    texts = [(f"u{n}@d{n % ROUTES}.test", "x" * rng.randrange(longest)) for n in range(count)]
    if ending == "csv":
        return b"email,name\n" + b"\n".join(f'{email},"{name}"'.encode() for email, name in texts)
    return b"\n".join(json.dumps({"email": email, "name": name}).encode() for email, name in texts)


def ask_in_turn(source: Source) -> None:
    """As routes do, each from where it stands."""
    offsets: list[int] = []
    rows = []
    for batch in source.scan():
        offsets += batch.offsets
        rows += batch.rows
    for start in range(0, len(rows), ROUTES * SHARE):
        for route in range(ROUTES):
            mine = range(start + route, min(start + ROUTES * SHARE, len(rows)), ROUTES)
            assert source.read([offsets[place] for place in mine]) == [rows[place] for place in mine]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("longest", [60, 3000])
def test_rows_read_route_by_route_are_those_of_the_scan(tmp_path: Path, ending: str, longest: int) -> None:
    path = tmp_path / f"r.{ending}"
    path.write_bytes(rows_of(ending, 600_000 // longest + 9_000, longest))
    with Source(path) as source:
        ask_in_turn(source)


def test_a_list_larger_than_all_blocks_is_read_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(rows_of("jsonl", 25_000, 1000))
    assert path.stat().st_size > 10 << 20
    with Source(path) as source:
        ask_in_turn(source)
        ask_in_turn(source)


def test_a_file_that_was_changed_is_refused_although_its_blocks_are_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(rows_of("jsonl", 20_000, 60))
    with Source(path) as source:
        ask_in_turn(source)
        offsets = [offset for batch in source.scan() for offset in batch.offsets][::ROUTES]
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(JournalError, match="was changed"):
            source.read(offsets)
