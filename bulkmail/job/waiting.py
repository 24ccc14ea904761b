"""Which chunks of a ledger wait, by route: what `lease` and `next_due` ask, in memory and without a statement.

Some 100 bytes a chunk, so a tenth of a byte a recipient.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple


class Place(NamedTuple):
    """Where a chunk belongs."""

    route: str
    not_before: float


class _Queue:
    """The waiting chunks of one route, as heaps: those with a time, and those without."""

    __slots__ = ("fresh", "timed")

    def __init__(self) -> None:
        self.fresh: list[int] = []
        self.timed: list[tuple[float, int]] = []

    def head(self, now: float) -> tuple[int, float, int] | None:
        """What to compare routes by; smallest goes first: what was retried before what is new."""
        if self.timed and self.timed[0][0] <= now:
            return 0, *self.timed[0]
        return (1, 0.0, self.fresh[0]) if self.fresh else None


class Waiting:
    """Chunks wait until `take`, and are then out until `done` or `put_back`."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._out: dict[int, Place] = {}

    def add(self, route: str, no: int, not_before: float) -> None:
        """not_before: Unix seconds, 0 for a chunk that can go at any time."""
        queue = self._queues.setdefault(route, _Queue())
        if not_before > 0:
            heappush(queue.timed, (not_before, no))
        else:
            heappush(queue.fresh, no)

    def routes(self) -> list[str]:
        return [route for route, queue in self._queues.items() if queue.fresh or queue.timed]

    def _of(self, routes: Iterable[str] | None) -> list[tuple[str, _Queue]]:
        if routes is None:
            return list(self._queues.items())
        return [(route, self._queues[route]) for route in dict.fromkeys(routes) if route in self._queues]

    def take(self, limit: int, now: float, routes: Iterable[str] | None = None) -> list[int]:
        """Up to `limit` chunks that are due, best first."""
        queues = self._of(routes)
        taken: list[int] = []
        while len(taken) < limit:
            heads = [(head, route, queue) for route, queue in queues if (head := queue.head(now)) is not None]
            if not heads:
                break
            (fresh, not_before, no), route, queue = min(heads, key=lambda entry: entry[0])
            if fresh:
                heappop(queue.fresh)
            else:
                heappop(queue.timed)
            self._out[no] = Place(route, not_before)
            taken.append(no)
        return taken

    def put_back(self, numbers: Iterable[int], not_before: float | None = None) -> None:
        """not_before: None for the one it had."""
        for no in numbers:
            place = self._out.pop(no)
            self.add(place.route, no, place.not_before if not_before is None else not_before)

    def done(self, no: int) -> None:
        del self._out[no]

    def next_due(self, now: float, routes: Iterable[str] | None = None) -> float | None:
        """When the next chunk is due: `now` if one is, None if none waits."""
        times = [now for _, queue in self._of(routes) if queue.fresh]
        times += [max(now, queue.timed[0][0]) for _, queue in self._of(routes) if queue.timed]
        return min(times, default=None)
