"""`bulkmail bench`: named by the interface, not built yet."""

from __future__ import annotations

import click


@click.command(
    short_help="Generate load.",
    context_settings={"ignore_unknown_options": True},
    epilog="Example: bulkmail bench smtp://127.0.0.1:2525 (refused by this version)",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """A load generator. It is not in this version yet."""
    raise click.ClickException("'bench' is not in this version yet")
