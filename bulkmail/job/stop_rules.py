"""Whether a run has gone so wrong that it had better stop: the manifest's `stop_if`.

Counted over this run: whoever resumes a job that was stopped so has looked at it, and begins to count anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from bulkmail.errors import JOB, BulkmailError
from bulkmail.job.specs import StopRule

STATES: Final = ("failed", "deferred", "in_doubt")
AFTER: Final = 100  # attempts before a share says something: of ten, one is 10 %


class StoppedByRule(BulkmailError):
    """A rule of the manifest's `stop_if` was reached. The rest waits for --resume."""

    code, scope = "ESTOPPED", JOB


class StopRules:
    """note() each ending that is no delivery; reached() after a batch of them: `changed` since the last time."""

    def __init__(self, rules: Iterable[StopRule] = ()) -> None:
        self._rules = tuple(rules)
        self._counts: Counter[str] = Counter()
        self._unsent = 0
        self.changed = False

    def note(self, state: str, kind: str, sent: bool = True) -> None:
        """One recipient's "failed", "deferred" or "in_doubt". kind: what the refusal meant; sent: it was an attempt."""
        if self._rules:
            self.changed = True
            self._unsent += not sent
            self._counts.update({state, kind})

    def add(self, counts: Mapping[str, int], unsent: int) -> None:
        """What others have noted: by state and by kind; unsent: without an attempt."""
        if self._rules and (counts or unsent):
            self.changed = True
            self._unsent += unsent
            self._counts.update(counts)

    def reached(self, attempts: int) -> StoppedByRule | None:
        """Why to stop, or None. attempts: that have ended in this run."""
        if not self.changed:
            return None
        self.changed = False
        attempts += self._unsent
        for rule in self._rules:
            count = self._counts[rule.what]
            if attempts >= rule.after and count >= (rule.most * attempts if rule.share else rule.most):
                return StoppedByRule(_said(rule, count, attempts))
        return None


def _said(rule: StopRule, count: int, attempts: int) -> str:
    limit = f"{rule.most * 100:g}%" if rule.share else str(rule.most)
    return (
        f"stop_if says {rule.what!r} {limit}, and it is {count} of {attempts} attempts of this run "
        f"({count / attempts:.1%}); --resume goes on and counts anew"
    )
