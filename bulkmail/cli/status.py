"""`bulkmail status`: counts by state."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from . import output

WATCH_SECONDS = 1.0


@click.command(
    short_help="Counts by state of a journal.",
    epilog="""\b
Example: bulkmail status news.journal --watch

Works at any time: while the job runs, between runs, after it died.""",
)
@click.argument("journal", type=click.Path())
@click.option("--watch", is_flag=True, help="Show it anew each second until the job no longer runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --watch: one a second).")
def status(journal: str, watch: bool, as_json: bool) -> None:
    """Print how many recipients of JOURNAL are delivered, failed, deferred, in doubt, pending and suppressed."""
    summary = read(journal)
    drawn = show(summary, as_json, over=0)
    while watch and summary.get("state") == "running":
        time.sleep(WATCH_SECONDS)
        summary = read(journal)
        drawn = show(summary, as_json, over=drawn)


def read(journal: str) -> dict[str, Any]:
    from bulkmail.job.report import status

    return status(journal)


def show(summary: dict[str, Any], as_json: bool, over: int) -> int:
    """Print `summary`, on a terminal in the place of the `over` lines printed before; how many lines it took."""
    if as_json:
        output.emit_json(summary)
        return 0
    text = output.summary_text(summary)
    if over and sys.stdout.isatty():
        text = f"\x1b[{over}A\x1b[J{text}"
    click.echo(text)
    return text.count("\n") + 1
