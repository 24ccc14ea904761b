"""Choosing recipients and dealing them variants: nanoseconds a recipient.

    python -m pytest benchmarks/micro/test_selection.py

Each case does a batch of 1,000 rows as the pass over a list does, and checks the result; `ns_per_recipient` is in the
extra info. Reading and decoding the rows is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.recipients import RowBatch
from bulkmail.job.selection import Selection
from bulkmail.job.specs import RecipientsSpec, VariantSpec
from bulkmail.job.variants import Variants
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec

BATCH = 1000
DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
MESSAGE = MessageSpec(from_="news@example.com", subject="Hello {{ name }}", text="Dear {{ name }}")
ROWS: list[dict[str, Any]] = [
    {"email": f"person{i}@example.com", "name": "Ann", "country": ("DE", "FR")[i % 2], "age": str(i % 50)}
    for i in range(BATCH)
]


def batch() -> RowBatch:
    numbers = list(range(1, BATCH + 1))
    return RowBatch(numbers, numbers, [row["email"] for row in ROWS], list(ROWS))


def measure(benchmark: Any, work: Callable[[], Any]) -> Any:
    result = benchmark(work)
    if benchmark.stats is not None:
        benchmark.extra_info["ns_per_recipient"] = round(benchmark.stats.stats.median / BATCH * 1e9, 1)
    return result


CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "one comparison": {"where": "country == 'DE'"},
    "two comparisons": {"where": "country == 'DE' and age | int >= 18"},
    "by Jinja2": {"where": "email.endswith('@example.com')"},
    "sample": {"sample": Fraction(1, 100)},
    "seeds": {"always_include": ("seed@example.com",)},
}
LEFT_OUT = {"nothing": 0, "one comparison": 500, "two comparisons": 680, "by Jinja2": 0, "seeds": 0}


@pytest.mark.parametrize("name", CASES)
def test_choosing(benchmark: Any, name: str) -> None:
    message = compile_message(MessageSpec(from_="n@example.com", text="t"), job="news")
    selection = Selection(RecipientsSpec(Path("list"), **CASES[name]), message, "news")
    if selection.seeds:
        next(selection.scan(None))  # type: ignore[arg-type]  # the seeds come before the list is opened
    out = measure(benchmark, lambda: selection.decide(batch()))
    assert len(out) == LEFT_OUT.get(name, len(out))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_composing_in_variants(benchmark: Any, count: int) -> None:
    """One is a message without variants, to compare with."""
    each = [compile_message(MESSAGE, job="news") for _ in range(count)]
    specs = [VariantSpec("ABCD"[i], 1, MESSAGE, frozenset()) for i in range(count)]
    message = Variants("news", specs, each) if count > 1 else each[0]
    numbers = list(range(1, BATCH + 1))
    composed = measure(benchmark, lambda: message.compose(ROWS, numbers, DATE))
    assert [item[1].decode() for item in composed] == [row["email"] for row in ROWS]
