"""The report as JSON lines or CSV. Streamed: a line is written when it is known."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TextIO

import orjson

Lines = Iterable[dict[str, Any]]

FORMATS = ("jsonl", "csv", "html")

# Lines that are joined before they are written: a write for each would cost more than the line.
AT_ONCE = 500

# What a spreadsheet takes for a formula: a stranger's reply or address would be run by whoever opens the file.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(format: str, lines: Lines, columns: Sequence[str], out: TextIO) -> int:
    """Write all lines as jsonl or csv; how many."""
    return _write_csv(lines, columns, out) if format == "csv" else _write(out, (_json_line(line) for line in lines))


def _write(out: TextIO, texts: Iterator[str]) -> int:
    count = 0
    while part := list(islice(texts, AT_ONCE)):
        out.write("".join(part))
        count += len(part)
    return count


def _json_line(line: dict[str, Any]) -> str:
    return orjson.dumps(line).decode() + "\n"


def _write_csv(lines: Lines, columns: Sequence[str], out: TextIO) -> int:
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(columns)
    count = 0
    for line in lines:
        rows.writerow([_cell(line[column]) for column in columns])
        count += 1
    return count


def _cell(value: Any) -> Any:
    """The value, behind an apostrophe where a spreadsheet would run it (OWASP, "CSV injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
