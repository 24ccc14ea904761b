"""Runs that leave no journal: --dry-run (everything but the network) and --test-to (the first messages to oneself)."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

from bulkmail.address import address_bytes, check_address
from bulkmail.errors import BulkmailError, ConfigError, ManifestError, MessageError
from bulkmail.job.check import opened_source
from bulkmail.job.fill import CountingFiller, Filling
from bulkmail.job.ledger import Counts
from bulkmail.job.manifest import Manifest
from bulkmail.job.results import Report
from bulkmail.job.specs import RelaySpec
from bulkmail.job.tally import Tally
from bulkmail.message.compiled import Compiled
from bulkmail.smtp.open import close_politely, open_session
from bulkmail.smtp.outcome import refusal
from bulkmail.smtp.session import Turn
from bulkmail.wire.client import Transaction


def dry_run(manifest: Manifest, compiled: Compiled, limit: int | None) -> Report:
    """Scan, leave out, compose; nobody is sent to. They are pending then, or failed if they cannot be composed."""
    counts = Counts()
    tally = Tally(manifest.job, "", counts)
    with opened_source(manifest) as source:
        Filling(source, manifest.recipients, compiled, limit).run(_Counting(counts))
        failed = _compose_all(compiled, source, counts.pending)
    counts.pending -= failed
    counts.failed += failed
    tally.end("finished")
    return Report(tally.summary(), 1 if counts.failed else 0)


class _Counting(CountingFiller):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        states = outcome or b"." * n
        self._counts.pending += states.count(b".")
        self._counts.suppressed += states.count(b"S")
        self._counts.failed += states.count(b"F")
        return 0


def _compose_all(compiled: Compiled, source: Any, most: int) -> int:
    """How many of the first `most` good rows cannot be composed."""
    if compiled.shared:
        compiled.compose_shared(formatdate().encode())
        return 0
    failed = seen = 0
    for batch in source.scan(header_fields=compiled.header_fields, required=compiled.fields):
        bad = {index for index, _ in batch.failed}
        good = [index for index in range(len(batch.rows)) if index not in bad][: most - seen]
        rows, numbers = [batch.rows[i] for i in good], [batch.numbers[i] for i in good]
        failed += sum(
            isinstance(item, MessageError) for item in compiled.compose(rows, numbers, formatdate().encode())
        )
        seen += len(good)
        if seen >= most:
            break
    return failed


async def send_test(manifest: Manifest, compiled: Compiled, address: str, count: int) -> Report:
    """Render the first `count` recipients' messages and deliver them to `address` by the first relay that works."""
    try:
        rcpt = address_bytes(check_address(address))
    except ValueError as why_not:
        raise ConfigError(f"--test-to {address!r} is not an address: {why_not}") from None
    transactions = [Transaction(sender, [rcpt], body) for sender, body in _first_messages(manifest, compiled, count)]
    tally = Tally(manifest.job, "", Counts(pending=len(transactions)))
    error: BulkmailError | None = None
    for relay in manifest.relays:
        try:
            await _deliver(relay, transactions)
            error = None
            break
        except BulkmailError as failure:
            error = failure
    for tx in transactions:
        why = refusal(tx) if tx.state else error
        refused = bool(tx.rejected) or why is not None
        if tx.state:
            tally.move("pending", "failed" if refused else "delivered")
            tally.sent += not refused
        error = error or why or (BulkmailError(f"the test was refused: {tx.rejected[0]}") if tx.rejected else None)
    stopped = bool(tally.counts.pending)
    tally.end("stopped" if stopped else "finished")
    return Report(tally.summary(), 3 if stopped else 1 if tally.counts.failed else 0, error)


def _first_messages(manifest: Manifest, compiled: Compiled, count: int) -> list[tuple[bytes, bytes]]:
    date = formatdate(time.time(), localtime=True).encode()
    with opened_source(manifest) as source:
        for batch in source.scan(max(count, 1), required=compiled.fields, header_fields=compiled.header_fields):
            if batch.problems and manifest.recipients.bad_rows == "stop":
                raise source.bad_rows(batch.problems)
            if compiled.shared:
                return [compiled.compose_shared(date)] * min(count, len(batch.rows))
            composed = compiled.compose(batch.rows[:count], batch.numbers[:count], date)
            messages = []
            for item in composed:
                if isinstance(item, MessageError):
                    raise item
                messages.append((item[0], item[2]))
            if messages:
                return messages
    raise ManifestError("there are no recipients to take the test's values from", path="$.recipients")


async def _deliver(relay: RelaySpec, transactions: list[Transaction]) -> None:
    """All of them over one connection; returns when each has its end. Raises what prevents a connection."""
    ended = asyncio.Event()
    turn = Turn(asyncio.get_running_loop(), ended.set, 0)
    session = await open_session(relay.endpoint, turn)
    session.push(transactions)
    while not all(tx.state for tx in transactions):
        await ended.wait()
        ended.clear()
    await close_politely(session)
