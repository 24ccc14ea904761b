"""No message costs more of Python's allocator than it did."""

from __future__ import annotations

import pytest

from counts import bounds, measuring

pytestmark = pytest.mark.usefixtures("measured_python")


@pytest.fixture(scope="module")
def pieces(measured_python, folder):
    return measuring.allocations([*bounds.PIECES, "a list for each"], folder)


@pytest.fixture(scope="module")
def wholes(measured_python, folder, sinks):
    return measuring.allocations(bounds.WHOLES, folder, **sinks)


def told(found):
    """What to say of too many: of which size they were."""
    sizes = {size: round(calls, 2) for size, calls in sorted(found.items()) if calls >= 0.05}
    return f"allocations a message by their size in bytes (528: any above 512): {sizes}"


@pytest.mark.parametrize("name", bounds.PIECES)
def test_a_piece_allocates_nothing_further_for_a_message(name, pieces):
    most = bounds.PIECES[name].allocations + bounds.PIECE_ALLOCATIONS
    assert sum(pieces[name].values()) <= most, told(pieces[name])


@pytest.mark.parametrize("name", bounds.WHOLES)
def test_a_whole_run_allocates_no_more_for_a_message(name, wholes):
    most = bounds.WHOLES[name].allocations * bounds.WHOLE_ALLOCATIONS
    assert sum(wholes[name].values()) <= most, told(wholes[name])


def test_a_list_for_each_message_is_seen(pieces):
    """Beside it only the numbers that Python counts them by."""
    assert 2 <= sum(pieces["a list for each"].values()) <= 3.1
