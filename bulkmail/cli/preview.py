"""`bulkmail preview`: messages exactly as they would be sent, in files; and what their templates ask of the list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulkmail.errors import ConfigError, MessageError

from . import output, trouble
from .send import parse_variables

if TYPE_CHECKING:
    from bulkmail.job.field_use import FieldUse, FieldUses
    from bulkmail.job.job import Job

MAX_OPENED = 10  # tabs; more are a slip
PAGE = ".browser.html"  # the html with its inline images in it


class Numbers(click.ParamType):  # type: ignore[type-arg]  # click 8.1 knows no arguments
    """ "7" or "7-12", from 1."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, range):
            return value
        first, dash, last = str(value).partition("-")
        if not first.isdecimal() or not (last.isdecimal() or not dash):
            self.fail(f"{value!r} is neither a number from 1 nor a range such as 3-8", param, ctx)
        found = range(int(first), int(last or first) + 1)
        if not found or found[0] < 1:
            self.fail(f"{value!r} is empty, numbers begin at 1 and ranges with the smaller", param, ctx)
        return found


@dataclass
class Wanted:
    """Which recipients: places in the list, and addresses in lower case. Forgets what it has met."""

    ranges: list[range]
    addresses: set[str] = field(default_factory=set)

    def takes(self, number: int, address: str) -> bool:
        by_address = address.lower() in self.addresses
        self.addresses.discard(address.lower())
        return by_address or any(number in numbers for numbers in self.ranges)

    def has(self, address: str) -> bool:
        return address.lower() in self.addresses

    def over(self, number: int) -> bool:
        """Whether nobody behind this one is wanted."""
        return not self.addresses and all(numbers[-1] <= number for numbers in self.ranges)

    def missing(self, count: int) -> list[str]:
        """Who is not in a list of so many rows."""
        beyond = sorted({(max(numbers[0], count + 1), numbers[-1]) for numbers in self.ranges if numbers[-1] > count})
        names = [f"recipient {first}" if first == last else f"recipients {first}-{last}" for first, last in beyond]
        return names + sorted(self.addresses)


@dataclass
class Shown:
    """One message: its files, and the one that a browser is to open."""

    index: int
    recipient: str
    files: list[Path]
    page: Path

    def as_dict(self) -> dict[str, Any]:
        return {"index": self.index, "recipient": self.recipient, "files": [str(path) for path in self.files]}


@click.command(
    short_help="Write rendered messages to files.",
    epilog="""\b
Examples:
  bulkmail preview news.json --recipient ann@example.com --open
  bulkmail preview news.json --index 1-20 --out preview
  bulkmail preview news.json --all-fields
\b
Exit status: 0 all went well, 1 no browser could be started, 2 errors.""",
)
@click.argument("manifest", type=click.Path())
@click.option("--index", "indexes", type=Numbers(), multiple=True, metavar="N|N-M",
              help="The N-th recipient, from 1, or the N-th to the M-th; may be repeated.  [default: 1]")  # fmt: skip
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
@click.option("--open", "opens", is_flag=True, help="Open the HTML (or else the text) in the browser.")
@click.option("--all-fields", is_flag=True,
              help="Show the fields that the message uses, and how many recipients lack each. Without --index and "
                   "--recipient no message is written.")  # fmt: skip
@click.option("--variant", metavar="NAME", help="This variant of the message.  [default: that of the recipient]")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="A template variable; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def preview(
    manifest: str,
    indexes: tuple[range, ...],
    addresses: tuple[str, ...],
    out: str,
    opens: bool,
    all_fields: bool,
    variant: str | None,
    variables: tuple[str, ...],
    as_json: bool,
) -> int:
    """Write messages of MANIFEST's job to DIR: NNNNNN.eml as it would be sent, signatures included, and its parts.

    The parts are NNNNNN.html and NNNNNN.txt, and .amp.html, .watch.html or .ics where the message has such. NNNNNN is
    the recipient's place in the list, or seed-N for one of `always_include`. Nothing is sent and no journal is made.
    """
    from bulkmail.job.field_use import field_uses
    from bulkmail.job.job import Job

    chosen = bool(indexes or addresses)
    if opens and sum(map(len, indexes)) + len(addresses) > MAX_OPENED:
        raise click.UsageError(f"--open is for at most {MAX_OPENED} messages")
    job = Job.load(manifest, variables=parse_variables(variables))
    result: dict[str, Any] = {}
    shown: list[Shown] = []
    if all_fields:
        uses = field_uses(job.manifest, job.compiled)
        result["fields"] = uses.as_dict()
        if not as_json:
            tell_fields(uses)
    if chosen or not all_fields:
        wanted = Wanted(list(indexes) or ([] if addresses else [range(1, 2)]), {name.lower() for name in addresses})
        for one in written(job, wanted, Path(out), opens, variant):
            shown.append(one)
            for path in one.files if not as_json else ():
                click.echo(path)
        result["messages"] = [one.as_dict() for one in shown]
    if as_json:
        output.emit_json(result)
    return open_pages([one.page for one in shown]) if opens else 0


# ---- messages


def written(job: Job, wanted: Wanted, folder: Path, page: bool, variant: str | None = None) -> Iterator[Shown]:
    """Each wanted message once its files are written, in the list's order. page: one for the browser is written too.

    raises  ConfigError  for those who are not in the list, MessageError for one that cannot be composed, ManifestError
    """
    for number, row, eml in render(job, wanted, variant):
        folder.mkdir(parents=True, exist_ok=True)
        files, opened = write(folder, number, eml, page)
        yield Shown(number, row["email"], files, opened)


