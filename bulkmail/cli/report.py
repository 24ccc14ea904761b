"""`bulkmail report`: every recipient's outcome."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click

from . import output

SQLITE = b"SQLite format 3\0"  # how its files begin


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
    with replacing(Path(out)) as file:
        write_report(journal, form, file, state=state)


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that becomes `path` once it is whole: a failure leaves an earlier one. Devices are written to.

    raises  UsageError  there is a database: a journal is nothing to write over
    """
    direct = path.exists() and not path.is_file()
    if not direct and path.exists() and _is_database(path):
        raise click.UsageError(f"{path} is a database, such as a journal is; expected another name for what is written")
    part = path if direct else path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
    except BaseException as error:
        if not direct:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    if not direct:
        part.replace(path)
