"""What a job tells its caller: findings of a check, the report of a run, events on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bulkmail.errors import BulkmailError
from bulkmail.message.finding import Finding

__all__ = ["Finding", "OnEvent", "Report"]

OnEvent = Callable[[dict[str, Any]], None]


@dataclass
class Report:
    """How a run ended.

    summary    the object that `bulkmail send --json` prints
    exit_code  0 everybody delivered or suppressed; 1 some failed or in doubt; 3 stopped before the end
    error      why it stopped, or None
    """

    summary: dict[str, Any]
    exit_code: int
    error: BulkmailError | None = None

    def __str__(self) -> str:
        s = self.summary
        text = (
            f"{s['job']}: {s['state']}. {s['delivered']:,} of {s['recipients']:,} delivered, {s['failed']:,} failed, "
            f"{s['deferred']:,} deferred, {s['in_doubt']:,} in doubt, {s['pending']:,} pending, "
            f"{s['suppressed']:,} suppressed, in {s['seconds']:.1f} s ({s['messages_per_second']:,.0f} a second)."
        )
        return f"{text} Stopped: {self.error}." if self.error is not None else text
