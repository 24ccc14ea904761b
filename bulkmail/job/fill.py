"""The one pass over the recipients before anything is sent: checked, left out or cut into chunks by route."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from bulkmail.errors import ManifestError
from bulkmail.job import ledger
from bulkmail.job.cutting import Cutter
from bulkmail.job.ledger import CHUNK_SIZE, Filler, Trouble
from bulkmail.job.mx import MxRoutes
from bulkmail.job.recipients import RowBatch, Source
from bulkmail.job.rows import pack_rows
from bulkmail.job.seeds import is_seed
from bulkmail.job.selection import Selection
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.variants import AnyMessage
from bulkmail.pool.domains import ELSEWHERE, DomainMap

NO_ROUTES = DomainMap(())
Decided = tuple[str, str, str]  # state, address, why
MAX_PROBLEMS = 1000  # bad rows kept to be named; more are only counted


class Filling:
    """Cuts a source into a ledger's chunks.

    limit      only the first `limit` recipients, seeds among them, or None
    routes     the domains whose recipients get chunks of their own
    selection  who is left out; as `spec` says where it is not given
    decided    a list that gets everybody who needs no sending, or None
    raises  ManifestError  bad rows where they stop the job, or no recipients
    """

    def __init__(
        self,
        source: Source,
        spec: RecipientsSpec,
        compiled: AnyMessage,
        limit: int | None,
        routes: DomainMap | MxRoutes = NO_ROUTES,
        selection: Selection | None = None,
    ) -> None:
        self.source, self.spec, self.limit = source, spec, limit
        self.routes = routes
        self.total = self.listed = 0  # all; those that are no seeds
        self._cutter = Cutter(CHUNK_SIZE, routes.route if routes.patterns else None)
        self.decided: list[Decided] | None = None
        self._problems: list[tuple[int, int, str]] = []
        self._bad = 0
        self.selection = selection or Selection(spec, compiled)

    def run(self, filler: Filler) -> None:
        """Add every recipient. Called inside the ledger's fill()."""
        for batch in self.scan():
            self.take(batch, filler)
            if self.full:
                break
        self.add_rest(filler)
        self.close()
        self.refuse()
        filler.set_total(self.total)
        filler.set_digest(self.source.digest)

    def scan(self, rows: int = 1000) -> Iterator[RowBatch]:
        """The batches to take(), each once its routes can be told. Whom nothing is asked about is cut on the way."""
        asked = self.limit is not None or bool(self.routes.patterns) or self.selection.asks
        return self.ahead(self.selection.scan(self.source, rows, cutter=None if asked else self._cutter))

    def ahead(self, batches: Iterator[RowBatch]) -> Iterator[RowBatch]:
        """The batches, each once its routes can be told."""
        return self.routes.ahead(batches) if isinstance(self.routes, MxRoutes) else batches

    def take(self, batch: RowBatch, filler: Filler) -> None:
        """Add the recipients of a batch, those aside that fill no chunk yet."""
        self._cut_to_limit(batch)
        out = self.selection.decide(batch)
        self._take_bad(batch, filler)
        failed = {index: reason for index, reason in batch.failed if index not in out}
        if out or failed:
            self._take_decided(batch, filler, out, failed)
        skip = out.keys() | failed.keys() if out or failed else None
        _add_chunks(filler, self._cutter.add(batch.numbers, batch.offsets, batch.addresses, skip))
        self.total += len(batch)
        self.listed += 0 if batch.numbers and is_seed(batch.numbers[0]) else len(batch)

    def add_rest(self, filler: Filler) -> None:
        """Add the recipients that fill no chunk."""
        _add_chunks(filler, self._cutter.rest())

    def close(self) -> None:
        """No route is asked for any more."""
        if isinstance(self.routes, MxRoutes):
            self.routes.close()

    @property
    def full(self) -> bool:
        """There are as many recipients as there may be."""
        return self.limit is not None and self.total >= self.limit

    def refuse(self) -> None:
        """At the end: ManifestError for a list that stops the job."""
        if self._problems and self.spec.bad_rows == "stop":
            raise self.source.bad_rows(self._problems, self._bad - len(self._problems))
        if self.listed == 0 and not self.full:
            raise ManifestError(f"{self.source.name} has no recipients", path="$.recipients")

    def _cut_to_limit(self, batch: RowBatch) -> None:
        if self.limit is None or self.total + len(batch) <= self.limit:
            return
        rows = sorted([*batch.numbers, *(problem.number for problem in batch.problems)])
        last = rows[self.limit - self.total - 1]
        keep = sum(number <= last for number in batch.numbers)
        del batch.numbers[keep:], batch.offsets[keep:], batch.addresses[keep:], batch.rows[keep:]
        batch.failed[:] = [(index, reason) for index, reason in batch.failed if index < keep]
        batch.problems[:] = [problem for problem in batch.problems if problem.number <= last]

    def _take_bad(self, batch: RowBatch, filler: Filler) -> None:
        if not batch.problems:
            return
        self._bad += len(batch.problems)
        self._problems += batch.problems[: MAX_PROBLEMS - len(self._problems)]
        if self.spec.bad_rows == "skip":
            numbers = [problem.number for problem in batch.problems]
            reasons = [problem.reason for problem in batch.problems]
            self._add_failed(filler, numbers, [0] * len(numbers), [""] * len(numbers), reasons, "bad_row")

    def _take_decided(self, batch: RowBatch, filler: Filler, out: dict[int, str], failed: dict[int, str]) -> None:
        """Rows that need no sending get chunks of their own, so that the others hold nothing else."""
        for reason in sorted(set(out.values())):
            mine = [index for index in sorted(out) if out[index] == reason]
            packed = pack_rows([batch.numbers[i] for i in mine], [batch.offsets[i] for i in mine])
            filler.add_chunk(ELSEWHERE, packed, len(mine), bytes([ledger.SUPPRESSED]) * len(mine), reason)
            self._note("suppressed", [(batch.addresses[i], reason) for i in mine])
        if failed:
            mine = sorted(failed)
            addresses = [batch.addresses[i] for i in mine]
            numbers, offsets = [batch.numbers[i] for i in mine], [batch.offsets[i] for i in mine]
            self._add_failed(filler, numbers, offsets, addresses, [failed[i] for i in mine], "message")

    def _note(self, state: str, people: Iterable[tuple[str, str]]) -> None:
        if self.decided is not None:
            self.decided += [(state, address, why) for address, why in people]

    def _add_failed(
        self,
        filler: Filler,
        numbers: list[int],
        offsets: list[int],
        addresses: list[str],
        reasons: list[str],
        kind: str,
    ) -> None:
        now = time.time()
        chunk = filler.add_chunk(
            ELSEWHERE, pack_rows(numbers, offsets), len(numbers), bytes([ledger.FAILED]) * len(numbers)
        )
        for place, (number, address, reason) in enumerate(zip(numbers, addresses, reasons, strict=True)):
            filler.add_trouble(Trouble(address, number, chunk, place, 0, ledger.FAILED, kind, reply=reason, time=now))
        self._note("failed", zip(addresses, reasons, strict=True))


def _add_chunks(filler: Filler, chunks: Iterable[tuple[str, bytes, int]]) -> None:
    for route, packed, n in chunks:
        filler.add_chunk(route, packed, n)


class CountingFiller:
    """A Filler that keeps nothing: for check and --dry-run."""

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        return 0

    def add_trouble(self, trouble: Trouble) -> None:
        return None

    def set_total(self, n: int) -> None:
        self.total: Any = n

    def set_digest(self, digest: str) -> None:
        return None
