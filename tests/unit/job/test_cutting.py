"""Rows sorted by route while a list is read: each is in one chunk, of its domain's route, in the order of the list."""

from __future__ import annotations

import random

import pytest

from bulkmail.job import cutting
from bulkmail.job.cutting import Cutter
from bulkmail.job.packing import unpack_rows
from bulkmail.job.recipients import RowBatch
from bulkmail.job.rows import RowParser
from bulkmail.pool.domains import ELSEWHERE, DomainMap

Chunks = list[tuple[str, bytes, int]]
Rows = list[tuple[int, int]]


def by_route(chunks: Chunks, size: int) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for route, packed, n in chunks:
        rows = list(zip(*unpack_rows(packed), strict=True))
        assert 1 <= len(rows) == n <= size
        found.setdefault(route, []).extend(rows)
    return found


def cut(cutter: Cutter, addresses: list[str], skip: set[int] | None = None, batch: int = 7) -> Chunks:
    chunks = []
    for start in range(0, len(addresses), batch):
        part = addresses[start : start + batch]
        numbers = [start + i + 1 for i in range(len(part))]
        left_out = None if skip is None else {i for i in range(len(part)) if start + i in skip}
        chunks += cutter.add(numbers, [1000 * number for number in numbers], part, left_out)
    return chunks + cutter.rest()


def test_without_routes_rows_are_cut_in_the_order_of_the_list() -> None:
    chunks = cut(Cutter(10), ["a@x.org"] * 25, {0, 9})
    assert [(route, n) for route, _, n in chunks] == [(ELSEWHERE, 10), (ELSEWHERE, 10), (ELSEWHERE, 3)]
    wanted = [(i + 1, 1000 * (i + 1)) for i in range(25) if i not in (0, 9)]
    assert by_route(chunks, 10) == {ELSEWHERE: wanted}
    assert cut(Cutter(10), []) == []


def test_each_row_is_in_a_chunk_of_its_domains_route() -> None:
    routes = DomainMap(["x.org", "*.y.org", "xn--bcher-kva.example"])
    domains = ["x.org", "X.ORG", "a.y.org", "y.org", "bücher.example", "xn--bcher-kva.example", "z.org"]
    chance = random.Random(1)
    addresses = [f"ä{i}@{chance.choice(domains)}" for i in range(500)]
    asked: list[str] = []

    def route(domain: str) -> str:
        asked.append(domain)
        return routes.route(domain)

    found = by_route(cut(Cutter(10, route), addresses), 10)
    assert sorted(asked) == sorted(domains)
    for name, rows in found.items():
        mine = [i + 1 for i, address in enumerate(addresses) if routes.route(address.rpartition("@")[2]) == name]
        assert [number for number, _ in rows] == mine


def test_more_domains_than_are_remembered_are_sorted_as_well() -> None:
    count = cutting.REMEMBERED * 2 + 5
    addresses = [f"a@d{i}.{'x' if i % 3 else 'y'}.org" for i in range(count)] * 2
    found = by_route(cut(Cutter(1000, DomainMap(["*.x.org"]).route), addresses, batch=1000), 1000)
    assert {name: len(rows) for name, rows in found.items()} == {
        "*.x.org": sum(2 for i in range(count) if i % 3),
        ELSEWHERE: sum(2 for i in range(count) if not i % 3),
    }


def test_rows_of_several_routes_cannot_go_past_their_route() -> None:
    batch = RowBatch()
    with pytest.raises(ValueError, match="several routes"):
        RowParser("jsonl").take(
            b'{"email": "a@x.org"}\n', 0, 0, True, batch, 10, Cutter(10, DomainMap(["x.org"]).route)
        )
