from collections.abc import Iterator
from typing import NamedTuple

MAX_RECORDS: int
MAX_REPLY_KEPT: int

class Detail(NamedTuple):
    position: int
    attempt: int
    relay: int
    egress: int
    started: float
    ended: float
    code: int
    reply: bytes
    outcome: int

class DetailBuffer:
    offset: float
    def __init__(self, offset: float = 0.0) -> None: ...
    def __len__(self) -> int: ...
    def add(
        self,
        chunk: int,
        position: int,
        attempt: int,
        relay: int,
        egress: int,
        started: float,
        ended: float,
        code: int,
        reply: bytes,
        outcome: int,
    ) -> bool: ...
    def flush(self) -> list[tuple[int, bytes]]: ...

def decode(records: bytes) -> Iterator[Detail]: ...
def sum_deliveries(
    records: bytes, seconds: dict[int, int], ways: dict[tuple[int, int], int], took: list[int]
) -> None: ...
def took_bounds() -> list[int]: ...
def tally(outcome: bytes, claimed: int) -> tuple[int, int, int, int, int, int, int, int, int]: ...
def bad_step(old: bytes, new: bytes, claimed: int) -> int: ...
