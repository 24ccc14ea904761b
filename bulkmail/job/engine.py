"""What sends, on one event loop: the relays with their pools, and the scheduler that gives them their work.

A run has one, or several in processes of their own (`bulkmail.job.workers`), each with its part of the limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from bulkmail.errors import BulkmailError, ConnectionLost
from bulkmail.job.calendar import Calendar
from bulkmail.job.compose import Composer
from bulkmail.job.hindrance import Hindrance
from bulkmail.job.manifest import Manifest
from bulkmail.job.pacing import shares_of
from bulkmail.job.ramp import Ramp
from bulkmail.job.regulator import Regulator
from bulkmail.job.relay import Names, Relay
from bulkmail.job.results import OnEvent
from bulkmail.job.retry import Retries
from bulkmail.job.scheduler import Scheduler
from bulkmail.job.seeds import Rows
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.job.timing import Plan
from bulkmail.job.variants import AnyMessage
from bulkmail.job.writer import Asked
from bulkmail.pool.limits import Limit

if TYPE_CHECKING:
    from bulkmail.job.notifications import Notifications
    from bulkmail.message.dkim_sign import Signer
    from bulkmail.message.signing import SigningPool


class Sending(Protocol):
    """What a run's recipients are sent by: an Engine, or a crew of them.

    done        see Scheduler; stopping: nothing new is begun; clock: Unix seconds, which do not jump
    regulator   its limits by name; limited_by: what keeps it from being faster (see Hindrance)
    lost        a part of it was, with what it knew: only the journal's counts are right
    """

    @property
    def done(self) -> asyncio.Future[BulkmailError | None]: ...

    @property
    def lost(self) -> bool: ...

    @property
    def scheduler(self) -> Any:
        """Who is told of recipients that are added, and what is to be done: a Scheduler, or what stands for several."""

    @property
    def clock(self) -> Callable[[], float]: ...

    @property
    def regulator(self) -> Any: ...

    @property
    def limited_by(self) -> Callable[[], dict[str, Any] | None]: ...

    def start(self) -> None: ...

    def halt(self, abandon: bool) -> None:
        """Begin nothing more; abandon: what is under way is given up too."""

    async def close(self, abandon: bool) -> None:
        """The connections, once `done` is set."""

    async def end(self) -> None:
        """Whatever happened: leave nothing behind."""


class Engine:
    """manifest  what it says of relays, limits and retries; rows: of the recipients; names: of the ledger's numbers

    routes     those of recipients who are in the ledger, or may come
    ramp       (seconds of the ramp that earlier runs had behind them, when that was), or None
    signer     signs in this process what is each recipient's own; None: processes beside it do
    scheduler  its class
    """

    lost = False

    def __init__(
        self,
        manifest: Manifest,
        compiled: AnyMessage,
        rows: Rows,
        writer: Asked,
        tally: Tally,
        names: Names,
        on_event: OnEvent | None,
        *,
        routes: Iterable[str],
        ramp: tuple[float, float] | None = None,
        rules: StopRules | None = None,
        signer: Signer | None = None,
        scheduler: Callable[..., Scheduler] = Scheduler,
    ) -> None:
        self._manifest, self._compiled = manifest, compiled
        self._signers = self._make_signers() if signer is None else None
        self.relays = self._make_relays(tally, names)
        limits = manifest.limits
        limit = Limit(limits.rate.per_second if limits.rate else None, limits.burst if limits.rate else None)
        batch = self._batch(limit)
        self.scheduler = scheduler(
            composer=Composer(compiled, rows, batch, self._signers, self._notifications(), signer=signer),
            relays=self.relays,
            routes=routes,
            writer=writer,
            tally=tally,
            limit=limit,
            connections=limits.connections,
            domains=limits.domains,
            retries=Retries(manifest.retry, several=len(self.relays) > 1),
            stop_rules=rules or StopRules(manifest.stop_if),
            on_event=on_event,
            plan=_plan(manifest, ramp),
        )
        for relay in self.relays:
            relay.open_pool(self.scheduler, names)
        self.regulator = Regulator(manifest, self.scheduler.pacing)
        lanes = [lane for relay in self.relays for lane in relay.pool.lanes]
        self.limited_by = Hindrance(self.scheduler.pacing, self.scheduler.stocks, lanes).now
        self.done = self.scheduler.done
        self.start = self.scheduler.start

    @property
    def clock(self) -> Callable[[], float]:
        """One clock for all of a run: the system's may have jumped since the journal was opened."""
        loop, offset = asyncio.get_running_loop(), self.scheduler.clock_offset
        return lambda: loop.time() + offset

    def halt(self, abandon: bool) -> None:
        self.scheduler.stop(None)
        if abandon:
            for relay in self.relays:
                for session in list(relay.pool.sessions):
                    session.abort(ConnectionLost("the run was abandoned"))

    async def close(self, abandon: bool) -> None:
        await asyncio.gather(*(relay.pool.close(abort=abandon) for relay in self.relays))

    async def end(self) -> None:
        if self._signers is not None:
            await self._signers.close()

    # -- made of the manifest

    def _make_relays(self, tally: Tally, names: Names) -> list[Relay]:
        limits, retry, relays = self._manifest.limits, self._manifest.retry, []
        share = shares_of(limits.connections, [spec.connections for spec in self._manifest.relays])
        for spec, connections in zip(self._manifest.relays, share, strict=True):
            rate = spec.endpoint.options.rate
            relay = Relay(spec, connections, Limit(rate.per_second if rate else None), retry.patience)
            relay.id = names.name_id(spec.name)
            tally.relays[spec.name] = relay.tally
            relays.append(relay)
        return relays

    def _batch(self, limit: Limit) -> int:
        """A transaction is granted whole, so it is no larger than what may leave at once."""
        egresses = [way for relay in self.relays for way in relay.spec.egresses]
        paces = [Limit(way.rate.per_second) for way in egresses if way.rate]
        limits = [limit, *(relay.limit for relay in self.relays), *paces]
        batches = [relay.spec.endpoint.options.batch for relay in self.relays]
        return min([*batches, *(one.burst for one in limits if one.rate)])

    def _make_signers(self) -> SigningPool | None:
        """Processes that sign what is each recipient's own; a shared message is signed once."""
        if self._compiled.signer is None or self._compiled.shared:
            return None
        from bulkmail.message.signing import SigningPool  # only what is signed pays for it

        return SigningPool(self._compiled.signer)

    def _notifications(self) -> Notifications | None:
        if self._manifest.dsn is None:
            return None
        from bulkmail.job.notifications import Notifications

        own = self._manifest.message.raw is not None
        return Notifications(self._manifest.dsn, None if own else self._compiled.message_id)


def _plan(manifest: Manifest, ramp_so_far: tuple[float, float] | None) -> Plan:
    limits, ramp = manifest.limits, None
    if limits.ramp is not None:
        elapsed, seen_at = ramp_so_far or (0.0, 0.0)
        ramp = Ramp(limits.ramp, elapsed)
        ramp.paused(time.time() - seen_at)
    return Plan(Calendar(limits.windows, manifest.start_at), ramp, limits.adaptive)
