"""Weighted shares that come out even in the long run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# How far one may be ahead of its share, or behind, and have it made up for later: a lane that cannot keep up is not
# owed for ever what the others carried in its place.
MOST_OWED: Final = 64.0
ROUNDING: Final = 1e-6  # thirds do not add up to a whole: what is so near to one counts as one


class Weights:
    """Smooth weighted round robin, by the batch: one at a time it is nginx's, which spreads 5, 1, 1 as a a b a c a a.

    weights   one of each; they are told apart by their place
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = list(weights)
        self._credit = [0.0] * len(self._weights)  # what each should have had by now and has not

    def owed(self, place: int) -> float:
        return self._credit[place]

    def deal(self, count: int, rooms: Sequence[int], sharing: Sequence[bool] | None = None) -> list[int]:
        """`count` things (at most the sum of `rooms`) dealt out: by weight where there is room, else to whoever has.

        sharing   which are in this round; one that is not is owed nothing for it. None: those with room
        """
        sharing = [room > 0 for room in rooms] if sharing is None else sharing
        dealt = self.plan(count, rooms, sharing)
        self.charge(dealt, sharing)
        return dealt

    def plan(self, count: int, rooms: Sequence[int], sharing: Sequence[bool]) -> list[int]:
        """As deal() would; nobody is given anything yet."""
        credit = self._due(count, sharing)
        dealt = [min(room, max(0, int(owed + ROUNDING))) for room, owed in zip(rooms, credit, strict=True)]
        left = count - sum(dealt)
        if left < 0:  # it was owed from before: the least owed wait
            for place in sorted(range(len(dealt)), key=credit.__getitem__):
                taken = min(dealt[place], -left)
                dealt[place] -= taken
                left += taken
        while left > 0:
            open_places = [place for place, room in enumerate(rooms) if room > dealt[place]]
            first = max(open_places, key=lambda place: credit[place] - dealt[place])
            part = left if len(open_places) == 1 else max(1, left // (2 * len(open_places)))
            part = min(part, rooms[first] - dealt[first])
            dealt[first] += part
            left -= part
        return dealt

    def order(self, sharing: Sequence[bool]) -> list[int]:
        """The places, the one first that should have the next thing."""
        return sorted(range(len(self._credit)), key=self._due(1, sharing).__getitem__, reverse=True)

    def charge(self, given: Sequence[int], sharing: Sequence[bool]) -> None:
        """What each was given in this round, which may be less than planned."""
        due = self._due(sum(given), sharing)
        left = [round(owed - had, 9) for owed, had in zip(due, given, strict=True)]
        self._credit = [max(-MOST_OWED, min(MOST_OWED, owed)) for owed in left]

    def _due(self, count: int, sharing: Sequence[bool]) -> list[float]:
        """What each should have, once `count` more are given away."""
        parts = [weight if shares else 0 for weight, shares in zip(self._weights, sharing, strict=True)]
        total = sum(parts) or 1
        return [owed + count * part / total for owed, part in zip(self._credit, parts, strict=True)]
