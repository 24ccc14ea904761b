"""Filling a ledger part by part, while those who are in it already are sent to: `"validate": false`.

Each part is one commit, which says where the next one begins: so a run that was killed goes on there. Rows are read on
the event loop, some at a time and then a pause. A thread of its own would not be quicker, as it cannot run beside the
loop, and whoever waits for the interpreter's lock waits for up to 5 ms, each time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from bulkmail.errors import BulkmailError, JournalError
from bulkmail.job.fill import Decided, Filling
from bulkmail.job.ledger import FAILED, NONE, STATE_NAMES, SUPPRESSED, Ledger, Part, PartChunk, Trouble
from bulkmail.job.mx import Ahead
from bulkmail.job.recipients import Place, RowBatch

if TYPE_CHECKING:
    from bulkmail.job.scheduler import Scheduler
    from bulkmail.job.writer import Writer

ROWS: Final = 1000  # read at a time, in 0.5 ms: no connection waits longer for its answer to be looked at
FIRST_ROWS: Final = 2000  # of the first part: enough to begin with
PART_ROWS: Final = 50_000  # of the others: chunks that are not full cost more than their recipients
ROUTE_ROWS: Final = 250  # and for each route, of which each has such a chunk
PART_CHUNKS: Final = 1500  # those of duplicates are small; a statement has 32,766 values
PAUSE: Final = 3.0  # times what reading took: sending comes first
READY_SECONDS: Final = 0.2  # a run that is stopped waits no longer for what its routes are asked for
HURRY_BELOW: Final = 10_000  # but not if fewer recipients wait: then there is less to send than could be sent


class _Collected:
    """A Filler whose chunks become a Part."""

    def __init__(self) -> None:
        self.part = Part()

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        self.part.chunks.append(PartChunk(route, packed, n, outcome[0] if outcome else NONE, note))
        return len(self.part.chunks) - 1

    def add_trouble(self, trouble: Trouble) -> None:
        self.part.troubles.append(trouble)

    def set_total(self, n: int) -> None:
        return None

    def set_digest(self, digest: str) -> None:
        self.part.digest = digest


class PartFiller:
    """Cuts a source into parts for a ledger.

    filling   of a source that no run has filled from, or has not to the end
    place     what the last part said, for a run that goes on; None: from the beginning
    routes    how many there are
    raises    ManifestError  the list has no recipients (by the first part); JournalError  it was changed meanwhile
    """

    def __init__(self, filling: Filling, place: str | None, routes: int) -> None:
        self._filling = filling
        self._most = PART_ROWS + ROUTE_ROWS * routes
        self._want = FIRST_ROWS if place is None else self._most
        self._collected, self._rows = _Collected(), 0
        self._at: Place | None = None
        self._unread = filling.scan(ROWS) if place is None else filling.ahead(self._go_on(json.loads(place)))
        self.ended = False

    def step(self) -> Part | None:
        """Read ROWS rows, or those again that were read before; a part once it is large enough, or the last one."""
        batch = next(self._unread, None)
        if batch is not None:
            self._filling.take(batch, self._collected)
            self._at = batch.end or self._at
            self._rows += len(batch)
        if batch is None or self._filling.full:
            return self._last()
        large = self._rows >= self._want or len(self._collected.part.chunks) >= PART_CHUNKS
        if not large or self._at is None:
            return None
        return self._cut(self._place())

    async def ready(self) -> bool:
        """Whether step() has not to wait for anybody. Waits for that, a moment at most."""
        return await self._unread.ready(READY_SECONDS) if isinstance(self._unread, Ahead) else True

    def first(self) -> Part:
        """The part that a job begins with."""
        while True:
            part = self.step()
            if part is not None:
                return part

    def take_decided(self) -> list[Decided]:
        """Those of the last part, if the filling notes them."""
        taken, self._filling.decided = self._filling.decided, None if self._filling.decided is None else []
        return taken or []

    def _go_on(self, was: dict[str, Any]) -> Iterator[RowBatch]:
        """What follows a place. Who remembers whom it has seen reads what came before once more."""
        filling, selection = self._filling, self._filling.selection
        place = Place(was["offset"], was["number"], was["line"], bool(was["skipping"]))
        filling.total, filling.listed, filling.limit = was["total"], was["listed"], was["limit"]
        start = None if selection.remembers else place
        reached = start is not None
        for batch in selection.scan(filling.source, ROWS, start=start):
            if reached and batch.end is not None:
                yield batch
                continue
            selection.decide(batch)
            reached = reached or (batch.end is not None and batch.end.offset == place.offset)
            yield RowBatch(end=place)
        if not reached:
            raise JournalError(f"{filling.source.name} is not the file that the job began with")

    def _place(self) -> str:
        assert self._at is not None
        filling = self._filling
        numbers = {"total": filling.total, "listed": filling.listed, "limit": filling.limit}
        return json.dumps(self._at._asdict() | numbers)

    def _last(self) -> Part:
        self.ended = True
        self._filling.close()
        self._filling.refuse()
        part = self._cut(None)
        part.digest = self._filling.source.known_pin.digest
        return part

    def _cut(self, place: str | None) -> Part:
        self._filling.add_rest(self._collected)
        part, self._collected, self._rows = self._collected.part, _Collected(), 0
        self._want = min(self._most, 4 * self._want)
        part.place = place
        return part


class FillOn:
    """The rest of a job's recipients, added while the first ones are sent to.

    tell  is called with (state, address, why) of those who need no sending, once they are in the ledger
    """

    def __init__(self, parts: PartFiller, ledger: Ledger, tell: Callable[[list[Decided]], None]) -> None:
        self._parts, self._ledger, self._tell = parts, ledger, tell

    async def run(self, writer: Writer, scheduler: Scheduler) -> None:
        """Until the list ends, or the scheduler stops. Errors are the scheduler's."""
        try:
            while not (self._parts.ended or scheduler.stopping or scheduler.done.done()):
                if not await self._parts.ready():
                    continue
                began = time.perf_counter()
                part = self._parts.step()
                spent = time.perf_counter() - began
                if part is not None:
                    await self._add(part, writer, scheduler)
                hurry = scheduler.tally.counts.pending < HURRY_BELOW
                await asyncio.sleep(0 if hurry else PAUSE * spent)
            if self._parts.ended:
                scheduler.filling = False
                scheduler.look_for_end()
        except BulkmailError as error:
            scheduler.stop(error)
        except Exception as error:
            scheduler.break_off(error)

    async def _add(self, part: Part, writer: Writer, scheduler: Scheduler) -> None:
        try:
            await writer.call(self._ledger.add_part, part)
        except Exception as error:
            scheduler.ledger_failed(error, "written")
            return
        counts = dict.fromkeys((NONE, SUPPRESSED, FAILED), 0)
        for chunk in part.chunks:
            counts[chunk.outcome] += chunk.n
        routes = {chunk.route for chunk in part.chunks if chunk.outcome == NONE}
        for byte, count in counts.items():
            scheduler.tally.add(STATE_NAMES[byte], count)
        for route in routes:
            scheduler.expect(route)
        scheduler.leased(False)
        self._tell(self._parts.take_decided())
