"""The life of one job: begun, killed, resumed, killed again, brought to its end, and held to the truth at each stop.

The truth is what the relays noted before they answered. A run is the real thing, `Job.run`, in a forked process: it is
there within milliseconds, so a thousand kills take minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bulkmail.job.job import Job
from bulkmail.job.journal_file import reading
from bulkmail.job.ledger import JournalFault
from bulkmail.job.report import iter_report, status
from campaign.shapes import Shape, addresses, write_job
from campaign.sinks import Sink

PARTS = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
SECONDS = 120.0  # no run takes as long; one that does has hung
MOST_RUNS = 25  # to the end, after the last kill
BROKEN = 99


def warm_up(folder: Path) -> None:
    """Import what a run imports, so that forked ones need not: they are at work within milliseconds."""
    import filelock  # noqa: F401

    import bulkmail.job.run
    import bulkmail.sink.server  # noqa: F401

    shape = Shape(1, 1, 1, 1, False, "skip", "process", False, "inline", {})
    folder.mkdir(parents=True, exist_ok=True)
    Job.load(write_job(shape, folder, [1])).run(dry_run=True)


class Wrong(Exception):
    """The journal and the truth disagree, or a run broke."""


class Life:
    """One job in a folder of its own, which stays where something is wrong."""

    def __init__(self, folder: Path, shape: Shape, seed: int) -> None:
        self.folder, self.shape, self.chance = folder, shape, random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.sinks = [Sink(folder, f"relay{i}", 1000 * seed + i, shape.faulty) for i in range(shape.relays)]
        self.manifest = write_job(shape, folder, [sink.port for sink in self.sinks])
        self.journal = folder / "journal" / "job.journal"
        self.taken: defaultdict[str, list[float]] = defaultdict(list)
        self.known = frozenset(addresses(shape))
        self.tally: Counter[str] = Counter()
        self._due: list[tuple[float, Callable[[], None]]] = []  # relays that die and come back
        self._pid = 0

    def close(self, keep: bool) -> None:
        self._end_run()
        for sink in self.sinks:
            with contextlib.suppress(ProcessLookupError):
                sink.kill()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- runs

    def start(self, prepare: Callable[[], None] = lambda: None) -> None:
        """prepare: called in the new process first."""
        self._pid = os.fork()
        if not self._pid:
            self._child(prepare)

    def _child(self, prepare: Callable[[], None]) -> None:
        code = BROKEN
        try:
            output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            prepare()
            code = self._run()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def _run(self) -> int:
        """As `bulkmail send --auto --json`: what it prints, and its exit status."""
        try:
            report = Job.load(self.manifest).run(auto=True, in_doubt=self.shape.policy)
        except JournalFault as fault:  # the disk, before anything was sent
            os.write(2, f"{fault}\n".encode())
            return 3
        if report.error is not None:
            os.write(2, f"{report.error}\n".encode())
        (self.folder / "summary.json").write_text(json.dumps(report.summary))
        return report.exit_code

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = SECONDS) -> int | None:
        """Until the run has ended (its exit status), or `until()` holds (None)."""
        end = time.monotonic() + seconds
        while True:
            pid, ended = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return self._code(ended)
            if until():
                return None
            self._tick()
            if time.monotonic() > end:
                self._end_run()
                raise Wrong(f"a run was not over after {seconds:g} s")
            time.sleep(0.001)

    def _code(self, ended: int) -> int:
        code = os.waitstatus_to_exitcode(ended)
        if code not in (0, 1, 3):
            said = (self.folder / "output").read_text()[-3000:]
            raise Wrong(f"a run ended with {code}:\n{said}")
        return code

    def kill(self) -> None:
        self._end_run()
        self.tally["kills"] += 1

    def _end_run(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def stop_for(self, seconds: float) -> None:
        """The run stands still, and does not know."""
        os.kill(self._pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self._pid, signal.SIGCONT)

    def _tick(self) -> None:
        now = time.monotonic()
        for moment, act in [entry for entry in self._due if entry[0] <= now]:
            self._due = [entry for entry in self._due if entry != (moment, act)]
            act()

    def let_a_relay_die(self) -> None:
        """At a random moment of the next second; it comes back soon."""
        sink, moment = self.chance.choice(self.sinks), time.monotonic() + self.chance.uniform(0, 0.8)
        back = moment + self.chance.uniform(0.02, 0.5)
        if not any(True for _ in self._due):
            self._due += [(moment, sink.kill), (back, sink.start)]
            self.tally["relays died"] += 1

    # ---- the truth

    def look(self) -> int:
        for sink in self.sinks:
            sink.look(self.taken)
        return len(self.taken)

    def states(self) -> dict[str, str]:
        return {row["recipient"]: row["state"] for row in iter_report(self.journal)}

    def status(self) -> dict[str, Any]:
        found = status(self.journal)
        if sum(found[part] for part in PARTS) != found["recipients"]:
            raise Wrong(f"the counts do not add up: {found}")
        return found

    def in_flight(self) -> int:
        """Claimed without an outcome: after a kill, those whom it left in doubt."""
        with reading(self.journal) as db:
            return int(db.execute("SELECT in_flight FROM summary").fetchone()[0])

    def check_stop(self) -> dict[str, Any]:
        """What has to hold whenever no run is alive; the counts, {} before the recipients are in."""
        self.look()
        if not self.journal.exists():
            if self.taken:
                raise Wrong(f"{len(self.taken)} have the message and there is no journal")
            return {}
        found = self.status()
        if not found["recipients"]:
            if self.taken:
                raise Wrong(f"{len(self.taken)} have the message and the journal has no recipients")
            return {}
        said = self.states()
        if said.keys() != self.known or found["recipients"] != len(self.known):
            raise Wrong(f"{found['recipients']} recipients, {len(said)} of them named, of {len(self.known)}")
        if Counter(said.values()) != {part: found[part] for part in PARTS if found[part]}:
            raise Wrong(f"the report has {Counter(said.values())}, the counts are {found}")
        for address, state in said.items():
            self._check(address, state)
        return found

    def _check(self, address: str, state: str) -> None:
        times = len(self.taken.get(address, ()))
        if state == "delivered" and not times:
            raise Wrong(f"lost: {address} is called delivered and is not")
        if self.shape.policy == "resend":
            return
        if times > 1:
            raise Wrong(f"twice: {address} was sent to {times} times under skip")
        if times and state not in ("delivered", "in_doubt"):
            raise Wrong(f"{address} has the message and is called {state}")

    def check_kill(self) -> None:
        """After a kill: the truth, and how many it left in doubt."""
        found = self.check_stop()
        doubt = self.in_flight() if self.journal.exists() else 0
        if doubt > self.shape.most_in_doubt:
            raise Wrong(f"{doubt} in doubt after a kill, more than {self.shape.most_in_doubt}")
        self.tally["left in doubt"] += doubt
        self.tally["most in doubt"] = max(self.tally["most in doubt"], doubt)
        self.tally["most in doubt, % of the bound"] = max(
            self.tally["most in doubt, % of the bound"], 100 * doubt // self.shape.most_in_doubt
        )
        where = "the recipients were read in" if not found else "sending"
        if found and not found["pending"] and not doubt:
            where = "waiting or done"
        self.tally[f"killed while {where}"] += 1

    # ---- the end

    def finish(self) -> None:
        """Run without kills until nothing is left, then settle the account."""
        for _ in range(MOST_RUNS):
            self.start()
            code = self.wait()
            found = self.check_stop()
            again = code == 3 or (self.shape.policy == "resend" and found["in_doubt"])
            if not again:
                break
        else:
            raise Wrong(f"not over after {MOST_RUNS} runs: {found}")
        self._settle(found)

    def _settle(self, found: dict[str, Any]) -> None:
        if found["pending"] or found["deferred"]:
            raise Wrong(f"lost: the job is over and {found} is left")
        said = self.states()
        self.tally.update({part: found[part] for part in ("delivered", "failed", "in_doubt")})
        self.tally["recipients"] += found["recipients"]
        self.tally["second copies"] += sum(len(times) - 1 for times in self.taken.values())
        if self.shape.policy == "resend":
            missing = [a for a, state in said.items() if state != "failed" and a not in self.taken]
            if missing:
                raise Wrong(f"missing: {len(missing)} under resend, such as {missing[0]}")


@contextlib.contextmanager
def life(folder: Path, shape: Shape, seed: int) -> Iterator[Life]:
    """A Life; its folder stays where it raises."""
    one = Life(folder, shape, seed)
    try:
        yield one
    except BaseException:
        one.close(keep=True)
        raise
    one.close(keep=False)
