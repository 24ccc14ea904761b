"""Results on standard output: one JSON object, or a few lines for people."""

from __future__ import annotations

from typing import Any

import click
import orjson

from .trouble import plain

STATES = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
RELAY_COUNTS = ("delivered", "deferred", "failed", "connections", "failures")


def emit_json(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(orjson.dumps(value, default=str).decode())


def summary_text(summary: dict[str, Any]) -> str:
    """The summary of `send` and `status` (keys as in --json) for people; states with nobody in them are left out."""
    lines = [headline(summary)]
    lines += [f"  {state.replace('_', ' '):<11}{summary[state]:>13,}" for state in STATES if summary.get(state)]
    for name, counts in (summary.get("relays") or {}).items():
        lines += relay_lines(name, counts)
    if summary.get("journal"):
        lines.append(f"  journal    {plain(summary['journal'])}")
    return "\n".join(lines)


def headline(summary: dict[str, Any]) -> str:
    """ "november-news: finished, 1,000 recipients in 12.3 s, 81/s"."""
    text = f"{plain(summary.get('job', 'job'))}: {summary.get('state', 'unknown')}"
    count = summary.get("recipients", 0)
    text += f", {count:,} recipient{'' if count == 1 else 's'}"
    if summary.get("seconds"):
        text += f" in {duration(summary['seconds'])}"
    if summary.get("messages_per_second"):
        text += f", {rate(summary['messages_per_second'])}"
    return text


def relay_lines(name: str, counts: dict[str, Any]) -> list[str]:
    """One relay's counts, and its last error if it had one; then a line for each of its egresses."""
    lines = [f"  relay {plain(name)}: {_figures(counts)}{_said(counts, 'last error')}"]
    return lines + [egress_line(egress, its) for egress, its in (counts.get("egress") or {}).items()]


def egress_line(name: str, counts: dict[str, Any]) -> str:
    """ "egress a: ok; delivered 120, connections 4", "egress b: out; failures 3; why: …"."""
    state = counts.get("state")  # of a run that is over there is none
    line = f"    egress {plain(name)}: {f'{state}; ' if state else ''}{_figures(counts)}"
    return line + _said(counts, "last error" if state in (None, "ok") else "why")


def _figures(counts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {counts[key]:,}" for key in RELAY_COUNTS if counts.get(key)) or "nothing yet"


def _said(counts: dict[str, Any], what: str) -> str:
    return f"; {what}: {plain(counts['last_error'])}" if counts.get("last_error") else ""


def rate(per_second: float) -> str:
    """ "1,234/s" from ten on, "2.5/s" below."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def duration(seconds: float) -> str:
    """ "4.2 s", "3:05" (minutes), "26:03:05" (hours)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
