"""Crash campaigns: `scripts/campaign --help`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from campaign import shim

KINDS = ("kill", "disk-full", "clock", "stop", "power")
KILLS_PER_JOB = 8
CUTS_PER_JOB = 25
LARGEST = ("most in doubt", "most in doubt, % of the bound")  # what is not added up


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/campaign",
        description="Runs jobs against relays that misbehave and does to them what machines do to programs; then "
        "holds each journal to what the relays have. The same seed makes the same jobs and the same plan for each. "
        "Exit status: 0 nothing is wrong, 1 something is (its folder stays), 2 bad usage, 77 no compiler here.",
    )
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--kills", type=int, default=1000, help="at least (%(default)s)")
    parser.add_argument("--disk-full", type=int, default=100, metavar="N", help="jobs whose disk fills (%(default)s)")
    parser.add_argument("--clock", type=int, default=20, metavar="N", help="jobs whose clock jumps (%(default)s)")
    parser.add_argument("--stop", type=int, default=4, metavar="N", help="jobs that are stopped (%(default)s)")
    parser.add_argument("--stop-seconds", type=float, default=60.0, help="for so long (%(default)s)")
    parser.add_argument("--power", type=int, default=1000, metavar="N", help="power cuts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this case only, of one kind: as the error names it")
    parser.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--json", action="store_true", help="the tally as one JSON object")
    return parser.parse_args()


def cases(given: argparse.Namespace) -> list[tuple[str, int, float]]:
    """(kind, seed, amount) of each case but those of kills, which end when there were enough."""
    wanted = KINDS if given.kind == "all" else (given.kind,)
    first = given.seed * 100_000
    if given.case is not None:
        amounts = {"kill": KILLS_PER_JOB, "stop": given.stop_seconds, "power": CUTS_PER_JOB}
        return [(wanted[0], given.case, amounts.get(wanted[0], 0))]
    counts = {
        "stop": (given.stop, given.stop_seconds),
        "kill": (-(-given.kills // KILLS_PER_JOB), KILLS_PER_JOB),
        "disk-full": (given.disk_full, 0),
        "clock": (given.clock, 0),
        "power": (-(-given.power // CUTS_PER_JOB), min(CUTS_PER_JOB, given.power)),
    }
    return [(kind, first + i, counts[kind][1]) for kind in counts if kind in wanted for i in range(counts[kind][0])]


class Campaign:
    def __init__(self, given: argparse.Namespace, folder: str) -> None:
        self.given, self.folder = given, folder
        self.tallies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.wrong: list[str] = []

    def run(self) -> None:
        waiting = cases(self.given)
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(self.given.workers, mp_context=context, initializer=begin_worker) as pool:
            while waiting and not self.wrong:
                futures = [pool.submit(run_one, kind, self.folder, seed, amount) for kind, seed, amount in waiting]
                for future in as_completed(futures):
                    self._count(*future.result())
                waiting = self._more_kills(waiting)

    def _count(self, kind: str, seed: int, counted: dict[str, int], wrong: str) -> None:
        tally = self.tallies[kind]
        for name, number in counted.items():
            tally[name] = max(tally[name], number) if name in LARGEST else tally[name] + number
        tally["jobs"] += 1
        if wrong:
            self.wrong.append(f"--kind {kind} --case {seed}: {wrong}")
            print(f"WRONG {self.wrong[-1]}", file=sys.stderr, flush=True)

    def _more_kills(self, done: list[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
        """Some jobs end before their last kill."""
        if self.given.case is not None or self.given.kind not in ("kill", "all"):
            return []
        missing = self.given.kills - self.tallies["kill"]["kills"]
        if missing <= 0:
            return []
        last = max(seed for kind, seed, _ in done if kind == "kill")
        return [("kill", last + 1 + i, KILLS_PER_JOB) for i in range(-(-missing // KILLS_PER_JOB) + 1)]


def begin_worker() -> None:
    from campaign.life import warm_up

    folder = os.environ["BULKMAIL_CAMPAIGN"]
    if os.environ.get("BULKMAIL_CAMPAIGN_MUTANT") == "power-is-process":  # to see that this would be found
        from bulkmail.job import journal_file

        journal_file.LEVELS["power"] = journal_file.LEVELS["process"]
    warm_up(Path(folder) / f"warm-{os.getpid()}")


def run_one(*case: Any) -> Any:
    from campaign.kinds import run_case

    return run_case(*case)


def show(tallies: dict[str, Counter[str]], wrong: int, seconds: float) -> None:
    for kind in KINDS:
        if not tallies.get(kind):
            continue
        print(f"\n{kind}")
        for name, number in sorted(tallies[kind].items(), key=lambda entry: entry[0]):
            print(f"  {name:<40} {number:>10,}")
    print(f"\nwrong (lost, sent to twice, missing, called what they are not): {wrong}; {seconds:.0f} s")


def main() -> int:
    if not shim.can_be_made():
        print("campaign: needs Linux and a C compiler (cc)", file=sys.stderr)
        return 77
    folder = os.environ.get("BULKMAIL_CAMPAIGN") or tempfile.mkdtemp(prefix="bulkmail-campaign-")
    given = arguments()
    shim.preload(Path(folder))
    begun = time.monotonic()
    campaign = Campaign(given, folder)
    campaign.run()
    seconds = time.monotonic() - begun
    if given.json:
        print(json.dumps({"tally": campaign.tallies, "wrong": campaign.wrong, "seconds": seconds}))
    else:
        show(campaign.tallies, len(campaign.wrong), seconds)
    if campaign.wrong:
        print(f"{len(campaign.wrong)} cases are wrong; their folders are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
