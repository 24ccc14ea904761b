"""Manifest and recipients: microseconds a row for the scan and for reading again, milliseconds for a manifest.

    python -m pytest benchmarks/micro/test_manifest.py

Each case checks its result; `us_per_row` is in the extra info.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.manifest import load_manifest
from bulkmail.job.packing import pack_rows, unpack_rows
from bulkmail.job.recipients import Source
from bulkmail.job.seen import AddressSet

ROWS = 20_000
FIELDS = ["email", "name", "id", "plan", "city"]
REQUIRED, HEADER_FIELDS = frozenset(("name", "id")), frozenset(("name",))


def values(i: int) -> list[Any]:
    return [f"recipient{i}@example{i % 977}.com", f"Recipient Number {i}", i, "premium", "Springfield"]


def csv_text(quoting: int) -> str:
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(FIELDS)
    writer.writerows(values(i) for i in range(ROWS))
    return out.getvalue()


FILES = {
    "jsonl": lambda: "".join(json.dumps(dict(zip(FIELDS, values(i), strict=True))) + "\n" for i in range(ROWS)),
    "csv": lambda: csv_text(csv.QUOTE_MINIMAL),
    "quoted csv": lambda: csv_text(csv.QUOTE_ALL),
    "text": lambda: "".join(f"{values(i)[0]}\n" for i in range(ROWS)),
}


@pytest.fixture(params=FILES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    name = "r." + {"quoted csv": "csv", "text": "txt"}.get(request.param, request.param)
    (tmp_path / name).write_text(FILES[request.param]())
    with Source(tmp_path / name) as opened:
        yield opened


def test_scan(benchmark: Any, source: Source) -> None:
    required = frozenset() if source.format == "text" else REQUIRED

    def scan() -> int:
        return sum(len(batch.rows) for batch in source.scan(required=required, header_fields=HEADER_FIELDS))

    assert benchmark(scan) == ROWS
    benchmark.extra_info["us_per_row"] = round(benchmark.stats.stats.min / ROWS * 1e6, 3)


def test_read(benchmark: Any, source: Source) -> None:
    chunks = [batch.offsets for batch in source.scan()]

    def read() -> int:
        return sum(len(source.read(offsets)) for offsets in chunks)

    assert benchmark(read) == ROWS
    benchmark.extra_info["us_per_row"] = round(benchmark.stats.stats.min / ROWS * 1e6, 3)


def test_pack_and_unpack(benchmark: Any) -> None:
    numbers = list(range(1, 1001))
    offsets = [number * 117 for number in numbers]
    numbers_again, _ = benchmark(lambda: unpack_rows(pack_rows(numbers, offsets)))
    assert list(numbers_again) == numbers
    benchmark.extra_info["us_per_row"] = round(benchmark.stats.stats.min / 1000 * 1e6, 3)


def test_deduplicate(benchmark: Any) -> None:
    addresses = [values(i)[0] for i in range(ROWS)]

    def deduplicate() -> AddressSet:
        seen = AddressSet()
        for address in addresses:
            seen.add(address)
        return seen

    assert len(benchmark(deduplicate)) == ROWS
    benchmark.extra_info["us_per_row"] = round(benchmark.stats.stats.min / ROWS * 1e6, 3)


def test_load_manifest(benchmark: Any, tmp_path: Path) -> None:
    (tmp_path / "news.html").write_text("<p>Hello {{ name }}</p>\n" * 800)
    manifest = {
        "message": {"from": "News <news@example.com>", "subject": "Hello {{ name }}", "html": {"file": "news.html"}},
        "recipients": ["ann@example.org"],
        "relays": [{"url": f"smtp://relay{i}.example.com", "connections": 20} for i in range(10)],
        "limits": {"rate": "300/s"},
    }
    (tmp_path / "job.json").write_text(json.dumps(manifest))
    assert benchmark(load_manifest, tmp_path / "job.json", environ={}).message.html_file == "news.html"
