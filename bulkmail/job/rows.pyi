from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from bulkmail.job.packing import pack_rows as pack_rows
from bulkmail.job.packing import unpack_rows as unpack_rows

JSONL: Final[str]
CSV: Final[str]
TEXT: Final[str]
MAX_ROW: Final[int]
MAX_DEPTH: Final[int]

class RowProblem(NamedTuple):
    number: int
    line: int
    reason: str

class _Batch(Protocol):
    numbers: list[int]
    offsets: list[int]
    rows: list[dict[str, Any]]
    problems: list[RowProblem]
    failed: list[tuple[int, str]]

class RowParser:
    number: int
    line: int
    def __init__(
        self,
        format: str,
        *,
        columns: Sequence[str] = (),
        delimiter: str = ",",
        required: Iterable[str] = (),
        breakless: Iterable[str] = (),
        line: int = 0,
    ) -> None: ...
    def take(self, data: bytes, pos: int, base: int, final: bool, batch: _Batch, limit: int) -> int: ...
    def parse_at(
        self, data: bytes, base: int, offsets: list[int], i: int, final: bool, rows: list[dict[str, Any]]
    ) -> int: ...

def is_plain_address(text: str) -> bool: ...
