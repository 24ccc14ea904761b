"""`bulkmail schema`: the manifest's JSON Schema."""

from __future__ import annotations

import click
import orjson


@click.command(short_help="Print the manifest's JSON Schema.", epilog="Example: bulkmail schema > bulkmail.schema.json")
def schema() -> None:
    """Print the JSON Schema of a manifest, for editors and for programs that write manifests."""
    from bulkmail.job.manifest import manifest_schema

    click.echo(orjson.dumps(manifest_schema(), option=orjson.OPT_INDENT_2).decode())
