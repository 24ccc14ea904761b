"""`bulkmail init`: a first job to try."""

from __future__ import annotations

from pathlib import Path

import click

from bulkmail.errors import ConfigError

from .starter import FILES, MANIFEST


@click.command(
    short_help="Write a starter job.",
    epilog="""\b
Example:
  bulkmail init news
  bulkmail sink --listen 127.0.0.1:2525 --discard &
  bulkmail send news/newsletter.json""",
)
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path())
def init(folder: str) -> None:
    """Write a manifest, its templates and a short list of recipients into DIR (made if need be; default: here).

    The job is ready for `check` and, beside a running `bulkmail sink --listen 127.0.0.1:2525`, for `send`.
    Existing files are never overwritten.
    """
    target = Path(folder)
    refuse_existing(target)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        with (target / name).open("x", encoding="utf-8", newline="\n") as file:
            file.write(content)
    for name in FILES:
        click.echo(target / name)
    click.echo(f"next: bulkmail check {target / MANIFEST}")


def refuse_existing(target: Path) -> None:
    existing = [str(target / name) for name in FILES if (target / name).exists()]
    if existing:
        raise ConfigError(f"{', '.join(existing)}: already there, and init overwrites nothing; name an empty folder")
