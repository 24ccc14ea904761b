"""The report as one HTML page that needs no network and runs nothing: `bulkmail report --format html`.

The words in it come from recipients and servers. They are escaped, and the page's policy forbids everything but its own
style sheet, for what escaping might ever miss.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from bulkmail.job import report_charts as charts
from bulkmail.job.detail import took_bounds
from bulkmail.job.ledger import STATES
from bulkmail.job.report_totals import KINDS, Reason, Totals
from bulkmail.values import duration

TEMPLATES = Path(__file__).with_name("templates")

DOMAINS_SHOWN = 30
REASONS_SHOWN = 40
RUNS_SHOWN = 50  # the newest
BINS_SHOWN = 60
WAYS_SHOWN = 100
LISTED = 500  # recipients in a list: a page of some 200 KB; the whole list is for the other formats

PERCENTILES = (50, 90, 99)


def render(
    summary: Mapping[str, Any], totals: Totals, runs: Sequence[Mapping[str, Any]], lists: Sequence[dict[str, Any]]
) -> str:
    """The page. summary: of `status`; runs: read_runs(); lists: {"title", "state", "rows", "total"} each."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "moment": moment, "words": words, "share": share}
    environment.filters |= {"size": size, "lasting": lasting}
    style = (TEMPLATES / "report.css").read_text("utf-8")
    return environment.get_template("report.html").render(
        job=summary["job"],
        summary=summary,
        made=moment(time.time()),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        states=[(state, summary[state]) for state in STATES],
        state_bar=charts.share_bar([(state, summary[state]) for state in STATES], states_label(summary)),
        line=_time_line(totals),
        domains=_domains(totals),
        variants=sorted(totals.variants.items()),
        ways=_ways(totals),
        relays=summary["relays"],
        reasons=_reasons(totals),
        took=_took(totals.took),
        runs=runs,
        lists=lists,
        kinds=KINDS,
        all_states=STATES,
    )


def read_runs(db: Connection) -> list[dict[str, Any]]:
    """The newest runs, oldest first. ended: None where one is alive or died; seen_at: its last commit."""
    columns = ("fence", "pid", "host", "started", "seen_at", "ended", "state", "why")
    query = f"SELECT {', '.join(columns)} FROM run ORDER BY fence DESC LIMIT {RUNS_SHOWN}"
    return [dict(zip(columns, row, strict=True)) for row in db.execute(query).fetchall()][::-1]


def listed(lines: Iterator[dict[str, Any]], title: str, state: str | None, total: int) -> dict[str, Any]:
    """The first LISTED recipients of a report."""
    return {"title": title, "state": state, "rows": list(islice(lines, LISTED)), "total": total}


# ---- parts -----------------------------------------------------------------------------------------------------------


def states_label(summary: Mapping[str, Any]) -> str:
    known = ", ".join(f"{words(state)} {summary[state]:,}" for state in STATES if summary[state])
    return f"{summary['recipients']:,} recipients: {known or 'none'}"


def _time_line(totals: Totals) -> dict[str, Any] | None:
    bins = totals.line.shown(BINS_SHOWN)
    if not bins:
        return None
    width = totals.line.width
    many_days = moment(bins[0][0])[:10] != moment(bins[-1][0])[:10]
    labels = [_label(start, width, many_days) for start, _ in bins]
    titles = [f"from {moment(start)}" for start, _ in bins]
    series = [(kind, [row[column] for _, row in bins]) for column, kind in enumerate(KINDS)]
    name = f"How attempts ended, by time: {len(bins)} columns of {span(width)} from {moment(bins[0][0])} UTC"
    return {
        "chart": charts.columns(series, labels, titles, name),
        "width": span(width),
        "rows": [(moment(start), row) for start, row in bins if any(row)],
    }


def _label(start: int, width: int, many_days: bool) -> str:
    text = moment(start)
    if width >= 86_400:
        return text[:10]
    clock = text[11:19] if width < 60 else text[11:16]
    return f"{text[5:10]} {clock}" if many_days else clock


def _domains(totals: Totals) -> dict[str, Any]:
    top, rest, more = totals.domains.top(DOMAINS_SHOWN)
    rows = [(name or "(none)", counts) for name, counts in top]
    if any(rest):
        rows.append(("all others", rest))
    whole = max((sum(counts) for _, counts in rows), default=0)
    return {"rows": [(name, counts, _state_bar(name, counts, whole)) for name, counts in rows], "more": more}


