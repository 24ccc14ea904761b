"""The figures of a run with several workers: what each has told last, added to what the run knows itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bulkmail.job.ledger import Counts
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import EgressTally, RelayTally, Tally
from bulkmail.job.workers.remote import Figures

COUNTED = tuple(Counts.__dataclass_fields__)


class CrewFigures:
    """tally  the run's; others may add to it"""

    def __init__(self, tally: Tally, workers: int) -> None:
        self.tally = tally
        self._last = [Figures() for _ in range(workers)]
        tally.kept = lambda: next((one.kept for one in self._last if one.kept), {})

    def take(self, worker: int, figures: Figures, rules: StopRules) -> None:
        """All that a worker has done so far; rules are told of what is new in it."""
        before, self._last[worker] = self._last[worker], figures
        for name in COUNTED:
            gained = getattr(figures.counts, name) - getattr(before.counts, name)
            self.tally.add(name, gained)
        self.tally.sent += figures.sent - before.sent
        self.tally.waiting = next((one.waiting for one in self._last if one.waiting is not None), None)
        rules.add(Counter(figures.ended) - before.ended, figures.unsent - before.unsent)
        self.tally.relays.update(_relays([one.relays for one in self._last]))


def _relays(parts: list[dict[str, dict[str, Any]]]) -> dict[str, RelayTally]:
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, figures in part.items():
            _add(found.setdefault(name, {}), figures)
    return {name: _relay(figures) for name, figures in found.items()}


def _relay(figures: dict[str, Any]) -> RelayTally:
    egress = {name: EgressTally(**way) for name, way in figures.pop("egress", {}).items()}
    return RelayTally(**figures, egress=egress)


def _add(total: dict[str, Any], figures: Mapping[str, Any]) -> None:
    """The most connections at one time are the sum of each worker's. An egress is "ok" where one worker's is."""
    for key, value in figures.items():
        if key == "egress":
            ways = total.setdefault(key, {})
            for name, way in value.items():
                _add(ways.setdefault(name, {}), way)
        elif key == "state":
            total[key] = value if total.get(key, value) == value else "ok"
        elif key == "last_error":
            total[key] = value if value is not None else total.get(key)
        else:
            total[key] = total.get(key, 0) + value
