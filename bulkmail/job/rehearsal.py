"""Runs that leave no journal: --dry-run (everything but the network) and --test-to (the first messages to oneself)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bulkmail.address import address_bytes, check_address
from bulkmail.errors import BulkmailError, ConfigError, EnvelopeRefused, ManifestError, MessageError
from bulkmail.job.check import opened_source
from bulkmail.job.fill import CountingFiller, Filling
from bulkmail.job.ledger import Counts, unpack
from bulkmail.job.manifest import Manifest
from bulkmail.job.results import Report
from bulkmail.job.seeds import Rows
from bulkmail.job.selection import selection_of
from bulkmail.job.settle import flags_of
from bulkmail.job.specs import RelaySpec
from bulkmail.job.tally import Tally
from bulkmail.job.variants import AnyMessage, each_of
from bulkmail.smtp.classify import refused
from bulkmail.smtp.open import close_politely, open_session
from bulkmail.smtp.outcome import refusal
from bulkmail.smtp.session import Turn
from bulkmail.values import mail_date
from bulkmail.wire.transaction import IN_DOUBT, NOT_TAKEN, WAITING, Transaction

if TYPE_CHECKING:
    from bulkmail.wire.transaction import Body


def dry_run(manifest: Manifest, compiled: AnyMessage, limit: int | None) -> Report:
    """Scan, leave out, compose; nobody is sent to. They are pending then, or failed if they cannot be composed."""
    counts = Counts()
    tally = Tally(manifest.job, "", counts)
    with opened_source(manifest) as source:
        selection = selection_of(manifest, compiled)
        composing = _Composing(counts, compiled, selection.seeds.reader(source))
        Filling(source, manifest.recipients, compiled, limit, selection=selection).run(composing)
    tally.end("finished")
    return Report(tally.summary(), 1 if counts.failed else 0)


class _Composing(CountingFiller):
    """Composes, as it is filled, all that would be sent."""

    def __init__(self, counts: Counts, compiled: AnyMessage, source: Rows) -> None:
        self._counts, self._compiled, self._source = counts, compiled, source
        self._date = mail_date(time.time()).encode()
        if compiled.shared:
            for one in each_of(compiled):
                one.compose_shared(self._date)

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        if outcome is None:
            failed = 0 if self._compiled.shared else self._impossible(*unpack(packed))
            self._counts.pending += n - failed
            self._counts.failed += failed
        else:
            self._counts.suppressed += outcome.count(b"S")
            self._counts.failed += outcome.count(b"F")
        return 0

    def _impossible(self, numbers: list[int], offsets: list[int]) -> int:
        """How many of these rows cannot be composed."""
        composed = self._compiled.compose(self._source.read(offsets), numbers, self._date)
        return sum(isinstance(item, MessageError) for item in composed)


async def send_test(manifest: Manifest, compiled: AnyMessage, address: str, count: int) -> Report:
    """Render the first `count` recipients' messages and deliver them to `address` by the first relay that works."""
    try:
        rcpt = address_bytes(check_address(address))
    except ValueError as why_not:
        raise ConfigError(f"--test-to {address!r} is not an address: {why_not}") from None
    transactions = [
        Transaction(sender, [rcpt], body, flags_of(sender, [rcpt], body))
        for sender, body in _first_messages(manifest, compiled, count)
    ]
    tally = Tally(manifest.job, "", Counts(pending=len(transactions)))
    error = await _deliver_by_any(manifest.relays, transactions)
    for tx in transactions:
        state, why = _ending(tx)
        error = error or why
        tally.move("pending", state)
        tally.counts.attempts += state != "pending"
        if state == "delivered":
            tally.sent += 1
            tally.counts.bytes += tx.body_size
    counts = tally.counts
    tally.end("stopped" if counts.pending else "finished")
    return Report(tally.summary(), 3 if counts.pending else 1 if counts.failed or counts.in_doubt else 0, error)


async def _deliver_by_any(relays: Sequence[RelaySpec], transactions: list[Transaction]) -> BulkmailError | None:
    """By the first relay; what it does not take, by the next. Why there was none for the rest, or None."""
    left, error = transactions, None
    for relay in relays:
        try:
            await _deliver(relay, [tx.again() if tx.state == NOT_TAKEN else tx for tx in left])
        except BulkmailError as failure:
            error = failure
        left = [tx for tx in left if tx.state in (WAITING, NOT_TAKEN)]
        if not left:
            return None
    return error


def _ending(tx: Transaction) -> tuple[str, BulkmailError | None]:
    """(the recipient's state, why it is not delivered)"""
    if tx.state == WAITING:
        return "pending", None
    why = refusal(tx)
    if tx.rejected:
        why = refused(EnvelopeRefused, f"the test was refused: {tx.rejected[0]}", tx.rejected[0], "RCPT")
    if why is None:
        return "delivered", None
    return {NOT_TAKEN: "pending", IN_DOUBT: "in_doubt"}.get(tx.state, "failed"), why


def _first_messages(manifest: Manifest, compiled: AnyMessage, count: int) -> list[tuple[bytes, Body]]:
    date = mail_date(time.time()).encode()
    selection = selection_of(manifest, compiled)
    messages: list[tuple[bytes, Body]] = []
    with opened_source(manifest) as source:
        for batch in selection.scan(source, max(count, 1), seeds=False, rows=True):
            out = selection.decide(batch)
            if batch.problems and manifest.recipients.bad_rows == "stop":
                raise source.bad_rows(batch.problems)
            meant = [i for i in range(len(batch.rows)) if i not in out][: count - len(messages)]
            messages += [compiled.signed_copy(batch.rows[i], batch.numbers[i], date) for i in meant]
            if len(messages) == count:
                break
    if not messages:
        raise ManifestError("there are no recipients to take the test's values from", path="$.recipients")
    return messages


async def _deliver(relay: RelaySpec, transactions: list[Transaction]) -> None:
    """All of them over one connection; returns when each has its end. Raises what prevents a connection."""
    ended = asyncio.Event()
    turn = Turn(asyncio.get_running_loop(), ended.set, 0)
    session = await open_session(relay.way, turn)
    session.push(transactions)
    while not all(tx.state for tx in transactions):
        await ended.wait()
        ended.clear()
    await close_politely(session)
