"""Packed rows come out as they went in, small for neighbours, and damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.job.packing import pack_rows, unpack_rows

BIGGEST = 2**62


@given(st.lists(st.tuples(st.integers(0, BIGGEST), st.integers(0, BIGGEST))))
@example([])
@example([(0, 0)])
@example([(BIGGEST, 0), (0, BIGGEST)])
def test_rows_come_out_as_they_went_in(rows: list[tuple[int, int]]) -> None:
    numbers, offsets = [number for number, _ in rows], [offset for _, offset in rows]
    assert [list(found) for found in unpack_rows(pack_rows(numbers, offsets))] == [numbers, offsets]


def test_neighbours_take_three_bytes() -> None:
    numbers = list(range(500_000, 501_000))
    assert len(pack_rows(numbers, [number * 120 for number in numbers])) < 3010


def test_a_cut_blob_is_refused() -> None:
    blob = pack_rows([1000, 1001], [100_000, 200_000])
    cuts = [blob[:end] for end in range(len(blob))]
    assert [cut for cut in cuts if cut and _opens(cut) == ([1000, 1001], [100_000, 200_000])] == []
    for blob in (b"\x80", b"\x02", b"\xff" * 40, b"\x02\x80"):
        with pytest.raises(ValueError, match="damaged"):
            unpack_rows(blob)


def _opens(blob: bytes) -> tuple[list[int], list[int]] | None:
    try:
        return unpack_rows(blob)
    except ValueError:
        return None


def test_lists_of_two_lengths_and_numbers_beyond_the_bound_are_refused() -> None:
    with pytest.raises(ValueError, match="2 numbers and 1 offsets"):
        pack_rows([1, 2], [0])
    with pytest.raises(OverflowError):
        pack_rows([1], [2**63])
