"""What a worker leaves that has died: settled as after a crash of the whole, while the others go on.

Who was claimed and has no outcome is in doubt, and stays so for the next run's policy. The rest goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bulkmail.job.journal import Journal
from bulkmail.job.ledger import DEFERRED, IN_DOUBT, MOVED, NONE, Advance, Chunk, NewChunk, is_done, pack, retry_time


def salvage(journal: Journal, chunks: Iterable[Chunk], delays: Sequence[float], now: float) -> tuple[int, int]:
    """In the writer's thread. chunks: that it had leased. How many are in doubt: at their first attempt, and later."""
    advance, kept, doubts = Advance(), [], [0, 0]
    for chunk in chunks:
        claimed, outcome = journal.leased(chunk.no)
        settled = bytearray(outcome[:claimed].replace(bytes([NONE]), bytes([IN_DOUBT])) + outcome[claimed:])
        doubts[chunk.attempt > 0] += settled.count(IN_DOUBT) - outcome.count(IN_DOUBT)
        advance.retries += _moved(chunk, settled, retry_time(now, chunk.attempt, delays, now))
        advance.chunks.append((chunk.no, chunk.fence, claimed, bytes(settled)))
        if not is_done(settled):
            kept.append((chunk.no, chunk.not_before))
    if advance.chunks:
        journal.advance(advance)
    if kept:
        journal.release(kept)
    return doubts[0], doubts[1]


def _moved(chunk: Chunk, settled: bytearray, due: float) -> list[NewChunk]:
    """Those who were refused for now, and not on their way to a chunk of their own."""
    places = [place for place, byte in enumerate(settled) if byte == DEFERRED]
    if not places:
        return []
    for place in places:
        settled[place] = MOVED
    packed = pack([chunk.numbers[place] for place in places], [chunk.offsets[place] for place in places])
    return [NewChunk(chunk.route, packed, len(places), chunk.attempt + 1, due, chunk.no)]
