"""Shares by weight: what is dealt is all there is, fits, and comes out even in the long run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.pool.weights import MOST_OWED, Weights


def one_at_a_time(weights, count):
    deal = Weights(weights)
    return [deal.deal(1, [1] * len(weights)).index(1) for _ in range(count)]


@pytest.mark.parametrize(
    "weights, sequence",
    [
        ([5, 1, 1], "aabacaa"),  # nginx's example
        ([1, 1], "abab"),
        ([1, 1, 1], "abcabc"),
        ([2, 1], "abaaba"),
        ([1], "aaa"),
    ],
)
def test_one_at_a_time_they_are_spread(weights, sequence):
    assert "".join("abc"[place] for place in one_at_a_time(weights, len(sequence))) == sequence


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_one_at_a_time_nobody_is_ever_more_than_one_away_from_its_share(weights, rounds):
    """The bound of smooth weighted round robin is below the number of lanes; at these sizes it is checked as that."""
    had = [0] * len(weights)
    for count, place in enumerate(one_at_a_time(weights, rounds), 1):
        had[place] += 1
        for got, weight in zip(had, weights, strict=True):
            assert abs(got - count * weight / sum(weights)) < len(weights)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_after_a_whole_round_each_has_exactly_its_weight(weights, data):
    deal, had = Weights(weights), [0] * len(weights)
    left = sum(weights)
    while left:
        count = data.draw(st.integers(1, left))
        dealt = deal.deal(count, [left] * len(weights))
        had = [a + b for a, b in zip(had, dealt, strict=True)]
        left -= count
    assert had == pytest.approx(weights, abs=1)
    assert sum(had) == sum(weights)


ROUNDS = st.lists(
    st.tuples(st.lists(st.integers(0, 300), min_size=4, max_size=4), st.floats(0, 1), st.tuples(*[st.booleans()] * 4)),
    max_size=40,
)


@given(st.lists(st.integers(1, 1000), min_size=4, max_size=4), ROUNDS)
def test_all_is_dealt_nobody_gets_more_than_fits_and_what_is_owed_is_bounded(weights, rounds):
    deal = Weights(weights)
    for rooms, part, sharing in rounds:
        count = int(sum(rooms) * part)
        dealt = deal.deal(count, rooms, sharing)
        assert sum(dealt) == count
        assert all(0 <= got <= room for got, room in zip(dealt, rooms, strict=True))
        assert all(-MOST_OWED <= deal.owed(place) <= MOST_OWED for place in range(4))


@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.lists(st.integers(1, 50), min_size=30, max_size=60))
def test_batches_of_any_size_come_out_by_weight(weights, batches):
    deal, had = Weights(weights), [0] * len(weights)
    for count in batches:
        had = [a + b for a, b in zip(had, deal.deal(count, [count] * len(weights)), strict=True)]
    for got, weight in zip(had, weights, strict=True):
        assert abs(got - sum(batches) * weight / sum(weights)) <= len(weights)


def test_what_others_carried_for_one_without_room_is_made_up_for_and_not_for_ever():
    deal = Weights([1, 1])
    for _ in range(10_000):
        assert deal.deal(1, [1, 0], [True, True]) == [1, 0]
    assert deal.owed(1) == MOST_OWED
    extra = sum(deal.deal(1, [1, 1])[1] - 0.5 for _ in range(1000))
    assert extra == pytest.approx(MOST_OWED, abs=1)


def test_one_that_is_not_in_the_round_is_owed_nothing_for_it():
    deal = Weights([1, 1])
    for _ in range(100):
        deal.deal(1, [1, 0], [True, False])
    assert deal.owed(1) == 0
    assert deal.deal(2, [2, 2]) == [1, 1]


def test_without_anybody_in_the_round_those_with_room_have_it():
    deal = Weights([1, 5])
    assert deal.deal(3, [3, 0], [False, False]) == [3, 0]


def test_what_was_planned_and_not_taken_is_not_charged():
    deal, had = Weights([3, 1]), [0, 0]
    for _ in range(400):  # a rate grants one at a time of the ten that would fit
        assert sum(deal.plan(10, [10, 10], [True, True])) == 10
        first = deal.order([True, True])[0]
        had[first] += 1
        deal.charge([int(first == 0), int(first == 1)], [True, True])
    assert had == [300, 100]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40), st.booleans()), min_size=1, max_size=5))
def test_enough_for_everybody_is_as_much_as_each_has_room_for(lanes):
    """A pool does not ask for a plan then."""
    weights, rooms, sharing = (list(column) for column in zip(*lanes, strict=True))
    deal = Weights(weights)
    deal.charge(deal.plan(sum(rooms) // 3, rooms, sharing), sharing)
    assert deal.plan(sum(rooms), rooms, sharing) == rooms
