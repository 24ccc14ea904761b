"""A run's workers: one journal, one list and one set of figures here, and the sending in processes of their own.

It stands where a run with one process has its Engine, and for whoever fills, steers and ends the run where that has its
Scheduler. The journal's writer merges what all workers have to commit into one commit; chunks are leased to whoever
asks. A worker without work says so; when none has any and nothing can come, the job is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bulkmail.errors import BulkmailError
from bulkmail.job.changes import Change
from bulkmail.job.ending import Ending
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import Advance
from bulkmail.job.manifest import Manifest
from bulkmail.job.recipients import Source
from bulkmail.job.results import OnEvent
from bulkmail.job.stop_rules import StopRules
from bulkmail.job.tally import Tally
from bulkmail.job.variants import AnyMessage
from bulkmail.job.workers import share
from bulkmail.job.workers.figures import CrewFigures
from bulkmail.job.workers.frames import Frame
from bulkmail.job.workers.member import Member
from bulkmail.job.workers.regulator import CrewRegulator
from bulkmail.job.workers.salvage import salvage
from bulkmail.job.workers.worker import Setup, sendable
from bulkmail.job.writer import Lease, Writer

LOGGER = logging.getLogger("bulkmail.job")


def how_many(manifest: Manifest, compiled: AnyMessage, recipients: int | None) -> int:
    """Workers of a run; if it cannot use as many as it was given, the log says so. See share.how_many."""
    found = share.how_many(manifest, compiled, recipients)
    if found.why:
        LOGGER.info("%d of %s workers: %s", found.most, manifest.workers, found.why)
    return found.most


def setup_of(
    manifest: Manifest,
    workers: int,
    source: Source,
    seeds: str,
    routes: list[str],
    ramp: tuple[float, float] | None,
) -> Setup:
    """What the workers of a job begin with."""
    return Setup(
        manifest=manifest,
        index=0,
        workers=workers,
        parent=os.getpid(),
        recipients=(source.path, source.format, source.name, source.size, source.mtime_ns),
        seeds=seeds,
        routes=routes,
        names={},
        ramp=ramp,
        events=False,
        level=logging.getLogger("bulkmail").getEffectiveLevel(),
    )


def _names_of(manifest: Manifest, journal: Journal) -> dict[str | None, int]:
    egresses = [way.name for relay in manifest.relays for way in relay.egresses]
    return {name: journal.name_id(name) for name in (None, *(relay.name for relay in manifest.relays), *egresses)}


class WorkersLost(BulkmailError):
    """No worker is left. What they were sending is in doubt; the rest waits for --resume."""

    code = "EWORKERS"


class Crew(Ending):
    """setup: that of each worker but for its share and index, manifest: the whole job's.

    done, stopping, filling, tally   as of a Scheduler
    """

    def __init__(self, setup: Setup, writer: Writer, journal: Journal, tally: Tally, on_event: OnEvent | None) -> None:
        self._loop = asyncio.get_running_loop()
        names = _names_of(setup.manifest, journal)
        self._setup = replace(setup, names=names, events=on_event is not None)
        self._writer, self._journal, self._on_event = writer, journal, on_event
        self._figures = CrewFigures(tally, setup.workers)
        self.tally = tally
        self.done: asyncio.Future[BulkmailError | None] = self._loop.create_future()
        self.scheduler = self
        self.regulator = CrewRegulator(setup.manifest, setup.workers, self._change)
        self.stopping = self.filling = self.paused = False
        self._rules = StopRules(setup.manifest.stop_if)
        self._begun_with = self.tally.counts.attempts
        self._halting: BulkmailError | None = None
        self._members = [Member(index, self._on_frame, self._on_end) for index in range(setup.workers)]
        self._salvaging: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._serial = 0
        self._ahead = time.time() - self._loop.time()
        self.lost = False  # a worker, before its end

    @property
    def clock(self) -> Callable[[], float]:
        loop, ahead = self._loop, self._ahead
        return lambda: loop.time() + ahead

    def limited_by(self) -> dict[str, Any] | None:
        """What the first worker that is kept from being faster said last."""
        found = next((one.limited_by for one in self._living() if one.limited_by is not None), None)
        if found is None or found.get("rate") is None or found["scope"].startswith("domain "):
            return found
        return found | {"rate": found["rate"] * len(self._members)}

    # -- beginning

    def start(self) -> None:
        try:
            lines = [member.start() for member in self._members]
        except OSError as error:
            self.ledger_failed(WorkersLost(f"a worker cannot be started: {error}"), "")
            return
        self._starting = self._loop.create_task(self._begin(lines))

    async def _begin(self, lines: list[Any]) -> None:
        try:
            for member, line in zip(self._members, lines, strict=True):
                part = share.share_of(self._setup.manifest, self._setup.workers, member.index)
                await member.begin(line, replace(self._setup, manifest=part, index=member.index))
        except Exception as error:
            self.break_off(error)

    def _living(self) -> list[Member]:
        return [member for member in self._members if member.living]

    def _tell_all(self, *frame: Any) -> None:
        for member in self._living():
            member.send(*frame)

    # -- what workers say

    def _on_frame(self, member: Member, frame: Frame) -> None:
        try:
            getattr(self, f"_on_{frame[0]}")(member, *frame[1:])
        except Exception as error:
            self.break_off(error)

    def _on_advance(self, member: Member, number: int, advance: Advance) -> None:
        figures = advance.progress["figures"] if advance.progress is not None else None
        if figures is not None:
            self._take(member, figures)
        self._serial += 1
        advance.serial, advance.progress = self._serial, self.tally.progress()

        def committed(error: BaseException | None) -> None:
            if error is None:
                member.advanced(advance.chunks)
            member.send("answer", number, None, sendable(error))

        self._writer.submit(advance, committed)

    def _take(self, member: Member, figures: Any) -> None:
        self._figures.take(member.index, figures, self._rules)
        told = self._rules.reached(self.tally.counts.attempts - self._begun_with)
        if told is not None:
            self.stop(told)

    def _on_lease(self, member: Member, number: int, routes: list[str], chunks: int, now: float) -> None:
        def answer(leases: list[Lease], error: BaseException | None) -> None:
            for found, _ in leases:
                member.leased(found)
                for chunk in found:
                    chunk.forget_rows()  # they can be unpacked again
            member.send("answer", number, leases, sendable(error))

        self._writer.lease_each(routes, chunks, now, answer)

    def _on_events(self, member: Member, events: list[dict[str, Any]]) -> None:
        for event in events if self._on_event is not None else ():
            self._on_event(event)  # type: ignore[misc]

    def _on_log(self, member: Member, name: str, level: int, text: str) -> None:
        logging.getLogger(name).log(level, "%s", text)

    def _on_hindered(self, member: Member, limited_by: dict[str, Any] | None) -> None:
        member.limited_by = limited_by

    def _on_idle(self, member: Member, looks: int) -> None:
        member.idle = looks == member.looks
        self.look_for_end()

    def _on_done(self, member: Member, error: BulkmailError | None, figures: Any) -> None:
        if figures is not None:
            self._take(member, figures)
        member.living = False
        member.hang_up()
        if error is not None:
            self._halting = self._halting or error
            self.stop(error)
        self.look_for_end()

    def _on_broke(self, member: Member, text: str) -> None:
        self.break_off(RuntimeError(f"worker {member.index + 1}: {text}"))

    def _on_end(self, member: Member) -> None:
        """Its line is gone."""
        if not member.living:
            return
        member.living = False
        task = self._loop.create_task(self._salvage(member))
        self._salvaging.add(task)
        task.add_done_callback(self._salvaging.discard)

    async def _salvage(self, member: Member) -> None:
        """It has died. What it had sent to be committed is committed before."""
        self.lost = True
        try:
            await asyncio.to_thread(member.reap)
            await self._writer.call(lambda: None)  # what it was leased, and what it had sent, is in `held` then
            chunks, delays = list(member.held.values()), self._setup.manifest.retry.delays
            first, later = await self._writer.call(salvage, self._journal, chunks, delays, self.clock())
            routes = await self._writer.call(self._journal.routes)
        except Exception as error:
            self.ledger_failed(error, "written")
            return
        self.tally.move("pending", "in_doubt", first)
        self.tally.move("deferred", "in_doubt", later)
        left = self._living()
        LOGGER.warning(
            "worker %d (process %s) has ended before its time: %d of its recipients are in doubt; %s",
            member.index + 1,
            member.pid,
            first + later,
            f"{len(left)} of {len(self._members)} workers go on" if left else "no worker is left",
        )
        if not left and not self.stopping:
            self._halting = self._halting or WorkersLost("all workers have ended before their time")
            self.stopping = True
        for one in left:
            one.send("inherit", member.index, [one.index for one in left])
            one.look(routes)
        self._salvaging.discard(asyncio.current_task())
        self.look_for_end()

    # -- for whoever adds recipients (FillOn)

    def expect(self, route: str) -> None:
        for member in self._living():
            member.look([route])

    def leased(self, found: bool) -> None:
        self.look_for_end()

    def look_for_end(self) -> None:
        if self.done.done() or self._salvaging:
            return
        living = self._living()
        if not living:
            self.done.set_result(self._halting)
        elif not (self.stopping or self.filling) and all(member.idle for member in living):
            self._tell_all("finish")

    # -- for whoever steers the run

    def pause(self) -> None:
        self.paused = self.tally.paused = True
        self._tell_all("pause")

    def resume(self) -> None:
        self.paused = self.tally.paused = False
        self._tell_all("resume")

    def _change(self, index: int, change: Change) -> None:
        if self._members[index].living:
            self._members[index].send("change", change)

    def stop(self, error: BulkmailError | None) -> None:
        if self.stopping:
            return
        self.stopping, self.paused, self.tally.paused = True, False, False
        self._halting = self._halting or error
        self._tell_all("stop", False)
        self.look_for_end()

    def halt(self, abandon: bool) -> None:
        self.stop(None)
        if abandon:
            self._tell_all("stop", True)

    async def close(self, abandon: bool) -> None:
        """Workers close their connections before they say that they are done."""

    async def end(self) -> None:
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        for member in self._members:
            member.living = False
            member.hang_up()
        for task in list(self._salvaging):
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(member.reap) for member in self._members))
