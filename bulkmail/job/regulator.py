"""The limits of a running job by the names that `set` takes: what they are now, and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bulkmail.job.changes import Change, words
from bulkmail.job.manifest import Manifest
from bulkmail.job.pacing import JOB, Pacing
from bulkmail.job.specs import DomainLimit
from bulkmail.pool.limits import OWN
from bulkmail.values import Rate


class Regulator:
    """Of what manifest and operator say, not of the caps that windows, ramps and the like put on it."""

    def __init__(self, manifest: Manifest, pacing: Pacing) -> None:
        self._pacing = pacing
        self._wanted = {f"relay {spec.name}": spec.connections for spec in manifest.relays}
        self._groups = {pattern: _group(one) for one in manifest.limits.domains for pattern in one.patterns}

    def now(self) -> dict[str, Any]:
        """Each limit by its name; None: there is none."""
        found: dict[str, Any] = {}
        for scope in self._pacing.scopes():
            name = "" if scope == JOB else ".".join(scope.split(" ", 1)) + "."
            found[f"{name}rate"] = words(self._pacing.limit(scope).caps().get(OWN))
            found[f"{name}connections"] = self._pacing.said_connections(scope, OWN) or self._wanted.get(scope)
        return found

    def check(self, changes: Sequence[Change]) -> None:
        """raises  ConfigError  for one that this run cannot follow: there is none"""

    def change(self, change: Change) -> None:
        of = self._groups.get(change.of, change.of) if change.scope == "domain" else change.of
        scope = JOB if change.scope == "job" else f"{change.scope} {of}"
        if isinstance(change.value, int):
            self._pacing.change(scope, connections=change.value)
        elif change.key == "connections":
            self._pacing.change(scope, connections=None)
        else:
            self._pacing.change(scope, rate=change.value.per_second if change.value is not None else None)


def _group(one: DomainLimit) -> str:
    return ",".join(one.patterns)


def names_of(manifest: Manifest) -> dict[str, list[str]]:
    """The names that a limit may be of, by scope. A group of domains is known by each of them too."""
    egresses = [way.name for spec in manifest.relays for way in spec.egresses if way.name]
    groups = manifest.limits.domains
    domains = [*map(_group, groups), *(pattern for one in groups for pattern in one.patterns)]
    return {
        "relay": [spec.name for spec in manifest.relays],
        "egress": list(dict.fromkeys(egresses)),
        "domain": list(dict.fromkeys(domains)),
    }


def limits_of(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says, by the same names and in the same words as Regulator.now()."""
    found: dict[str, Any] = {"rate": _words(manifest.limits.rate), "connections": manifest.limits.connections}
    for spec in manifest.relays:
        options = spec.endpoint.options
        found |= _both(f"relay.{spec.name}", options.rate, options.connections)
        for way in spec.egresses:
            if way.name:
                found |= _both(f"egress.{way.name}", way.rate, way.max_connections)
    for one in manifest.limits.domains:
        found |= _both(f"domain.{_group(one)}", one.rate, one.connections)
    return found


def _both(name: str, rate: Rate | None, connections: int | None) -> dict[str, Any]:
    return {f"{name}.rate": _words(rate), f"{name}.connections": connections}


def _words(rate: Rate | None) -> str | None:
    return words(rate.per_second if rate is not None else None)
