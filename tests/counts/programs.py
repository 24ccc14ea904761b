"""All that is counted, by name, and with how many messages."""

from __future__ import annotations

from typing import NamedTuple

from counts.pieces import PIECES, Steps
from counts.wholes import WHOLES


class Program(NamedTuple):
    """few, many: what a message costs is taken from the difference of two runs."""

    steps: Steps
    few: int
    many: int


# Of a whole run "few" is so many that all connections are open and busy: of a shared message transactions of 100.
SHARED = {"send, shared": (3000, 6000)}
SIZES = {name: (400, 2000) for name in PIECES} | {name: (1000, 3000) for name in WHOLES} | SHARED

PROGRAMS = {name: Program(steps, *SIZES[name]) for name, steps in (PIECES | WHOLES).items()}
