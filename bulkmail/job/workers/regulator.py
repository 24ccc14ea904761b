"""The limits of a run with several workers by the names that `set` takes: changed as a whole, divided among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bulkmail.errors import ConfigError
from bulkmail.job.changes import Change, words
from bulkmail.job.manifest import Manifest
from bulkmail.job.regulator import limits_of
from bulkmail.job.workers.share import part_of, rate_of
from bulkmail.pool.limits import BURST_SECONDS
from bulkmail.urlparts import quoted
from bulkmail.values import Rate


class CrewRegulator:
    """send: a worker's index and its part of a change"""

    def __init__(self, manifest: Manifest, workers: int, send: Callable[[int, Change], None]) -> None:
        self._workers, self._send = workers, send
        self._relays = len(manifest.relays)
        self._burst = manifest.limits.burst
        self._now = limits_of(manifest)
        self._groups = {one: ",".join(group.patterns) for group in manifest.limits.domains for one in group.patterns}

    def now(self) -> dict[str, Any]:
        return dict(self._now)

    def check(self, changes: Sequence[Change]) -> None:
        """raises  ConfigError  for what cannot be divided among so many"""
        for change in changes:
            least = self._least(change)
            if least is not None:
                raise ConfigError(
                    f"{quoted(change.name)} is {quoted(str(change.value))}, and the {self._workers} workers of this "
                    f"run cannot share less than {least}; stop it, and resume it with fewer workers"
                )

    def _least(self, change: Change) -> str | None:
        """What could be divided, of a change that cannot."""
        if change.scope == "domain" or change.value is None:
            return None
        if isinstance(change.value, int):
            least = self._workers * (self._relays if change.scope == "job" else 1)
            return str(least) if change.value < least else None
        if change.scope == "job" and self._burst is not None:
            return None  # it was looked at when the run began
        slowest = self._workers / BURST_SECONDS  # each has a burst of one at least
        return f"{slowest:g}/s" if change.value.per_second < slowest else None

    def change(self, change: Change) -> None:
        of = self._groups.get(change.of, change.of) if change.scope == "domain" else change.of
        name = change.key if change.scope == "job" else f"{change.scope}.{of}.{change.key}"
        value = change.value
        self._now[name] = words(value.per_second) if isinstance(value, Rate) else value
        for index in range(self._workers):
            self._send(index, change if change.scope == "domain" else replace(change, value=self._part(value, index)))

    def _part(self, value: Rate | int | None, index: int) -> Rate | int | None:
        return part_of(value, self._workers, index) if isinstance(value, int) else rate_of(value, self._workers)
