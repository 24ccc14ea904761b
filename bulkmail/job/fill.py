"""The one pass over the recipients before anything is sent: checked, left out or cut into chunks by route."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bulkmail.errors import ManifestError
from bulkmail.job import ledger
from bulkmail.job.ledger import CHUNK_SIZE, Filler, Trouble
from bulkmail.job.recipients import RowBatch, Source
from bulkmail.job.rows import pack_rows
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.suppression import RecipientFilter
from bulkmail.message.compiled import Compiled
from bulkmail.pool.domains import ELSEWHERE, DomainMap

NO_ROUTES = DomainMap(())
MAX_PROBLEMS = 1000  # bad rows kept to be named; more are only counted


class Filling:
    """Cuts a source into a ledger's chunks.

    limit   only the first `limit` recipients of the source, or None
    routes  the domains whose recipients get chunks of their own
    raises  ManifestError  bad rows where they stop the job, or no recipients
    """

    def __init__(
        self, source: Source, spec: RecipientsSpec, compiled: Compiled, limit: int | None, routes: DomainMap = NO_ROUTES
    ) -> None:
        self.source, self.spec, self.compiled, self.limit = source, spec, compiled, limit
        self.total = 0
        self._routes = routes
        self._waiting: dict[str, tuple[list[int], list[int]]] = {}  # by route: numbers, offsets
        self._problems: list[tuple[int, int, str]] = []
        self._bad = 0
        self._filter = RecipientFilter(deduplicate=spec.deduplicate, suppress=spec.suppress)

    def run(self, filler: Filler) -> None:
        """Add every recipient. Called inside the ledger's fill()."""
        for batch in self.source.scan(required=self.compiled.fields, header_fields=self.compiled.header_fields):
            self._cut_to_limit(batch)
            self._take_bad(batch, filler)
            out = dict(self._filter.filter_rows(batch.rows)) if self._filter else {}
            failed = {index: reason for index, reason in batch.failed if index not in out}
            if out or failed:
                self._take_decided(batch, filler, out, failed)
            else:
                self._add_rows(batch, range(len(batch.numbers)))
            self.total += len(batch)
            self._add_chunks(filler, CHUNK_SIZE)
            if self.limit is not None and self.total >= self.limit:
                break
        self._add_chunks(filler, 1)
        if self._problems and self.spec.bad_rows == "stop":
            raise self.source.bad_rows(self._problems, self._bad - len(self._problems))
        if self.total == 0:
            raise ManifestError(f"{self.source.name} has no recipients", path="$.recipients")
        filler.set_total(self.total)

    def _cut_to_limit(self, batch: RowBatch) -> None:
        if self.limit is None or self.total + len(batch) <= self.limit:
            return
        rows = sorted([*batch.numbers, *(problem.number for problem in batch.problems)])
        last = rows[self.limit - self.total - 1]
        keep = sum(number <= last for number in batch.numbers)
        del batch.numbers[keep:], batch.offsets[keep:], batch.rows[keep:]
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
        rest = [index for index in range(len(batch.numbers)) if index not in out and index not in failed]
        self._add_rows(batch, rest)
        for reason in sorted(set(out.values())):
            mine = [index for index in sorted(out) if out[index] == reason]
            packed = pack_rows([batch.numbers[i] for i in mine], [batch.offsets[i] for i in mine])
            filler.add_chunk(ELSEWHERE, packed, len(mine), bytes([ledger.SUPPRESSED]) * len(mine), reason)
        if failed:
            mine = sorted(failed)
            addresses = [str(batch.rows[i]["email"]) for i in mine]
            numbers, offsets = [batch.numbers[i] for i in mine], [batch.offsets[i] for i in mine]
            self._add_failed(filler, numbers, offsets, addresses, [failed[i] for i in mine], "message")

    @staticmethod
    def _add_failed(
        filler: Filler, numbers: list[int], offsets: list[int], addresses: list[str], reasons: list[str], kind: str
    ) -> None:
        now = time.time()
        chunk = filler.add_chunk(
            ELSEWHERE, pack_rows(numbers, offsets), len(numbers), bytes([ledger.FAILED]) * len(numbers)
        )
        for place, (number, address, reason) in enumerate(zip(numbers, addresses, reasons, strict=True)):
            filler.add_trouble(Trouble(address, number, chunk, place, 0, ledger.FAILED, kind, reply=reason, time=now))

    def _add_rows(self, batch: RowBatch, places: Sequence[int]) -> None:
        """These rows of the batch are to be sent to."""
        if not self._routes.patterns:
            numbers, offsets = self._waiting.setdefault(ELSEWHERE, ([], []))
            numbers += batch.numbers if len(places) == len(batch.numbers) else [batch.numbers[i] for i in places]
            offsets += batch.offsets if len(places) == len(batch.offsets) else [batch.offsets[i] for i in places]
            return
        for place in places:
            route = self._routes.route(str(batch.rows[place]["email"]).rpartition("@")[2])
            numbers, offsets = self._waiting.setdefault(route, ([], []))
            numbers.append(batch.numbers[place])
            offsets.append(batch.offsets[place])

    def _add_chunks(self, filler: Filler, at_least: int) -> None:
        for route, (numbers, offsets) in self._waiting.items():
            while len(numbers) >= at_least:
                filler.add_chunk(
                    route, pack_rows(numbers[:CHUNK_SIZE], offsets[:CHUNK_SIZE]), len(numbers[:CHUNK_SIZE])
                )
                del numbers[:CHUNK_SIZE], offsets[:CHUNK_SIZE]


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
