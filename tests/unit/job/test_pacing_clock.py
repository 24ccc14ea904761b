"""Whether a limit allows more, and how long until it does, are one question: asked twice, the clock may have moved on
between, and nobody would be woken. uvloop's moves by the millisecond."""

from __future__ import annotations

from typing import Any

import pytest

from bulkmail.job.pacing import Pacing
from unit.job.simulation import FakeRelay, Simulation


def test_who_is_refused_is_told_to_wait_by_the_same_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    wait = Pacing.wait

    def heard(self: Pacing, lane: Any, count: int = 1, now: float | None = None) -> float:
        if now is not None:
            found = wait(self, lane, count, now)
            self._loop.now += 0.05  # type: ignore[attr-defined]
            assert wait(self, lane, count, now) == found  # whatever the clock says meanwhile
            told.append(found)
            return found
        return wait(self, lane, count)

    monkeypatch.setattr(Pacing, "wait", heard)
    simulation = Simulation(100, FakeRelay("a", "smtp://a.test?connections=5"), rate=60.0)
    simulation.run()
    assert sum(simulation.taken.values()) == 100
    assert len(told) > 10 and min(told) > 0
