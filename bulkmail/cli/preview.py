"""`bulkmail preview`: messages exactly as they would be sent, in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulkmail.errors import ConfigError

from .send import parse_variables

if TYPE_CHECKING:
    from bulkmail.job.job import Job
    from bulkmail.message.reference import RenderedMessage


@click.command(
    short_help="Write rendered messages to files.",
    epilog="""\b
Example:
  bulkmail preview news.json --recipient ann@example.com --out preview""",
)
@click.argument("manifest", type=click.Path())
@click.option("--index", "indexes", type=click.IntRange(min=1), multiple=True, metavar="N",
              help="The N-th recipient, from 1; may be repeated.  [default: 1]")  # fmt: skip
@click.option(
    "--recipient",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    help="The recipient with this address; may be repeated.",
)
@click.option(
    "--out", type=click.Path(), default="preview", show_default=True, metavar="DIR", help="Folder; made if need be."
)
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="A template variable; may be repeated.")
def preview(
    manifest: str, indexes: tuple[int, ...], addresses: tuple[str, ...], out: str, variables: tuple[str, ...]
) -> None:
    """Write messages of MANIFEST's job to DIR: NNNNNN.eml as it would be sent, NNNNNN.html and NNNNNN.txt its parts.

    NNNNNN is the recipient's place in the list. Nothing is sent and no journal is made.
    """
    from bulkmail.job.job import Job

    job = Job.load(manifest, variables=parse_variables(variables))
    wanted = set(indexes) or ({1} if not addresses else set())
    folder = Path(out)
    for number, rendered in render(job, wanted, {address.lower() for address in addresses}):
        folder.mkdir(parents=True, exist_ok=True)
        for path in write(folder, number, rendered):
            click.echo(path)


def render(job: Job, numbers: set[int], addresses: set[str]) -> Iterator[tuple[int, RenderedMessage]]:
    """The rendered messages of the recipients in rows `numbers` or with `addresses` (lower case), in the list's order.

    Reads no further than the last of them. ConfigError names those that are not in the list, ManifestError a bad row.
    """
    from email.utils import formatdate

    date = formatdate(localtime=True).encode()
    numbers, addresses = set(numbers), set(addresses)
    for number, row in recipients(job, numbers):
        address = row["email"].lower()
        if number in numbers or address in addresses:
            yield number, job.compiled.preview(row, number, date)
            numbers.discard(number)
            addresses.discard(address)
        if not numbers and not addresses:
            return
    missing = [*(f"recipient {number}" for number in sorted(numbers)), *sorted(addresses)]
    raise ConfigError(f"{job.manifest.path}: {', '.join(missing)}: not in the list of recipients")


def recipients(job: Job, wanted: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of the good rows; ManifestError for a bad one that is among `wanted`."""
    from bulkmail.job.check import opened_source

    with opened_source(job.manifest) as source:
        for batch in source.scan(required=job.compiled.fields):
            bad = [problem for problem in batch.problems if problem[0] in wanted]
            if bad:
                raise source.bad_rows(bad)
            yield from zip(batch.numbers, batch.rows, strict=True)


def write(folder: Path, number: int, rendered: RenderedMessage) -> list[Path]:
    """Write one message's files; their paths. A part that the message does not have gets no file."""
    parts = {".eml": rendered.eml, ".html": rendered.html, ".txt": rendered.text}
    paths = []
    for ending, content in parts.items():
        if content is None:
            continue
        path = folder / f"{number:06}{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return paths