def _state_bar(name: str, counts: Sequence[int], whole: int) -> Any:
    return charts.share_bar(list(zip(STATES, counts, strict=True)), f"{name}: {sum(counts):,}", whole, height=12)


def _ways(totals: Totals) -> list[tuple[str, str, list[int]]]:
    rows = [(relay or "–", egress or "–", counts) for (relay, egress), counts in totals.ways.items()]
    return sorted(rows, key=lambda row: -sum(row[2]))[:WAYS_SHOWN]


def _reasons(totals: Totals) -> dict[str, Any]:
    top, rest, more = totals.reasons.top(REASONS_SHOWN)
    whole = max((sum(counts) for _, counts in top), default=0)
    names = (*KINDS, "suppressed")
    rows = []
    for reason, counts in top:
        bar = charts.share_bar(
            list(zip(names, counts, strict=True)), f"{reason.class_}: {sum(counts):,}", whole, height=12
        )
        rows.append((reason, totals.examples.get(reason), counts, bar))
    return {"rows": rows, "rest": sum(rest), "more": more, "classes": _classes(totals)}


def _classes(totals: Totals) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = {}
    for reason, counts in totals.reasons.rows.items():
        row = found.setdefault(_class_of(reason), [0] * len(counts))
        row[:] = [a + b for a, b in zip(row, counts, strict=True)]
    return sorted(found.items(), key=lambda item: -sum(item[1]))


def _class_of(reason: Reason) -> str:
    return reason.class_ or "other"


def _took(slots: Sequence[int]) -> dict[str, Any] | None:
    """How long deliveries took, from MAIL to the last reply: percentiles, and a column for each doubling."""
    total = sum(slots)
    if not total:
        return None
    bounds = took_bounds()
    octaves: dict[int, int] = {}
    for bound, count in zip(bounds, slots, strict=True):
        if count:
            place = bound.bit_length()
            octaves[place] = octaves.get(place, 0) + count
    places = range(min(octaves), max(octaves) + 1)
    counts = [octaves.get(place, 0) for place in places]
    labels = [f"< {milliseconds(1 << place)}" for place in places]
    titles = [f"{milliseconds(1 << place >> 1) if place else '0 ms'} to {milliseconds(1 << place)}" for place in places]
    name = f"How long {total:,} deliveries took: {len(counts)} columns, each for twice the time of the one before"
    return {
        "chart": charts.columns([("delivered", counts)], labels, titles, name),
        "rows": list(zip(titles, counts, strict=True)),
        "percentiles": [(q, milliseconds(percentile(slots, bounds, q))) for q in PERCENTILES],
    }


def percentile(slots: Sequence[int], bounds: Sequence[int], q: int) -> int:
    """Milliseconds that q % of the deliveries did not exceed, to the slot's upper bound."""
    wanted, seen = sum(slots) * q / 100, 0
    for place, count in enumerate(slots):
        seen += count
        if seen >= wanted and count:
            return bounds[place + 1] if place + 1 < len(bounds) else bounds[place]
    return 0


# ---- words -----------------------------------------------------------------------------------------------------------


def number(value: int | float) -> str:
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """ "98.7 %". Never 100 % for less than all, nor 0 % for more than nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if part and percent < 0.1:
        return "< 0.1 %"
    if part < whole and percent > 99.9:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def words(name: str) -> str:
    return name.replace("_", " ")


def moment(seconds: float | None) -> str:
    """ "2026-11-27 15:04:05", UTC; "–" for None, and for what no calendar holds."""
    if seconds is None:
        return "–"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "–"


def milliseconds(value: int) -> str:
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:,.0f} s"


def size(count: int) -> str:
    """ "980 bytes", "2.1 MB": powers of 1,000."""
    if count < 1000:
        return f"{count} bytes"
    value, units = float(count), iter(("kB", "MB", "GB", "TB", "PB"))
    unit = ""
    while value >= 999.95:
        value, unit = value / 1000, next(units, "EB")
    return f"{value:,.1f} {unit}"


def lasting(seconds: float) -> str:
    """ "4.2 s", "3:05 min", "26:03:05 h"."""
    text = duration(seconds)
    return text + ("", " min", " h")[text.count(":")]


def span(seconds: int) -> str:
    """ "10 seconds", "1 hour": a width of WIDTHS."""
    for size, name in ((604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds // size} {name}{'s' if seconds > size else ''}"
    return f"{seconds} second{'s' if seconds > 1 else ''}"
