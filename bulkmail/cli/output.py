"""Results on standard output: one JSON object, or a few lines for people."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click
import orjson

from bulkmail.values import duration

from .trouble import plain

STATES = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
RELAY_COUNTS = ("delivered", "deferred", "failed", "connections", "failures")


def emit_json(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(orjson.dumps(value, default=str).decode())


def summary_text(summary: dict[str, Any]) -> str:
    """The summary of `send` and `status` (keys as in --json) for people; states with nobody in them are left out."""
    lines = [headline(summary)]
    if summary.get("waiting"):
        lines.append(f"  {waiting_text(summary['waiting'])}")
    else:
        lines += now_lines(summary)
    lines += [f"  {state.replace('_', ' '):<11}{summary[state]:>13,}" for state in STATES if summary.get(state)]
    for name, counts in (summary.get("relays") or {}).items():
        lines += relay_lines(name, counts)
    if summary.get("journal"):
        lines.append(f"  journal    {plain(summary['journal'])}")
    return "\n".join(lines)


def headline(summary: dict[str, Any]) -> str:
    """ "november-news: finished, 1,000 recipients in 12.3 s, 81/s"."""
    state = "paused" if summary.get("paused") else summary.get("state", "unknown")
    text = f"{plain(summary.get('job', 'job'))}: {state}"
    count = summary.get("recipients", 0)
    text += f", {count:,} recipient{'' if count == 1 else 's'}"
    if summary.get("seconds"):
        text += f" in {duration(summary['seconds'])}"
    if summary.get("messages_per_second"):
        text += f", {rate(summary['messages_per_second'])}"
    return text


def now_lines(summary: dict[str, Any]) -> list[str]:
    """ "now 500/s, 3:05 left; held by the rate of the job, 500/s", of a job that runs; only what is known."""
    said = []
    if "rate_now" in summary:
        left = summary.get("seconds_left")
        said.append(f"now {rate(summary['rate_now'])}" + (f", {duration(left)} left" if left is not None else ""))
    hindrance = summary.get("limited_by")
    if hindrance and hindrance.get("by") != "paused":
        said.append(f"held by {hindrance_text(hindrance)}")
    return ["  " + "; ".join(said)] if said else []


HINDRANCES = {
    "retries": "retries that are not due yet",
    "relays": "relays that cannot be reached",
    "signing": "the signing of messages",
    "cpu": "this machine's processor",
    "answers": "the relays' answers, awaited on all connections",
    "stopping": "its stopping: what is in flight is finished",
}


def hindrance_text(hindrance: dict[str, Any]) -> str:
    """ "the rate of domain gmail.com, 20/s", "relays that cannot be reached: Connection refused"."""
    by, scope = str(hindrance.get("by")), hindrance.get("scope")
    text = HINDRANCES.get(by) or f"the {plain(by)} of {'the job' if scope == 'job' else plain(scope)}"
    if hindrance.get("rate"):
        text += f", {rate(hindrance['rate'])}"
    if hindrance.get("until"):
        text += f", until {time.strftime('%H:%M:%S', time.localtime(hindrance['until']))}"
    return text + (f": {plain(hindrance['why'])}" if hindrance.get("why") else "")


def waiting_text(waiting: dict[str, Any]) -> str:
    """ "waits until 2026-11-30 08:00 CET (outside of the window 08:00 to 20:00 Europe/Rome)", this machine's clock."""
    until = waiting.get("until")
    when = f" until {datetime.fromtimestamp(until).astimezone():%Y-%m-%d %H:%M %Z}" if until is not None else ""
    return f"waits{when} ({plain(waiting.get('why', ''))})"


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
