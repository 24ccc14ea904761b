"""Which fields of its recipients a job's message uses, and how many recipients lack each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bulkmail.job.check import opened_source
from bulkmail.job.manifest import Manifest
from bulkmail.job.variants import AnyMessage

# Names of fields that no template uses, as far as they are told. A list of objects may have new ones in every row.
MAX_UNUSED = 1000


@dataclass(slots=True)
class FieldUse:
    """One field.

    places    where it is used, such as "news.html, line 3"
    required  whether a recipient without it fails: no default() or `is defined` guards it, and nothing else gives it
    given     "--set" or "defaults" if one of them gives what a recipient lacks, and the value
    missing   recipients without it; empty: those that have it, with nothing in it
    """

    name: str
    places: list[str]
    required: bool
    given: str | None = None
    value: Any = None
    missing: int = 0
    empty: int = 0


@dataclass(slots=True)
class FieldUses:
    """fields: in the order of their names; unused: names that only the list knows; bad_rows: not counted otherwise."""

    fields: list[FieldUse]
    recipients: int = 0
    bad_rows: int = 0
    unused: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def field_uses(manifest: Manifest, compiled: AnyMessage) -> FieldUses:
    """Reads the whole list, a batch at a time. raises  ManifestError  for one that cannot be read"""
    uses = FieldUses([_use(name, manifest, compiled) for name in sorted(compiled.names | {"email"})])
    unused: set[str] = set()
    with opened_source(manifest) as source:
        for batch in source.scan():
            uses.recipients += len(batch.rows)
            uses.bad_rows += len(batch.problems)
            for use in uses.fields:
                _count(use, batch.rows)
            if len(unused) < MAX_UNUSED:
                unused.update(*batch.rows)
                unused.difference_update(use.name for use in uses.fields)
    uses.unused = sorted(unused)[:MAX_UNUSED]
    return uses


def _use(name: str, manifest: Manifest, compiled: AnyMessage) -> FieldUse:
    places = compiled.places.get(name, [])
    given = next((key for key, known in _givers(manifest) if name in known), None)
    value = dict(_givers(manifest))[given][name] if given is not None else None
    required = any(fails for _, fails in places) or name == "email"
    return FieldUse(name, [place for place, _ in places], required and given is None, given, value)


def _givers(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    return [("--set", dict(manifest.variables)), ("defaults", manifest.defaults)]


def _count(use: FieldUse, rows: Iterable[dict[str, Any]]) -> None:
    name, missing, empty = use.name, 0, 0
    for row in rows:
        if name not in row:
            missing += 1
        elif row[name] == "":
            empty += 1
    use.missing += missing
    use.empty += empty
