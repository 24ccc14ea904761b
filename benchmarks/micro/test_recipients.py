"""The pass over a list of recipients, its chunks and its journal included; and the parts that it is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bulkmail.job.fill import Filling
from bulkmail.job.journal import Journal
from bulkmail.job.recipients import Source
from bulkmail.job.seen import AddressSet
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.suppression import RecipientFilter
from bulkmail.pool.domains import DomainMap

COUNT = 200_000
MESSAGE: Any = SimpleNamespace(fields=frozenset({"name", "id"}), header_fields=frozenset({"name"}), shared=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("list") / "list.jsonl"
    row = '{"email": "user%d@example%d.com", "name": "Ann Example", "id": %d}\n'
    path.write_text("".join(row % (i, i % 5000, i) for i in range(COUNT)))
    return path


@pytest.mark.parametrize("routes", [0, 200])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_fill(benchmark: Any, path: Path, tmp_path: Path, deduplicate: bool, routes: int) -> None:
    domains = DomainMap(f"example{i}.com" for i in range(routes))
    spec = RecipientsSpec(path, deduplicate=deduplicate)
    made = iter(range(1000))

    def fill() -> int:
        with Source(path) as source:
            place = tmp_path / f"{next(made)}.journal"
            journal = Journal.create(place, job="j", manifest_digest="m", pin=source.known_pin)
            with journal.fill() as filler:
                filling = Filling(source, spec, MESSAGE, None, domains)
                filling.run(filler)
            journal.close()
            return filling.total

    assert benchmark(fill) == COUNT


@pytest.mark.parametrize("rows", [False, True])
def test_scan(benchmark: Any, path: Path, rows: bool) -> None:
    def scan() -> int:
        with Source(path) as source:
            fields = {"required": MESSAGE.fields, "header_fields": MESSAGE.header_fields}
            return sum(len(batch) for batch in source.scan(rows=rows, **fields))

    assert benchmark(scan) == COUNT


def test_set_of_addresses(benchmark: Any) -> None:
    addresses = [f"user{i}@example{i % 5000}.com" for i in range(COUNT)]
    assert benchmark(lambda: AddressSet().add_all(addresses)) == []


def test_suppression_list(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text("".join(f"user{i}@example{i % 5000}.com\n" for i in range(COUNT)))
    assert benchmark(lambda: RecipientFilter(suppress=[path])).filter("user7@example7.com")
