"""Which function holds which row of docs/features.md to its promise, and what several of them ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from integration.feature_page import Ran

ALL = ["ann@example.com", "bob@example.org", "carla@example.net"]
CHECKS: dict[str, tuple[Callable[[Ran], object], dict[str, Any], str | None]] = {}


def row(*names: str, needs: str | None = None, **sink: Any) -> Callable[[Callable[[Ran], Any]], Callable[[Ran], Any]]:
    """What these rows of the page promise. sink: its options; needs: a package that may be missing."""

    def note(check: Callable[[Ran], object]) -> Callable[[Ran], object]:
        for name in names:
            assert name not in CHECKS, name
            CHECKS[name] = check, sink, needs
        return check

    return note


def everybody(ran: Ran) -> None:
    assert sorted(ran.mails) == ALL, ran.report
    assert ran.summary["delivered"] == 3
    assert ran.summary["state"] == "finished"
