"""Seeds: addresses of `recipients.always_include`, which get the message besides those of the list.

They stand in the manifest, and in the journal's settings for whoever reads it later; a chunk names them by numbers and
offsets that no list has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from bulkmail.job.row_blocks import RowWindow
from bulkmail.job.rows import RowParser
from bulkmail.job.spool import inline_blocks

MAX_SEEDS: Final = 1000  # they are held in memory, and in the journal; more of them are a list
# Above any row's number and any file's offset, below what a chunk's packing holds (2**62).
FIRST_NUMBER: Final = 1 << 40
FIRST_OFFSET: Final = 1 << 61
WHERE: Final = "$.recipients.always_include"

Row = dict[str, Any]


class Rows(Protocol):
    """What rows are read from by their offsets: a recipients.Source."""

    def read(self, offsets: Sequence[int]) -> list[Row]: ...

    def window(self) -> RowWindow | None:
        """For rows that are JSON lines of a file, where the system can; it has none of the seeds."""


class Seeds:
    """text: the seeds as JSON lines, as spool.inline_blocks writes them."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._data = text.encode()

    @classmethod
    def of(cls, items: Iterable[str | Row]) -> Seeds:
        return cls(b"".join(inline_blocks(list(items))).decode())

    def __bool__(self) -> bool:
        return bool(self.text)

    def parse(self, batch: Any, required: Iterable[str] = (), breakless: Iterable[str] = ()) -> None:
        """Fill a recipients.RowBatch; numbers are those of the seeds, from 0, as are offsets."""
        RowParser("jsonl", required=required, breakless=breakless).take(self._data, 0, 0, True, batch, MAX_SEEDS)
        batch.numbers[:] = [number - 1 for number in batch.numbers]

    def reader(self, source: Rows) -> Rows:
        """What gives the rows of seeds and of the source by their offsets."""
        return _Both(self, source) if self else source

    def read(self, offsets: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        places = [offset - FIRST_OFFSET for offset in offsets]
        parser = RowParser("jsonl")
        while len(rows) < len(places):  # as many as ascend are read in one go
            parser.parse_at(self._data, 0, places, len(rows), True, rows)
        return rows


class _Both:
    def __init__(self, seeds: Seeds, source: Rows) -> None:
        self._seeds, self._source = seeds, source

    def window(self) -> RowWindow | None:
        return self._source.window()

    def read(self, offsets: Sequence[int]) -> list[Row]:
        if not offsets or max(offsets) < FIRST_OFFSET:
            return self._source.read(offsets)
        seeds = iter(self._seeds.read([offset for offset in offsets if offset >= FIRST_OFFSET]))
        listed = [offset for offset in offsets if offset < FIRST_OFFSET]
        others = iter(self._source.read(listed) if listed else ())
        return [next(seeds if offset >= FIRST_OFFSET else others) for offset in offsets]


def number_of(seed: int, variant: int = 0) -> int:
    """The number of a seed's copy: each of them gets every variant."""
    return FIRST_NUMBER + variant * MAX_SEEDS + seed


def is_seed(number: int) -> bool:
    return number >= FIRST_NUMBER


def seed_of(number: int) -> tuple[int, int]:
    """(which seed, which variant), both from 0."""
    variant, seed = divmod(number - FIRST_NUMBER, MAX_SEEDS)
    return seed, variant
