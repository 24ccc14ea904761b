"""`bulkmail status`: counts by state."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from bulkmail.errors import BulkmailError

from . import output
from .progress import Pace, settled

WATCH_SECONDS = 1.0
ASK_SECONDS = 2.0  # that the run may take to answer; without, the journal's figures are all there is
LIVE = ("limits", "limited_by", "webhook")  # what the journal does not hold


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
    pace = Pace()
    summary = read(journal)
    drawn = show(summary, as_json, over=0)
    while watch and summary.get("state") == "running":
        pace.note(time.monotonic(), settled(summary))
        time.sleep(WATCH_SECONDS)
        summary = read(journal)
        drawn = show(paced(summary, pace), as_json, over=drawn)


def read(journal: str) -> dict[str, Any]:
    """The journal's summary; of a job that runs, with what only its process knows."""
    from bulkmail.job.report import status

    summary = status(journal)
    return summary | live(journal) if summary.get("state") == "running" else summary


def live(journal: str) -> dict[str, Any]:
    """{} where the run does not answer: it has just ended, or reads its recipients, or is another machine's."""
    from bulkmail.job.control_socket import ask

    try:
        told = ask(journal, {"do": "status"}, seconds=ASK_SECONDS)
    except BulkmailError:
        return {}
    return {name: told[name] for name in LIVE if told.get(name) is not None}


def paced(summary: dict[str, Any], pace: Pace) -> dict[str, Any]:
    """With the rate of the last seconds and what is left at that rate, while it runs."""
    if summary.get("state") != "running":
        return summary
    pace.note(time.monotonic(), settled(summary))
    left = pace.seconds_left(max(0, summary.get("recipients", 0) - settled(summary)))
    return summary | {"rate_now": round(pace.per_second(), 1), "seconds_left": None if left is None else round(left, 1)}


def show(summary: dict[str, Any], as_json: bool, over: int) -> int:
    """Print `summary`, on a terminal in the place of the `over` lines printed before; how many lines it took."""
    if as_json:
        output.emit_json(summary)
        return 0
    lines = output.summary_text(summary).split("\n")
    if sys.stdout.isatty():
        width, height = shutil.get_terminal_size()
        lines = [
            line[: width - 1] for line in lines[: height - 1]
        ]  # a line that wraps is two, and none is above the top
    text = "\n".join(lines)
    if over and sys.stdout.isatty():
        text = f"\x1b[{over}A\x1b[J{text}"
    click.echo(text)
    return len(lines)
