"""Work is dealt to connections as evenly as their room allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.pool.handing import shares

ROOMS = st.lists(st.integers(0, 20), max_size=12)


@pytest.mark.parametrize(
    ("rooms", "count", "dealt"),
    [
        ([], 0, []),
        ([5], 3, [3]),
        ([4, 4], 8, [4, 4]),
        ([4, 4], 4, [2, 2]),
        ([1, 9, 9], 11, [1, 5, 5]),
        ([9, 1, 9], 11, [5, 1, 5]),
        ([0, 3, 0], 2, [0, 2, 0]),
        ([8, 8, 8], 2, [1, 1, 0]),
    ],
)
def test_examples(rooms, count, dealt):
    assert shares(rooms, count) == dealt


@given(rooms=ROOMS, part=st.floats(0, 1))
def test_all_is_dealt_within_the_room_and_evenly(rooms, part):
    count = round(sum(rooms) * part)
    dealt = shares(rooms, count)
    assert sum(dealt) == count and len(dealt) == len(rooms)
    assert all(0 <= share <= room for share, room in zip(dealt, rooms, strict=True))
    unfilled = [share for share, room in zip(dealt, rooms, strict=True) if share < room]
    if unfilled:
        # nobody who has room left has less than another, but for what does not divide
        assert max(dealt) - min(unfilled) <= 1
