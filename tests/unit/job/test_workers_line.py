"""Frames between a run and its workers: the same however the stream is cut, and nothing else gets in."""

from __future__ import annotations

import asyncio
import pickle
from unittest.mock import Mock

import pytest

from bulkmail.job.ledger import Advance, Chunk, NewChunk, Trouble
from bulkmail.job.workers.frames import LENGTH, MAX_FRAME, Line, packed

FRAMES = [
    ("answer", 1, None, None),
    ("advance", 7, Advance([(1, 1, 3, b"DD.")], [(1, b"x" * 300)], [Trouble("a@b.test", 1, 1, 0, 1, 70)], serial=3)),
    ("lease", 2, ["*", "gmail.com"], 4, 1.5),
    ("answer", 3, [NewChunk("*", b"12", 2, 1, 0.0)], OSError(28, "full")),
]


@pytest.mark.parametrize("step", [1, 2, 7, 100, 1 << 20])
def test_frames_come_whole_however_they_are_cut(step):
    got: list[object] = []
    line = Line(got.append, lambda: None)
    stream = b"".join(part for frame in FRAMES for part in packed(frame))
    for at in range(0, len(stream), step):
        line.data_received(stream[at : at + step])
    assert list(map(repr, got)) == list(map(repr, FRAMES))


def test_a_chunk_travels_without_what_can_be_unpacked_again():
    from bulkmail.job.ledger import pack

    chunk = Chunk(5, "*", pack([1, 2, 3], [0, 10, 20]), 3, attempt=1, not_before=2.5, fence=4, claimed=1)
    assert list(chunk.numbers) == [1, 2, 3]
    chunk.forget_rows()
    size = len(pickle.dumps(chunk, 5))
    again = pickle.loads(pickle.dumps(chunk, 5))
    assert (again.no, again.route, again.attempt, again.not_before, again.fence, again.claimed) == (
        5,
        "*",
        1,
        2.5,
        4,
        1,
    )
    assert (again.outcome, list(again.offsets)) == (bytearray(b"..."), [0, 10, 20])
    assert size < 300


@pytest.mark.parametrize("stray", [LENGTH.pack(MAX_FRAME + 1), *(b"".join(packed(x)) for x in ((), (1, 2), "word"))])  # type: ignore[arg-type]
def test_what_is_no_frame_ends_the_line(stray):
    line = Line(lambda frame: pytest.fail(f"got {frame}"), lambda: None)
    with pytest.raises(ValueError, match="frame"):
        line.data_received(stray)


@pytest.mark.parametrize(
    ("index", "deaths", "told"),
    [
        (0, [], ["throttled"]),
        (1, [], []),
        (1, [(0, [1, 2])], ["throttled"]),
        (2, [(0, [1, 2])], []),
        (2, [(1, [0, 2])], []),
    ],
)
def test_what_all_say_of_the_job_is_said_by_the_first_that_lives(index, deaths, told):
    async def events() -> list[str]:
        from bulkmail.job.workers.worker import Worker

        worker = Worker()
        worker._index, worker._first, worker._scheduler = index, index == 0, Mock()
        worker.line.send = lambda word, told: said.extend(told)  # type: ignore[method-assign]
        for lost, living in deaths:
            worker._do_inherit(lost, living)
        worker._tell({"event": "throttled", "scope": "job"})
        worker._flush()
        return [event["event"] for event in said]

    said: list[dict[str, str]] = []
    assert asyncio.run(events()) == told
