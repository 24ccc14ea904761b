"""One run of a job: journal and source opened, relays' pools made, the scheduler driven to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bulkmail.errors import BulkmailError, JournalError
from bulkmail.job.control import ControlServer
from bulkmail.job.disk import sync_file
from bulkmail.job.engine import Engine, Sending
from bulkmail.job.fill import Decided, Filling
from bulkmail.job.fill_on import FillOn, PartFiller
from bulkmail.job.journal import Journal
from bulkmail.job.journal_file import bring_back, set_aside
from bulkmail.job.journal_schema import PLACE
from bulkmail.job.ledger import JournalFault
from bulkmail.job.manifest import Manifest
from bulkmail.job.outcomes import unsent_event
from bulkmail.job.outlets import Outlets
from bulkmail.job.recipients import Source, open_source
from bulkmail.job.results import OnEvent, Report
from bulkmail.job.routing import patterns_of, routes_of
from bulkmail.job.selection import Selection, selection_of
from bulkmail.job.settle import keep_freed_memory
from bulkmail.job.steering import Steering
from bulkmail.job.tally import Tally
from bulkmail.job.variants import AnyMessage, Variants
from bulkmail.job.writer import Writer
from bulkmail.pool.domains import ELSEWHERE
from bulkmail.smtp.wirelog import make_trace
from bulkmail.urlparts import listed

Order = Callable[[Steering], None]

SIDECARS = ("", "-wal", "-shm", ".lock", ".recipients")  # what stands beside a journal, and goes with it


class Run:
    """Made for one run. open() does all that can fail before anything is sent; send() sends."""

    def __init__(
        self,
        manifest: Manifest,
        compiled: AnyMessage,
        on_event: OnEvent | None,
        reread: Callable[[], Manifest] | None = None,
    ) -> None:
        """reread: loads the manifest again, for reload()."""
        self.manifest, self.compiled = manifest, compiled
        self.on_event = self._tell if on_event is not None or manifest.events is not None else None
        self._outlets = Outlets(manifest.events)
        self._listener = on_event
        self._listener_error: Exception | None = None
        self.tally: Tally | None = None
        self._journal: Journal = None  # type: ignore[assignment]  # set by open()
        self._source: Source = None  # type: ignore[assignment]
        self._selection: Selection = None  # type: ignore[assignment]
        self._sending: Sending | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_wanted = self._abandon_wanted = False
        self._filled = False  # by this run
        self._parts: PartFiller | None = None  # what fills it while it sends
        self._reread = reread
        self._steering: Steering | None = None
        self._orders: deque[Order] = deque()
        self._closing = contextlib.ExitStack()  # what reads the list

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
        self._outlets.open_file()
        try:
            self._open_journal(path, begin, in_doubt, limit, level)
        except BaseException:
            self._outlets.close_file()
            raise

    def _open_journal(self, path: Path, begin: str, in_doubt: str, limit: int | None, level: str) -> None:
        aside = set_aside(path) if begin == "fresh" and path.exists() else None
        try:
            self._open(path, begin == "resume", in_doubt, limit, level)
        except BaseException:
            if aside is not None and not path.exists():
                bring_back(aside, path)
            raise
        self.tally = Tally(self.manifest.job, str(path), self._journal.counts(live=True))

    def _open(self, path: Path, resume: bool, in_doubt: str, limit: int | None, level: str) -> None:
        self._selection = selection_of(self.manifest, self.compiled)
        self._source = open_source(self.manifest.recipients, spool_dir=path.parent, stem=path.name, reuse=resume)
        self._closing.callback(self._source.close)
        try:
            if level == "power":
                self._sync_source()
            if resume:
                self._resume(path, in_doubt, level, limit)
            else:
                self._begin(path, level, limit)
        except BaseException:
            self._closing.close()
            raise

    def _sync_source(self) -> None:
        """The journal names rows of it: a list that was written a moment ago must not be lost to a loss of power."""
        try:
            sync_file(self._source.path)
        except OSError as error:
            raise JournalFault(f"{self._source.name} is not on the disk for good: {error.strerror}") from error

    def _begin(self, path: Path, level: str, limit: int | None) -> None:
        self._journal = Journal.create(
            path,
            job=self.manifest.job,
            manifest_digest=self.manifest.digest,
            pin=self._source.known_pin,
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
        """What a report needs to name Message-IDs, nothing where a ready message brings its own, or none; and what
        `bulkmail bounces` needs to know whom an envelope's sender was made for."""
        meta = {"routes": json.dumps(sorted(patterns_of(self.manifest)))} | self._sender_meta()
        if self._selection.seeds:
            meta["seeds"] = self._selection.seeds.text
        shared = {"message_id_shared": str(int(self.compiled.shared))}
        if isinstance(self.compiled, Variants):
            return meta | shared | {"variants": json.dumps(self.compiled.remembered())}
        if self.manifest.message.raw is not None:
            return meta
        return meta | shared | {"message_id_domain": self.compiled.domain}

    def _sender_meta(self) -> dict[str, str]:
        template = self.manifest.message.envelope_from
        if template is None or "{" not in template:
            return {}
        given = {**self.manifest.defaults, **self.manifest.variables}
        used = {name: value for name, value in given.items() if name in template}
        return {"envelope_from": template, "envelope_values": json.dumps(used, default=str)}

    def _possible_routes(self) -> list[str]:
        """Of recipients who are in the journal or may be added to it."""
        return sorted({*self._journal.routes(), *patterns_of(self.manifest), ELSEWHERE})

    def _check_routes(self) -> None:
        """The journal's chunks are cut by the domains of the run that filled it: others are not told apart in them."""
        known = json.loads(self._journal.meta.get("routes", "[]"))
        new = sorted(patterns_of(self.manifest) - {ELSEWHERE, *known})
        if new:
            raise JournalError(
                f"{self._journal.path}: its recipients are not sorted by the domains {listed(new)}, which 'domains' "
                "of a relay or of $.limits name; take them out to resume, or begin anew with --fresh"
            )

    def _check_seeds(self) -> None:
        """The digest of the manifest does not see what the environment puts into them."""
        if self._journal.meta.get("seeds", "") != self._selection.seeds.text:
            raise JournalError(
                f"{self._journal.path}: the addresses of 'always_include' are not those that the job began with "
                "(an environment variable in them has changed); set it back, or begin anew with --fresh"
            )

    def _fill(self, limit: int | None) -> None:
        filling = self._filling(limit)
        if self.manifest.recipients.validate:
            with self._journal.fill() as filler:
                filling.run(filler)
            self._filled = True
        else:
            self._parts = PartFiller(filling, None, len(patterns_of(self.manifest)))
            self._journal.add_part(self._parts.first())

    def _filling(self, limit: int | None) -> Filling:
        routes = routes_of(self.manifest)
        filling = Filling(self._source, self.manifest.recipients, self.compiled, limit, routes, self._selection)
        self._closing.callback(filling.close)
        filling.decided = [] if self.on_event is not None and not self.manifest.recipients.validate else None
        return filling

    def _fill_on(self) -> None:
        """An earlier run was stopped while it filled the journal: this one goes on."""
        place = self._journal.meta[PLACE]
        self._parts = PartFiller(self._filling(None), place, len(patterns_of(self.manifest)))

    def _resume(self, path: Path, in_doubt: str, level: str, limit: int | None) -> None:
        self._journal = Journal.open(path, manifest_digest=self.manifest.digest, pin=self._source, level=level)
        try:
            self._check_routes()
            self._check_seeds()
            if PLACE in self._journal.meta:
                self._fill_on()
            elif not self._journal.filled:
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
        adding: asyncio.Task[None] | None = None
        control: ControlServer | None = None
        writer = Writer(self._journal, self._loop)
        try:
            self._outlets.start(self.manifest.job, self.manifest.journal)
            sending = self._sending = self._make_sending(writer)
            self._journal.clock = sending.clock
            sending.scheduler.filling = self._parts is not None
            self._event("started")
            self._tell_decided()
            sending.start()
            if self._parts is not None:
                filling = FillOn(self._parts, self._journal, self._tell_all)
                adding = asyncio.create_task(filling.run(writer, sending.scheduler))
            self._steering = self._make_steering()
            self._obey()
            if self._stop_wanted:
                self._do_stop()
            control = ControlServer(self._steering, self.manifest.journal)
            await control.start()
            error = await asyncio.shield(sending.done)  # a cancelled task would cancel it too
            await sending.close(self._abandon_wanted)
            if adding is not None:
                await adding
        except BaseException:
            await self._abandon()
            raise
        finally:
            if adding is not None:
                adding.cancel()
                await asyncio.gather(adding, return_exceptions=True)
            if control is not None:
                await control.close()
            if self._sending is not None:
                await self._sending.end()
            await writer.close()
            report = await self._end(error)
        if self._listener_error is not None:
            raise self._listener_error
        return report

    async def _abandon(self) -> None:
        """Cancelled, or a bug of ours: hang up, and record what is known."""
        self._abandon_wanted = True
        if self._sending is not None:
            self._do_stop()
            with contextlib.suppress(Exception):
                await self._sending.done
            await self._sending.close(True)

    def _make_sending(self, writer: Writer) -> Sending:
        assert self.tally is not None
        routes = self._journal.routes() if self._parts is None else self._possible_routes()
        ramp = self._journal.ramp_so_far() if self.manifest.limits.ramp is not None else None
        if self.manifest.workers != 1:
            from bulkmail.job.workers import crew

            counts = self.tally.counts
            waiting = counts.pending + counts.deferred if self._parts is None else None
            count = crew.how_many(self.manifest, self.compiled, waiting)
            if count > 1:
                setup = crew.setup_of(self.manifest, count, self._source, self._selection.seeds.text, routes, ramp)
                return crew.Crew(setup, writer, self._journal, self.tally, self.on_event)
        rows = self._selection.seeds.reader(self._source)
        return Engine(
            self.manifest,
            self.compiled,
            rows,
            writer,
            self.tally,
            self._journal,
            self.on_event,
            routes=routes,
            ramp=ramp,
        )

    def _make_steering(self) -> Steering:
        assert self._sending is not None and self.tally is not None
        return Steering(
            self.manifest,
            self._sending,
            self.tally,
            self._do_stop,
            self._reread,
            self.on_event,
            self._outlets.figures,
        )

    async def _end(self, error: BulkmailError | None) -> Report:
        """Record how it ended. A journal that cannot say so any more is itself the error."""
        assert self.tally is not None
        if isinstance(error, JournalError) or (self._sending is not None and self._sending.lost):
            with contextlib.suppress(JournalError):  # what it holds is where the next run goes on
                self.tally.counts = self._journal.counts(live=False)
        counts = self.tally.counts
        finished = error is None and self._journal.filled and not (counts.pending or counts.deferred)
        self.tally.end("finished" if finished else "stopped")
        try:
            self._journal.finish(self.tally.state, str(error) if error else None, self.tally.progress())
        except JournalError as failure:
            error = error or failure
            self.tally.state = "stopped"
        finally:
            self._event(self.tally.state, **({"why": str(error)} if error else {}))
            try:
                await self._outlets.close()  # before the lock is let go: the next run goes on with what is left
            finally:
                self._close_quietly()
        exit_code = 3 if self.tally.state == "stopped" else 1 if counts.failed or counts.in_doubt else 0
        return Report(self.tally.summary() | self._outlets.figures(), exit_code, error)

    def _close_quietly(self) -> None:
        self._closing.close()
        with contextlib.suppress(JournalError):  # it is committed, or its failure is the error already
            self._journal.close()

    # -- events

    def _tell(self, event: dict[str, Any]) -> None:
        """A listener that fails stops the run in good order; its exception is raised at the end."""
        self._outlets.put(event)
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception as error:
            self._listener, self._listener_error = None, error
            self.stop()

    def _event(self, name: str, **more: str) -> None:
        if self.on_event and self.tally is not None:
            self.on_event({"ts": time.time(), "event": name, **self.tally.summary(), **more})

    def _tell_decided(self) -> None:
        """Those who were decided while the list was read: left out, or impossible to send to."""
        if self._parts is not None:
            self._tell_all(self._parts.take_decided())
        if self.on_event is None or not self._filled:
            return
        from bulkmail.job.report import iter_report

        for state in ("suppressed", "failed"):
            for row in iter_report(self.manifest.journal, state):
                why = row["reply"] or row["class"] or ""
                self.on_event(unsent_event(state, time.time(), row["recipient"], 0, why))

    def _tell_all(self, decided: list[Decided]) -> None:
        if self.on_event is None:
            return
        for state, address, why in decided:
            self.on_event(unsent_event(state, time.time(), address, 0, why))

    # -- orders

    def order(self, order: Order) -> None:
        """Have this done on the loop, once there is something to steer. Safe from signal handlers and other threads."""
        self._orders.append(order)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        while self._steering is not None and self._orders:
            self._orders.popleft()(self._steering)

    # -- stopping

    def stop(self, abandon: bool = False) -> None:
        """Safe from signal handlers and other threads."""
        self._stop_wanted = True
        self._abandon_wanted = self._abandon_wanted or abandon
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._do_stop)

    def _do_stop(self) -> None:
        if self._sending is not None:
            self._sending.halt(self._abandon_wanted)