def render(job: Job, wanted: Wanted, variant: str | None = None) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    """(number, row, message) of the wanted recipients. Reads no further than the last of them."""
    from email.utils import formatdate

    from bulkmail.message.raw import from_wire

    date = formatdate(localtime=True).encode()
    copy = job.compiled.signed_copy if variant is None else variant_of(job, variant)

    def eml(number: int, row: dict[str, Any]) -> bytes:
        try:
            return from_wire(copy(row, number, date)[1])
        except MessageError as error:
            who = f"recipient {stem_of(number).lstrip('0')} ({row['email']})"
            raise MessageError(f"{job.manifest.path}, {who}: {error}") from error

    for number, row in seeds(job, wanted):
        yield number, row, eml(number, row)
    number = 0
    if wanted.over(number):
        return
    for number, row in recipients(job, wanted):
        if wanted.takes(number, row["email"]):
            yield number, row, eml(number, row)
        if wanted.over(number):
            return
    missing = wanted.missing(number)
    if missing:
        raise ConfigError(f"{job.manifest.path}: {', '.join(missing)}: not in the list of recipients")


def seeds(job: Job, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of each copy of the seeds that are wanted; the list need not be searched for them."""
    from bulkmail.job.recipients import RowBatch
    from bulkmail.job.seeds import Seeds, number_of
    from bulkmail.job.variants import each_of

    batch = RowBatch()
    Seeds.of(job.manifest.recipients.always_include).parse(batch)
    mine = [(seed, row) for seed, row in zip(batch.numbers, batch.rows, strict=True) if wanted.has(row["email"])]
    for variant in range(len(each_of(job.compiled))):
        yield from ((number_of(seed, variant), dict(row)) for seed, row in mine)
    wanted.addresses -= {row["email"].lower() for _, row in mine}


def recipients(job: Job, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of the good rows; ManifestError for a bad one that is wanted by its number."""
    from bulkmail.job.check import opened_source

    with opened_source(job.manifest) as source:
        for batch in source.scan(required=job.compiled.fields):
            bad = [problem for problem in batch.problems if any(problem[0] in numbers for numbers in wanted.ranges)]
            if bad:
                raise source.bad_rows(bad)
            yield from zip(batch.numbers, batch.rows, strict=True)


def variant_of(job: Job, name: str) -> Callable[[dict[str, Any], int, bytes], tuple[bytes, Any]]:
    """What makes the copies of one variant. raises  ConfigError"""
    from bulkmail.job.variants import Variants

    if not isinstance(job.compiled, Variants):
        raise ConfigError(f"{job.manifest.path}: --variant {name}: its message has no variants")
    return partial(job.compiled.copy_of, name)


def write(folder: Path, number: int, eml: bytes, page: bool = False) -> tuple[list[Path], Path]:
    """Write one message's files: (their paths, the one that shows it best). What it does not have leaves no file."""
    from bulkmail.message import view

    seen = view.view(eml)
    contents = {".eml": eml} | {view.ENDINGS[kind]: text.encode() for kind, text in seen.texts.items()}
    if page and "text/html" in seen.texts:
        contents[PAGE] = view.page(seen).encode()
    stem = stem_of(number)
    paths = {ending: folder / f"{stem}{ending}" for ending in (".eml", *view.ENDINGS.values(), PAGE)}
    for ending, path in paths.items():
        if ending in contents:
            path.write_bytes(contents[ending])
        else:
            path.unlink(missing_ok=True)  # of an earlier preview
    best = next(paths[ending] for ending in (PAGE, ".html", ".txt", ".eml") if ending in contents)
    return [paths[ending] for ending in contents], best


def stem_of(number: int) -> str:
    """ "000007", or "seed-1", "seed-1-2" for a seed's copy of the second variant."""
    from bulkmail.job.seeds import is_seed, seed_of

    if not is_seed(number):
        return f"{number:06}"
    seed, variant = seed_of(number)
    return f"seed-{seed + 1}" + (f"-{variant + 1}" if variant else "")


def open_pages(pages: list[Path]) -> int:
    import webbrowser

    for path in pages:
        if not webbrowser.open(path.absolute().as_uri()):
            trouble.say(f"no browser could be started; {path} is what it would have shown")
            return 1
    return 0


# ---- fields


def tell_fields(uses: FieldUses) -> None:
    rows = [("field", "needed", "missing", "empty", "used in")]
    for use in uses.fields:
        places = "; ".join(use.places) or "the envelope"
        rows.append((use.name, needed(use), f"{use.missing:,}", f"{use.empty:,}", places))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, word, missing, empty, places in rows:
        line = f"{name:<{widths[0]}}  {word:<{widths[1]}}  {missing:>{widths[2]}}  {empty:>{widths[3]}}  {places}"
        click.echo(trouble.plain(line))
    if uses.unused:
        click.echo(trouble.plain(f"not used: {', '.join(uses.unused)}"))
    bad = f"; bad rows, not counted: {uses.bad_rows:,}" if uses.bad_rows else ""
    click.echo(f"{uses.recipients:,} recipients{bad}")


def needed(use: FieldUse) -> str:
    """ "required", "optional", or what stands in for it: `defaults: "friend"`."""
    if use.given is None:
        return "required" if use.required else "optional"
    value = ascii(use.value) if not isinstance(use.value, str) else f'"{use.value}"'
    return trouble.plain(f"{use.given}: {value if len(value) <= 40 else value[:37] + '...'}")
