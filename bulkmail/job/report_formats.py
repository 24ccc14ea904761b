"""The report as text: JSON lines, CSV, or one HTML page. Streamed: a line is written when it is known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import islice
from typing import Any, TextIO

import orjson

from bulkmail.job.ledger import STATES

Lines = Iterable[dict[str, Any]]

FORMATS = ("jsonl", "csv", "html")

# Lines that are joined before they are written: a write for each would cost more than the line.
AT_ONCE = 500

# No script, no font, no image: a page that can be mailed on and opened without a network. The words in it come from
# recipients and servers, so the policy forbids what escaping might ever miss.
PAGE_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }}
dl {{ display: flex; flex-wrap: wrap; gap: 1rem 2rem }}
dt {{ color: #666 }}
dd {{ margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }}
th {{ position: sticky; top: 0; background: #fff }}
td {{ overflow-wrap: anywhere }}
.delivered td:nth-child(2) {{ color: #17692f }}
.failed td:nth-child(2), .in_doubt td:nth-child(2) {{ color: #a11d1d }}
</style>
</head>
<body>
<h1>{title}</h1>
<dl>{totals}</dl>
<table>
<thead><tr>{columns}</tr></thead>
<tbody>
"""
PAGE_TAIL = "</tbody>\n</table>\n</body>\n</html>\n"


def write(format: str, lines: Lines, columns: Sequence[str], summary: Callable[[], dict[str, Any]], out: TextIO) -> int:
    """Write all lines in one of FORMATS; how many. summary: asked for the totals where a format shows them."""
    if format == "jsonl":
        return _write(out, "", (_json_line(line) for line in lines), "")
    if format == "csv":
        return _write_csv(lines, columns, out)
    head = _page_head(summary(), columns)
    return _write(out, head, (_table_row(line, columns) for line in lines), PAGE_TAIL)


def _write(out: TextIO, head: str, texts: Iterator[str], tail: str) -> int:
    out.write(head)
    count = 0
    while part := list(islice(texts, AT_ONCE)):
        out.write("".join(part))
        count += len(part)
    out.write(tail)
    return count


def _json_line(line: dict[str, Any]) -> str:
    return orjson.dumps(line).decode() + "\n"


def _write_csv(lines: Lines, columns: Sequence[str], out: TextIO) -> int:
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(columns)
    count = 0
    for line in lines:
        rows.writerow([line[column] for column in columns])
        count += 1
    return count


def _page_head(summary: dict[str, Any], columns: Sequence[str]) -> str:
    figures = {name: f"{summary[name]:,}" for name in ("recipients", *STATES, "attempts")}
    figures = {"state": summary["state"]} | figures
    return PAGE_HEAD.format(
        title=escape(f"{summary['job']}: report"),
        totals="".join(f"<div><dt>{_words(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in figures.items()),
        columns="".join(f"<th>{_words(column)}</th>" for column in columns),
    )


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _table_row(line: dict[str, Any], columns: Sequence[str]) -> str:
    cells = "".join(f"<td>{'' if line[column] is None else escape(str(line[column]))}</td>" for column in columns)
    return f'<tr class="{line["state"]}">{cells}</tr>\n'
