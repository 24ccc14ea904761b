"""An event loop whose clock jumps to the next timer when nothing else is to be done."""

from __future__ import annotations

import asyncio
from typing import Any

START = 1_700_000_000.0  # Unix time at which every simulation begins
MOST_TURNS = 200_000  # of the loop; a run that needs more spins


class Stalled(AssertionError):
    """Nothing is ready and no timer is set: the run would wait for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is a number that jumps. turns: see MOST_TURNS."""

    def __init__(self, turns: int = MOST_TURNS) -> None:
        super().__init__()
        self.most_turns = turns
        self.now = 1000.0
        self.turns = 0
        self.problem: BaseException | None = None  # that a callback ended with
        self.set_exception_handler(self._note_problem)

    def _note_problem(self, _: Any, context: dict[str, Any]) -> None:
        self.problem = self.problem or context.get("exception") or AssertionError(context["message"])

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self.turns += 1
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem
        if self.turns > self.most_turns:
            raise Stalled(f"the loop spins at {self.now - 1000:.3f} s")
        if not self._ready:  # type: ignore[attr-defined]
            times = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
            if not times and not self._stopping:  # type: ignore[attr-defined]
                raise Stalled(f"nothing is left to wait for at {self.now - 1000:.3f} s")
            if times:
                self.now = max(self.now, min(times))
        super()._run_once()  # type: ignore[misc]


class Clock:
    """Stands in for the module `time` where the job asks it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return START + self._loop.now - 1000

    def monotonic(self) -> float:
        return self._loop.now

    @staticmethod
    def strftime(*args: Any) -> str:
        return ""
