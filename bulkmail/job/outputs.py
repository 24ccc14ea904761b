"""What a job writes besides its journal must not be what it reads: a list that its own log is appended to is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bulkmail.errors import ConfigError
from bulkmail.job.manifest import Manifest
from bulkmail.job.query import Query
from bulkmail.urlparts import quoted

BESIDE = ("", "-wal", "-shm", ".lock", ".control", ".recipients", ".events")  # the journal, and what belongs to it


def check_outputs(manifest: Manifest, **options: str | None) -> None:
    """options: names of files from the command line, by option; None and "-" are none.

    raises  ConfigError  events or a dialogue would be written into the job's own files
    """
    taken = {os.path.realpath(path): what for path, what in _inputs(manifest)}
    for place, name in [*_outputs(manifest), *((f"--{key.replace('_', '-')}", name) for key, name in options.items())]:
        what = taken.get(os.path.realpath(name)) if name not in (None, "-") else None
        if what is not None:
            raise ConfigError(f"{place} is {quoted(str(name))}, which is the job's {what}; expected a file of its own")


def _inputs(manifest: Manifest) -> Iterator[tuple[Path, str]]:
    yield manifest.path, "manifest"
    for end in BESIDE:
        yield manifest.journal.with_name(manifest.journal.name + end), "journal"
    for path in manifest.recipients.suppress:
        yield path, "suppression list"
    source = manifest.recipients.source
    if isinstance(source, Query) and source.kind == "sqlite":
        yield source.path, "database"
    elif isinstance(source, Path):
        yield source, "list of recipients"


def _outputs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    where = f"{manifest.path}, $"
    if manifest.events is not None and manifest.events.file is not None:
        yield f"{where}.events", str(manifest.events.file)
    for relay in manifest.relays:
        if isinstance(relay.endpoint.options.wire_log, str):
            yield f"the wire log of relay {relay.name}", relay.endpoint.options.wire_log
