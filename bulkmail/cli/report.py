"""`bulkmail report`: every recipient's outcome."""

from __future__ import annotations

import sys

import click

from . import output


@click.command(
    short_help="Every recipient's outcome.",
    epilog="Example: bulkmail report news.journal --state failed --format csv --out failed.csv",
)
@click.argument("journal", type=click.Path())
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "html"]), default="jsonl", show_default=True)
@click.option("--state", type=click.Choice(output.STATES), help="Only recipients in this state.")
@click.option("--out", type=click.Path(), metavar="FILE", help="Write to FILE instead of standard output.")
def report(journal: str, form: str, state: str | None, out: str | None) -> None:
    """Print what happened to each recipient of JOURNAL: state, server's reply, attempts, relay, times."""
    from bulkmail.job.report import write_report

    if out is None or out == "-":
        write_report(journal, form, sys.stdout, state=state)
        return
    with open(out, "w", encoding="utf-8", newline="") as file:
        write_report(journal, form, file, state=state)
