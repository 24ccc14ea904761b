"""One run of a job: journal and source opened, relays' pools made, the scheduler driven to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkmail.errors import BulkmailError, ConnectionLost, JournalError
from bulkmail.job.compose import Composer
from bulkmail.job.fill import Filling
from bulkmail.job.journal import Journal
from bulkmail.job.journal_file import bring_back, set_aside
from bulkmail.job.ledger import JournalFault
from bulkmail.job.manifest import Manifest
from bulkmail.job.outcomes import unsent_event
from bulkmail.job.recipients import Source, open_source
from bulkmail.job.relay import Relay
from bulkmail.job.report import iter_report
from bulkmail.job.results import OnEvent, Report
from bulkmail.job.scheduler import Scheduler
from bulkmail.job.settle import keep_freed_memory
from bulkmail.job.tally import Tally
from bulkmail.job.writer import Writer
from bulkmail.message.compiled import Compiled
from bulkmail.pool.domains import ELSEWHERE, DomainMap
from bulkmail.pool.limits import Limit
from bulkmail.smtp.wirelog import make_trace
from bulkmail.urlparts import listed

if TYPE_CHECKING:
    from bulkmail.message.signing import SigningPool

SIDECARS = ("", "-wal", "-shm", ".lock", ".recipients")  # what stands beside a journal, and goes with it


class Run:
    """Made for one run. open() does all that can fail before anything is sent; send() sends."""

    def __init__(self, manifest: Manifest, compiled: Compiled, on_event: OnEvent | None) -> None:
        self.manifest, self.compiled = manifest, compiled
        self.on_event = self._tell if on_event is not None else None
        self._listener = on_event
        self._listener_error: Exception | None = None
        self.tally: Tally | None = None
        self._journal: Journal = None  # type: ignore[assignment]  # set by open()
        self._source: Source = None  # type: ignore[assignment]
        self._scheduler: Scheduler | None = None
        self._relays: list[Relay] = []
        self._signers: SigningPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_wanted = self._abandon_wanted = False
        self._filled = False  # by this run

    # -- before anything is sent

    def open(self, begin: str, in_doubt: str, limit: int | None, level: str) -> None:
        """begin: "new", "fresh" or "resume". Raises ConfigError or JournalError; nothing is left open then."""
        path = self.manifest.journal
        for relay in self.manifest.relays:
            make_trace(
                relay.endpoint.options.wire_log
            )  # a log that cannot be written is bad usage, not a relay's fault
        if not path.parent.is_dir():
            raise JournalError(f"{path}: the journal's folder {path.parent} does not exist; make it first")
        if begin == "new" and path.exists():
            raise JournalError(
                f"{path}: there is a journal already; --resume goes on with it, "
                "--fresh keeps it under a dated name and starts anew"
            )
        if begin == "resume" and not path.exists():
            raise JournalError(f"{path}: there is no journal to resume; leave --resume out, or use --auto")
        aside = set_aside(path) if begin == "fresh" and path.exists() else None
        try:
            self._open(path, begin == "resume", in_doubt, limit, level)
        except BaseException:
            if aside is not None and not path.exists():
                bring_back(aside, path)
            raise
        self.tally = Tally(self.manifest.job, str(path), self._journal.counts(live=True))

    def _open(self, path: Path, resume: bool, in_doubt: str, limit: int | None, level: str) -> None:
        self._source = open_source(self.manifest.recipients, spool_dir=path.parent, stem=path.name, reuse=resume)
        try:
            if resume:
                self._resume(path, in_doubt, level, limit)
            else:
                self._begin(path, level, limit)
        except BaseException:
            self._source.close()
            raise

    def _begin(self, path: Path, level: str, limit: int | None) -> None:
        self._journal = Journal.create(
            path,
            job=self.manifest.job,
            manifest_digest=self.manifest.digest,
            pin=self._source.pin,
            level=level,
            meta=self._meta(),
        )
        try:
            self._fill(limit)
        except JournalFault:
            self._journal.close()
            raise  # the disk is full: --resume begins with filling anew
        except BaseException:
            self._journal.close()
            for suffix in SIDECARS:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            raise

    def _meta(self) -> dict[str, str]:
        """What a report needs to name Message-IDs; nothing where a ready message brings its own, or none."""
        meta = {"routes": json.dumps(sorted(self._routes().patterns))}
        if self.manifest.message.raw is not None:
            return meta
        return meta | {"message_id_domain": self.compiled.domain, "message_id_shared": str(int(self.compiled.shared))}

    def _routes(self) -> DomainMap:
        """The domains whose recipients have chunks of their own."""
        return DomainMap(pattern for relay in self.manifest.relays if relay.pins for pattern in relay.pins.rules)

    def _check_routes(self) -> None:
        """The journal's chunks are cut by the domains of the run that filled it: others are not told apart in them."""
        known = json.loads(self._journal.meta.get("routes", "[]"))
        new = sorted(self._routes().patterns - {ELSEWHERE, *known})
        if new:
            raise JournalError(
                f"{self._journal.path}: its recipients are not sorted by the domains {listed(new)}, which a relay's "
                "'domains' names; take them out to resume, or begin anew with --fresh"
            )

    def _fill(self, limit: int | None) -> None:
        with self._journal.fill() as filler:
            Filling(self._source, self.manifest.recipients, self.compiled, limit, self._routes()).run(filler)
        self._filled = True

    def _resume(self, path: Path, in_doubt: str, level: str, limit: int | None) -> None:
        self._journal = Journal.open(path, manifest_digest=self.manifest.digest, pin=self._source.pin, level=level)
        try:
            self._check_routes()
            if not self._journal.filled:
                self._fill(limit)  # killed before the recipients were in: nothing was sent
            self._journal.recover(in_doubt, now=time.time(), delays=self.manifest.retry.delays)
        except BaseException:
            self._journal.close()
            raise

    # -- sending

    async def send(self) -> Report:
        assert self.tally is not None
        self._loop = asyncio.get_running_loop()
        keep_freed_memory()
        error: BulkmailError | None = None
        writer = Writer(self._journal, self._loop)
        try:
            self._make_relays()
            self._signers = self._make_signers()
            self._scheduler = self._make_scheduler(writer)
            self._event("started")
            self._tell_decided()
            self._scheduler.start()
            if self._stop_wanted:
                self._do_stop()
            error = await asyncio.shield(self._scheduler.done)  # a cancelled task would cancel it too
            await self._close_pools()
        except BaseException:
            await self._abandon()
            raise
        finally:
            if self._signers is not None:
                await self._signers.close()
            await writer.close()
            report = self._end(error)
        if self._listener_error is not None:
            raise self._listener_error
        return report

    async def _abandon(self) -> None:
        """Cancelled, or a bug of ours: hang up, and record what is known."""
        self._abandon_wanted = True
        if self._scheduler is not None:
            self._do_stop()
            with contextlib.suppress(Exception):
                await self._scheduler.done
            await self._close_pools()

    def _make_relays(self) -> None:
        limits, retry = self.manifest.limits, self.manifest.retry
        share = shares_of(limits.connections, [spec.connections for spec in self.manifest.relays])
        assert self.tally is not None
        for spec, connections in zip(self.manifest.relays, share, strict=True):
            rate = spec.endpoint.options.rate
            relay = Relay(spec, connections, Limit(rate.per_second if rate else None), retry.patience)
            relay.id = self._journal.name_id(spec.name)
            self.tally.relays[spec.name] = relay.tally
            self._relays.append(relay)

    def _make_signers(self) -> SigningPool | None:
        """Processes that sign what is each recipient's own; a shared message is signed once."""
        if self.compiled.signer is None or self.compiled.shared:
            return None
        from bulkmail.message.signing import SigningPool  # only what is signed pays for it

        return SigningPool(self.compiled.signer)

    def _make_scheduler(self, writer: Writer) -> Scheduler:
        manifest = self.manifest
        limit = Limit(manifest.limits.rate.per_second if manifest.limits.rate else None)
        batch = min(spec.endpoint.options.batch for spec in manifest.relays)
        # a transaction is granted whole, so it is no larger than what may leave at once
        egresses = [way for relay in self._relays for way in relay.spec.egresses]
        paces = [Limit(way.rate.per_second) for way in egresses if way.rate]
        batch = min(
            [batch, *(one.burst for one in (limit, *(relay.limit for relay in self._relays), *paces) if one.rate)]
        )
        assert self.tally is not None
        scheduler = Scheduler(
            composer=Composer(self.compiled, self._source, batch, self._signers),
            relays=self._relays,
            routes=self._journal.routes(),
            writer=writer,
            tally=self.tally,
            limit=limit,
            delays=manifest.retry.delays,
            give_up_after=manifest.retry.give_up_after,
            on_event=self.on_event,
        )
        for relay in self._relays:
            relay.open_pool(scheduler, self._journal, job_paced=limit.rate is not None)
        return scheduler

    async def _close_pools(self) -> None:
        await asyncio.gather(*(relay.pool.close(abort=self._abandon_wanted) for relay in self._relays))

    def _end(self, error: BulkmailError | None) -> Report:
        """Record how it ended. A journal that cannot say so any more is itself the error."""
        assert self.tally is not None
        if isinstance(error, JournalError):
            with contextlib.suppress(JournalError):  # what it holds is where the next run goes on
                self.tally.counts = self._journal.counts(live=False)
        counts = self.tally.counts
        finished = error is None and not (counts.pending or counts.deferred)
        self.tally.end("finished" if finished else "stopped")
        try:
            self._journal.finish(self.tally.state, str(error) if error else None, self.tally.progress())
        except JournalError as failure:
            error = error or failure
            self.tally.state = "stopped"
        finally:
            self._close_quietly()
        exit_code = 3 if self.tally.state == "stopped" else 1 if counts.failed or counts.in_doubt else 0
        self._event(self.tally.state)
        return Report(self.tally.summary(), exit_code, error)

    def _close_quietly(self) -> None:
        self._source.close()
        with contextlib.suppress(JournalError):  # it is committed, or its failure is the error already
            self._journal.close()

    # -- events

    def _tell(self, event: dict[str, Any]) -> None:
        """A listener that fails stops the run in good order; its exception is raised at the end."""
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception as error:
            self._listener, self._listener_error = None, error
            self.stop()

    def _event(self, name: str) -> None:
        if self.on_event and self.tally is not None:
            self.on_event({"ts": time.time(), "event": name, **self.tally.summary()})

    def _tell_decided(self) -> None:
        """Those who were decided while the list was read: left out, or impossible to send to."""
        if self.on_event is None or not self._filled:
            return
        for state in ("suppressed", "failed"):
            for row in iter_report(self.manifest.journal, state):
                why = row["reply"] or row["class"] or ""
                self.on_event(unsent_event(state, time.time(), row["recipient"], 0, why))

    # -- stopping

    def stop(self, abandon: bool = False) -> None:
        """Safe from signal handlers and other threads."""
        self._stop_wanted = True
        self._abandon_wanted = self._abandon_wanted or abandon
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._do_stop)

    def _do_stop(self) -> None:
        if self._scheduler is None:
            return
        self._scheduler.stop(None)
        if self._abandon_wanted:
            for relay in self._relays:
                for session in list(relay.pool.sessions):
                    session.abort(ConnectionLost("the run was abandoned"))


def shares_of(total: int | None, wanted: list[int]) -> list[int]:
    """The job's connections dealt out to its relays: what each wants, scaled down to `total`, at least one each."""
    if total is None or sum(wanted) <= total:
        return wanted
    given = [max(1, total * most // sum(wanted)) for most in wanted]
    for place in sorted(range(len(given)), key=lambda i: given[i] - total * wanted[i] / sum(wanted)):
        if sum(given) >= total:
            break
        given[place] += 1
    return given
