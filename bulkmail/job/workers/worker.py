"""A worker: a process with an event loop, relays and a scheduler of its own, and the run at the other end of a line.

Its standard input is the line. It ends with it: whoever sends without a journal would send twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import pickle
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bulkmail.errors import BulkmailError, ConfigError, JournalError
from bulkmail.job.changes import Change
from bulkmail.job.engine import Engine
from bulkmail.job.ledger import Counts
from bulkmail.job.manifest import Manifest
from bulkmail.job.recipients import Source
from bulkmail.job.seeds import Seeds
from bulkmail.job.settle import keep_freed_memory
from bulkmail.job.variants import compile_job
from bulkmail.job.workers.frames import Frame, Line
from bulkmail.job.workers.remote import (
    Figures,
    LogLine,
    OwnGroups,
    RemoteRules,
    RemoteWriter,
    WorkerScheduler,
    WorkerTally,
)
from bulkmail.net.loop import new_event_loop

LOOK_SECONDS: Final = 1.0  # between two reports of what keeps it from being faster
GC_THRESHOLD: Final = 20_000  # as of `send`: messages and rows hold no cycles
LINE_LOST: Final = 4  # exit status
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Setup:
    """What a worker begins with. manifest: its share of the job's.

    parent   the run's process
    recipients  the plain file that they are in: path, format, name, and the size and time that it must have
    names    the journal's numbers for relays and egresses
    ramp     as of an Engine; events: whether somebody listens; level: of the log
    """

    manifest: Manifest
    index: int
    workers: int
    parent: int
    recipients: tuple[Path, str, str, int, int]
    seeds: str
    routes: list[str]
    names: dict[str | None, int]
    ramp: tuple[float, float] | None
    events: bool
    level: int


class _Names:
    def __init__(self, known: dict[str | None, int]) -> None:
        self._known = known

    def name_id(self, name: str | None) -> int:
        return self._known[name]


class Worker:
    """Between a line's beginning and its end. ended: set when there is nothing left to do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.line = Line(self._on_frame, self._on_end)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._writer = RemoteWriter(self.line.send)
        self._engine: Engine | None = None
        self._events: list[dict[str, Any]] = []
        self._looks = 0
        self._index = 0
        self._first = False
        self._abandoned = False
        self._stopped = self._over = False

    # -- the line

    def _on_frame(self, frame: Frame) -> None:
        if self._engine is None and frame[0] not in ("begin", "stop"):
            return  # it could not begin, and has said so
        try:
            getattr(self, f"_do_{frame[0]}")(*frame[1:])
        except Exception:
            self._broke()

    def _on_end(self) -> None:
        if not self._over:
            os._exit(LINE_LOST)  # at once: nothing that is sent from here on is recorded
        if not self.ended.done():
            self.ended.set_result(None)

    def _broke(self) -> None:
        """A bug of ours: it ends the run."""
        self._over = True
        self.line.send("broke", traceback.format_exc())

    def _do_begin(self, setup: Setup) -> None:
        try:
            engine = self._begin(setup)
        except BulkmailError as error:
            self._end(error, None)
        else:
            self._task = self._loop.create_task(self._run(engine))

    async def _run(self, engine: Engine) -> None:
        try:
            error = await engine.done
            await engine.close(self._abandoned)
            self._flush()
            self._end(error, self._tally.figures())
        except Exception:
            self._broke()

    def _end(self, error: BulkmailError | None, figures: Figures | None) -> None:
        self._over = True
        self.line.send("done", sendable(error), figures)

    def _begin(self, setup: Setup) -> Engine:
        if os.getppid() != setup.parent:
            os._exit(LINE_LOST)
        logger = logging.getLogger("bulkmail")
        logger.setLevel(setup.level)
        logger.addHandler(LogLine(self.line.send, self._loop))
        manifest, self._index = setup.manifest, setup.index
        self._first = self._index == 0
        compiled = compile_job(manifest)
        rows = Seeds(setup.seeds).reader(open_recipients(*setup.recipients))
        self._tally = WorkerTally(manifest.job, "", counts=Counts())
        self._tally.rules = RemoteRules()
        engine = self._engine = Engine(
            manifest,
            compiled,
            rows,
            self._writer,
            self._tally,
            _Names(setup.names),
            self._tell if setup.events else None,
            routes=setup.routes,
            ramp=setup.ramp,
            rules=self._tally.rules,
            signer=compiled.signer,
            scheduler=WorkerScheduler,
        )
        self._scheduler: WorkerScheduler = engine.scheduler  # type: ignore[assignment]
        self._scheduler.owned = OwnGroups(manifest.limits.domains, setup.workers, setup.index)
        self._scheduler.on_idle = lambda: self.line.send("idle", self._looks)
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        engine.start()
        if self._stopped:
            engine.halt(self._abandoned)
        self._loop.call_later(LOOK_SECONDS, self._tell_hindrance)
        return engine

    # -- what the run says

    def _do_answer(self, number: int, result: Any, error: BaseException | None) -> None:
        self._writer.answered(number, result, error)

    def _do_look(self, looks: int, routes: list[str]) -> None:
        self._looks = looks
        self._scheduler.look_again(routes)

    def _do_inherit(self, lost: int, living: list[int]) -> None:
        self._first = self._index == living[0]
        self._scheduler.inherit(lost, living)

    def _do_pause(self) -> None:
        self._scheduler.pause()

    def _do_resume(self) -> None:
        self._scheduler.resume()

    def _do_change(self, change: Change) -> None:
        assert self._engine is not None
        self._engine.regulator.change(change)

    def _do_stop(self, abandon: bool) -> None:
        self._stopped, self._abandoned = True, self._abandoned or abandon
        if self._engine is not None:
            self._engine.halt(abandon)

    def _do_finish(self) -> None:
        self._scheduler.finish()

    # -- what it says

    def _tell(self, event: dict[str, Any]) -> None:
        """What all workers have to say of the job alike, the first one that lives says."""
        if event.get("scope") == "job" and not self._first:
            return
        self._events.append(event)
        if len(self._events) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._events:
            self.line.send("events", self._events)
            self._events = []

    def _tell_hindrance(self) -> None:
        if self._engine is not None and not self._engine.done.done():
            self.line.send("hindered", self._engine.limited_by())
            self._loop.call_later(LOOK_SECONDS, self._tell_hindrance)


def open_recipients(path: Path, format: str, name: str, size: int, mtime_ns: int) -> Source:
    """raises  JournalError  it is not the file that the run has read"""
    try:
        source = Source(path, format, name=name)
    except ConfigError as error:
        raise JournalError(str(error)) from error
    if (source.size, source.mtime_ns) != (size, mtime_ns):
        source.close()
        raise JournalError(f"{name} was changed while the job was using it")
    return source


def sendable(error: BaseException | None) -> BaseException | None:
    """What can be sent of an error: a reply that it holds is in its text too."""
    if isinstance(error, BulkmailError):
        error.reply = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return BulkmailError(f"{type(error).__name__}: {error}")
    return error


def end_with_parent() -> None:
    """On Linux not even a worker that is busy outlives the run; elsewhere it sees the end of the line when it looks."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    # Ctrl-C and a supervisor's SIGTERM may reach every process of a job; the run says what becomes of them.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with_parent()
    line = socket.socket(fileno=0)
    keep_freed_memory()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work(line))


async def work(line: socket.socket) -> None:
    line.setblocking(False)
    worker = Worker()
    await asyncio.get_running_loop().create_connection(lambda: worker.line, sock=line)
    await worker.ended


if __name__ == "__main__":
    main()
