"""A job that does what a test tells it, in the place of bulkmail.job.job."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

SUMMARY: dict[str, Any] = {
    "job": "news", "state": "finished", "recipients": 3, "delivered": 3, "failed": 0, "deferred": 0, "in_doubt": 0,
    "pending": 0, "suppressed": 0, "attempts": 3, "bytes": 600, "seconds": 0.5, "messages_per_second": 6.0,
    "relays": {"main": {"delivered": 3, "deferred": 0, "failed": 0, "connections": 1, "last_error": None}},
    "journal": "news.journal",
}  # fmt: skip


@dataclass
class FakeReport:
    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    exit_code: int = 0
    error: Exception | None = None


@dataclass
class FakeJob:
    """Records how it was called. load_error, run_error: raised there; events: for on_event; during: called in run."""

    report: FakeReport = field(default_factory=FakeReport)
    findings: list[Any] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    load_error: BaseException | None = None
    run_error: BaseException | None = None
    during: Callable[[], None] | None = None
    live: dict[str, Any] = field(default_factory=dict)
    manifest: ClassVar[Any] = types.SimpleNamespace(
        path=Path("news.json"), journal=Path("news.journal"), events=None, relays=(),
        recipients=types.SimpleNamespace(source="-", suppress=()),
    )  # fmt: skip
    loaded: tuple[Any, dict[str, Any]] | None = None
    ran: dict[str, Any] | None = None
    checked: dict[str, Any] | None = None
    stops: int = 0
    reloads: int = 0

    def load(self, path: str, **overrides: Any) -> FakeJob:
        self.loaded = (path, overrides)
        if self.load_error is not None:
            raise self.load_error
        return self

    def check(self, **named: Any) -> list[Any]:
        self.checked = named
        return self.findings

    def run(self, **named: Any) -> FakeReport:
        self.ran = named
        for event in self.events:
            named["on_event"](event)
        if self.during is not None:
            self.during()
        if self.run_error is not None:
            raise self.run_error
        return self.report

    def stop(self) -> None:
        self.stops += 1

    def reload(self) -> None:
        self.reloads += 1

    def progress(self) -> dict[str, Any]:
        return self.live


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> FakeJob:
    fake = FakeJob()
    module = types.ModuleType("bulkmail.job.job")
    module.Job = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bulkmail.job.job", module)
    return fake


@pytest.fixture
def call() -> Callable[..., Result]:
    """call("send", "m.json") -> the click Result, with .stdout, .stderr and .exit_code."""
    from bulkmail.cli import main

    def call(*args: str) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return call
