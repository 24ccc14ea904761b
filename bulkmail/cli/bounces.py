"""`bulkmail bounces`: what came back, matched to jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import orjson

from . import output
from .report import replacing

# Items in the one object that --json prints; --out has them all.
MAX_ITEMS = 10_000
ROWS = ("messages", "bounces", "hard", "soft", "blocked", "delayed", "delivered", "complaints", "auto_replies", "other")


@click.command(
    short_help="Read bounces and complaints, and match them to jobs.",
    epilog="""\b
Example: bulkmail bounces ~/Maildir/.Bounces --journal news.journal --suppress bounced.txt

Hard bounces and complaints go into the suppression file; soft ones and those about us do not. docs/bounces.md""",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--journal", "journals", multiple=True, metavar="FILE", help="A job's journal; may be given several times."
)
@click.option(
    "--manifest", metavar="FILE", help="Whose envelope_from made the senders, for journals that do not know it."
)
@click.option("--suppress", metavar="FILE", help="Add hard bounces and complaints to this suppression file.")
@click.option("--settle", is_flag=True, help="Let the journals know of recipients in doubt who bounced.")
@click.option("--out", metavar="FILE", help="Write a JSON line for each notice.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bounces(
    paths: tuple[str, ...],
    journals: tuple[str, ...],
    manifest: str | None,
    suppress: str | None,
    settle: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Read delivery status notifications, abuse reports and automatic replies from each PATH: a Maildir, an mbox, a
    folder of .eml files, a message, or - for standard input."""
    from bulkmail.bounces.collect import Collector
    from bulkmail.bounces.matching import JobRecord
    from bulkmail.bounces.suppress import add_to_file

    for given, option in ((settle, "--settle"), (manifest, "--manifest")):
        if given and not journals:
            raise click.UsageError(f"{option} has nothing to do without --journal FILE")
    verp = _verp_of(manifest) if manifest else None
    records = [JobRecord(Path(path), verp) for path in journals]
    items: list[dict[str, Any]] = []
    with ExitStack() as files:
        collector = Collector(records, _sink(items if as_json else None, out, files))
        collector.read(paths)
    if suppress:
        collector.summary.suppressed = add_to_file(Path(suppress), collector.to_suppress)
    if settle:
        collector.settle()
    summary = collector.summary.as_dict()
    if as_json:
        output.emit_json(summary | {"items": items})
    else:
        click.echo(_text(summary, bool(records), suppress))


def _sink(items: list[dict[str, Any]] | None, out: str | None, files: ExitStack) -> Callable[[dict[str, Any]], None]:
    file = files.enter_context(replacing(Path(out))) if out else None

    def take(item: dict[str, Any]) -> None:
        if items is not None and len(items) < MAX_ITEMS:
            items.append(item)
        if file is not None:
            file.write(orjson.dumps(item).decode() + "\n")

    return take


def _verp_of(path: str) -> Any:
    from bulkmail.bounces.matching import Verp
    from bulkmail.errors import ConfigError
    from bulkmail.job.manifest import load_manifest

    manifest = load_manifest(path)
    if manifest.message.envelope_from is None:
        raise ConfigError(f"{path}, $.message.envelope_from: it is not given, so that a bounce's address names nobody")
    return Verp(manifest.message.envelope_from, {**manifest.defaults, **manifest.variables})


def _text(summary: dict[str, Any], matched: bool, suppress: str | None) -> str:
    lines = [f"{name.replace('_', ' '):<13}{summary[name]:>9,}" for name in ROWS if summary[name] or name == "messages"]
    lines += [f"unreadable   {summary['unreadable']:>9,}"] if summary["unreadable"] else []
    if matched:
        ways = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary["matched_by"].items())
        lines.append(f"matched      {summary['matched']:>9,}{f'  by {ways}' if ways else ''}")
    if suppress:
        lines.append(f"suppressed   {summary['suppressed']:>9,}  new in {suppress}")
    if summary["settled"]:
        lines.append(f"settled      {summary['settled']:>9,}  were in doubt")
    return "\n".join(lines)
