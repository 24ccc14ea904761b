from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from bulkmail.job.cutting import Cutter
from bulkmail.job.packing import pack_rows as pack_rows
from bulkmail.job.packing import unpack_rows as unpack_rows
from bulkmail.job.row_blocks import Blocks

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
    addresses: list[str]
    rows: list[dict[str, Any]]
    problems: list[RowProblem]
    failed: list[tuple[int, str]]
    cut: int

class RowParser:
    number: int
    line: int
    skipping: bool
    def __init__(
        self,
        format: str,
        *,
        columns: Sequence[str] = (),
        delimiter: str = ",",
        required: Iterable[str] = (),
        breakless: Iterable[str] = (),
        number: int = 0,
        line: int = 0,
        skipping: bool = False,
        keep: bool = True,
    ) -> None: ...
    def take(
        self, data: bytes, pos: int, base: int, final: bool, batch: _Batch, limit: int, cutter: Cutter | None = None
    ) -> int: ...
    def parse_at(
        self, data: bytes, base: int, offsets: list[int], i: int, final: bool, rows: list[dict[str, Any]]
    ) -> int: ...
    def parse_far(self, fd: int, offsets: list[int], i: int, rows: list[dict[str, Any]], blocks: Blocks) -> int: ...

def lacking(name: str) -> str: ...
