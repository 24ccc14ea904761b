"""What a chunk's route says: which domains its recipients have, and by which relay a retry goes.

A route is a pattern of domains ("gmail.com", "*"), and in a retry chunk perhaps a relay behind it:

    gmail.com !main      by another relay than main
    * =main              by main

The ledger, its views and the report show it as it is. A pattern has no space; a relay's name may have some.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

REMEMBERED = 4096  # a job has a handful; each is asked about whenever relays change


class Route(NamedTuple):
    """pattern: of domains; relay: None, or the relay that this is about; same: by it, else by another."""

    pattern: str
    relay: str | None = None
    same: bool = False

    @classmethod
    def parse(cls, text: str) -> Route:
        return _parse(text)

    def __str__(self) -> str:
        return self.pattern if self.relay is None else f"{self.pattern} {'=' if self.same else '!'}{self.relay}"


@lru_cache(REMEMBERED)
def _parse(text: str) -> Route:
    pattern, _, about = text.partition(" ")
    if about[:1] not in ("=", "!") or not about[1:]:
        return Route(text)
    return Route(pattern, about[1:], about[0] == "=")
