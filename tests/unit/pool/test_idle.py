"""Idle connections: who is given what comes, and what thousands of them cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConnectionLost
from bulkmail.pool.handing import Idle
from bulkmail.pool.lane import NO_LIMIT
from bulkmail.pool.pool import Pool
from bulkmail.smtp.session import Session, Turn
from bulkmail.url import parse_endpoint
from bulkmail.wire.transaction import NOT_TAKEN, Transaction


class Asked(Session):
    """Without a connection; says how often any of them was asked."""

    times = 0

    def room(self) -> int:
        Asked.times += 1
        return super().room()

    def ready(self) -> bool:
        Asked.times += 1
        return super().ready()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def turn(loop):
    return Turn(loop, lambda: None, 0.0)


def session(loop, turn, window=1, kind=Session):
    one = kind(loop, turn, 60.0, 60.0)
    one.data_received(b"220 relay.example.test\r\n")
    one.wire.pipelining, one.left, one.window = True, NO_LIMIT, window
    return one


def transactions(count):
    return [Transaction(b"a@x.test", [b"%d@x.test" % number], b"Subject: x\r\n\r\n") for number in range(count)]


def via(taken, sessions):
    return [sessions.index(tx.via) for tx in taken]


# ---- who has it


@pytest.mark.parametrize(("count", "given"), [(5, [0, 1]), (200, [199, 198])])
def test_few_have_it_in_turn_and_of_many_those_that_came_last(loop, turn, count, given):
    sessions, idle = [session(loop, turn) for _ in range(count)], Idle()
    idle.note_all(sessions, set(sessions))
    taken = transactions(2)
    idle.hand_out(taken, set())
    assert via(taken, sessions) == given
    assert list(idle) == [one for place, one in enumerate(sessions) if place not in given]
    assert (idle.room, idle.ready) == (count - 2, count - 2)


def test_whoever_writes_at_once_goes_before_those_who_came_later(loop, turn):
    sessions, idle = [session(loop, turn, window=4) for _ in range(3)], Idle()
    sessions[2].push(transactions(1))  # its DATA is not answered: what it is given next waits
    idle.note_all(sessions, set(sessions))
    assert (idle.room, idle.ready, len(idle)) == (12, 2, 3)
    taken = transactions(3)
    idle.hand_out(taken, set())
    assert via(taken, sessions) == [0, 1, 2]


def test_what_is_more_than_one_each_is_dealt_evenly_and_all_that_are_ready_write_one_at_once(loop, turn):
    sessions, idle = [session(loop, turn, window) for window in (8, 1, 8)], Idle()
    sessions[2].push(transactions(1))
    idle.note_all(sessions, set(sessions))
    taken = transactions(9)
    idle.hand_out(taken, set())
    by = via(taken, sessions)
    assert by[:2] == [0, 1] and sorted(by) == [0, 0, 0, 0, 1, 2, 2, 2, 2] and len(idle) == 0 == idle.room


def test_who_has_left_its_lane_is_not_noted(loop, turn):
    staying, gone = session(loop, turn), session(loop, turn)
    idle = Idle()
    idle.note_all([gone, staying], {staying})
    assert list(idle) == [staying]


def test_who_may_have_no_more_is_spent(loop, turn):
    last, more = session(loop, turn), session(loop, turn)
    idle, spent, last.left, more.left = Idle(), set(), 1, 2
    idle.note_all([last, more], {last, more})
    idle.hand_out(transactions(2), spent)
    assert spent == {last}


def test_to_have_more_room_keeps_the_place_and_counts_once(loop, turn):
    sessions, idle = [session(loop, turn) for _ in range(2)], Idle()
    idle.note_all(sessions, set(sessions))
    sessions[0].window = 5
    idle.note(sessions[0])
    assert list(idle) == sessions and idle.room == 6


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_one_that_has_ended_is_given_nothing_while_others_are_there(loop, turn, count):
    sessions, idle = [session(loop, turn, window=3) for _ in range(3)], Idle()
    idle.note_all(sessions, set(sessions))
    sessions[2].abort(ConnectionLost("gone"))
    taken = transactions(count)
    idle.hand_out(taken, set())
    assert set(via(taken, sessions)) == {0, 1}


@pytest.mark.parametrize("count", [1, 3])
def test_what_only_ended_ones_had_room_for_is_not_taken(loop, turn, count):
    sessions, idle = [session(loop, turn, window=2) for _ in range(2)], Idle()
    idle.note_all(sessions, set(sessions))
    for one in sessions:
        one.abort(ConnectionLost("gone"))
    taken = transactions(count)
    idle.hand_out(taken, set())
    assert [tx.state for tx in taken] == [NOT_TAKEN] * count


def test_what_the_living_have_no_room_for_is_not_taken(loop, turn):
    sessions, idle = [session(loop, turn, window=2) for _ in range(2)], Idle()
    idle.note_all(sessions, set(sessions))
    sessions[0].abort(ConnectionLost("gone"))
    taken = transactions(4)
    idle.hand_out(taken, set())
    assert sorted(via(taken, sessions)) == [0, 0, 1, 1]
    assert [tx.state == NOT_TAKEN for tx in taken] == [tx.via is sessions[0] for tx in taken]


@given(
    windows=st.lists(st.integers(1, 4), min_size=1, max_size=80),
    ended=st.sets(st.integers(0, 79)),
    share=st.floats(0, 1),
)
def test_whoever_has_ended_each_transaction_is_with_somebody_or_not_taken(windows, ended, share):
    loop = asyncio.new_event_loop()
    try:
        turn = Turn(loop, lambda: None, 0.0)
        sessions, idle = [session(loop, turn, window) for window in windows], Idle()
        idle.note_all(sessions, set(sessions))
        for place in ended & set(range(len(sessions))):
            sessions[place].abort(ConnectionLost("gone"))
        taken = transactions(round(share * idle.room))
        idle.hand_out(taken, set())
        living = [one for one in sessions if one.error is None]
        room = sum(window for window, one in zip(windows, sessions, strict=True) if one.error is None)
        held = sum(one.wire.load() for one in living)
        # what one writes at once leaves its window free: it may have one more than waits there
        assert min(len(taken), room) <= held <= min(len(taken), room + len(living))
        assert all(one.wire.ahead() <= one.window for one in living)
        assert all((tx.state == NOT_TAKEN) == (tx.via.error is not None) for tx in taken)
    finally:
        loop.close()


@given(steps=st.lists(st.tuples(st.sampled_from(("note", "discard", "give")), st.integers(0, 99)), max_size=400))
def test_rows_are_what_a_list_would_be(steps):
    loop = asyncio.new_event_loop()
    try:
        turn = Turn(loop, lambda: None, 0.0)
        sessions, idle, model = [session(loop, turn) for _ in range(100)], Idle(), []
        for step, number in steps:
            one = sessions[number]
            if step == "note" and one.room():
                idle.note(one)
                model = model if one in model else [*model, one]
            elif step == "discard":
                idle.discard(one)
                model = [other for other in model if other is not one]
            elif step == "give" and model:
                row = [one for one in model if one.ready()] or model
                first = row[-1] if len(row) > 64 else row[0]
                taken = transactions(1)
                idle.hand_out(taken, set())
                assert taken[0].via is first
                model.remove(first)
                first.window += 1  # it has room again
            assert (len(idle), idle.room) == (len(model), sum(one.room() for one in model))
        assert set(idle) == set(model)
    finally:
        loop.close()


# ---- what thousands cost


class Source:
    def __init__(self, count):
        self.left, self.ended = transactions(count), 0

    def backlog(self, lane):
        return len(self.left)

    def take(self, lane, room):
        taken, self.left = self.left[:room], self.left[room:]
        return taken

    def settle(self, lane, finished):
        self.ended += len(finished)

    def event(self, *told): ...


@pytest.mark.parametrize("paced", [False, True])
def test_with_thousands_idle_a_turn_asks_no_more_than_it_gives(loop, paced):
    async def main():
        source = Source(0)
        pool = Pool(parse_endpoint("smtp://127.0.0.1"), source, limit=5000, paced=paced)
        lane = pool.lanes[0]
        for _ in range(5000):
            one = session(loop, lane._turn, kind=Asked)
            lane.sessions.add(one)
            lane._turn.hungry.append(one)
        pool.take_turn()
        source.left, Asked.times = transactions(3), 0
        pool.take_turn()
        assert pool.busy() == 3 and len(lane.idle) == 4997
        assert lane.ready() and lane.room() == 4997
        assert Asked.times <= 3 * 3

    loop.run_until_complete(main())
