"""What is done to jobs: each kind is a function of a seed, and gives what it counted or raises Wrong."""

from __future__ import annotations

import errno
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from campaign import power_cut, shim
from campaign.life import Life, Wrong, life
from campaign.shapes import make_shape

MOMENTS = ("taken", "taken", "taken", "time", "early", "early", "filling", "late")


def kill(folder: Path, seed: int, kills: int) -> Counter[str]:
    """Up to so many kills of one job, at moments of all kinds."""
    chance = random.Random(seed)
    with life(folder, make_shape(chance), seed) as job:
        for _ in range(kills):
            if chance.random() < 0.3:
                job.let_a_relay_die()
            job.start()
            code = job.wait(moment(job, chance))
            if code is None:
                job.kill()
                job.check_kill()
            elif code in (0, 1):
                break
        job.finish()
        return job.tally


def moment(job: Life, chance: random.Random) -> Callable[[], bool]:
    """When to kill, from the start of a run on."""
    kind, begun, total = chance.choice(MOMENTS), time.monotonic(), job.shape.recipients
    spare = chance.uniform(0, 0.03)
    if kind == "taken":
        wanted = job.look() + chance.randrange(1, max(2, (total - job.look()) // 2))
        return lambda: job.look() >= wanted
    if kind == "late":
        return lambda: job.look() >= total * 0.97
    if kind == "filling" and not job.journal.exists():
        return lambda: (job.journal.exists() and _later(job, spare)) or job.look() > 0
    seconds = chance.uniform(0, 0.12 if kind == "early" else 0.8)
    return lambda: time.monotonic() - begun >= seconds


def _later(job: Life, seconds: float) -> bool:
    return time.time() - job.journal.stat().st_ctime >= seconds


def disk_full(folder: Path, seed: int) -> Counter[str]:
    """A disk that takes no more from a random change on: files may not grow, no space is left, a device is gone."""
    chance = random.Random(seed)
    how = chance.choice(["size", "space", "gone"])
    with life(folder, make_shape(chance), seed) as job:
        for _ in range(chance.randrange(1, 4)):
            size, after = int(2000 * 200 ** chance.random()), int(500 * chance.random() ** 2)

            def prepare(size: int = size, after: int = after) -> None:
                if how == "size":
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                else:
                    shim.fail(job.journal.parent, after, errno.ENOSPC if how == "space" else errno.EIO)

            job.start(prepare)
            code = job.wait()
            job.check_stop()
            job.tally[f"disk: {how}" if code == 3 else "disk: it was large enough"] += 1
            if code != 3:
                break
        job.finish()
        return job.tally


def clock(folder: Path, seed: int) -> Counter[str]:
    """The clock jumps forwards and backwards by hours and days while it sends."""
    chance, offset = random.Random(seed), shim.clock()
    offset[0] = 0
    with life(folder, make_shape(chance, faulty=True), seed) as job:
        for run in range(2):
            job.start(shim.use_clock)
            for _ in range(3):
                begun, seconds = time.monotonic(), chance.uniform(0, 0.4)
                code = job.wait(lambda: time.monotonic() - begun >= seconds)  # noqa: B023 - called in this turn
                if code is not None:
                    break
                offset[0] = chance.choice([-400, -2, -1, 1, 2, 400]) * chance.choice([1, 3600, 86400])
                job.tally["clock jumps"] += 1
            else:
                if run == 0:
                    job.kill()
                    job.check_kill()
                else:
                    job.wait()
            job.check_stop()
        offset[0] = 0
        job.finish()
        return job.tally


def stop(folder: Path, seed: int, seconds: float) -> Counter[str]:
    """The job, then a relay, stands still for a while (SIGSTOP) and goes on."""
    chance = random.Random(seed)
    with life(folder, make_shape(chance), seed) as job:
        job.start()
        code = job.wait(moment(job, chance))
        if code is None:
            job.stop_for(seconds)
            job.tally["job stopped"] += 1
            begun = time.monotonic()
            code = job.wait(lambda: time.monotonic() - begun >= 0.1)
        if code is None:
            sink = chance.choice(job.sinks)
            sink.pause()
            try:
                begun = time.monotonic()
                job.wait(lambda: time.monotonic() - begun >= seconds)
            finally:
                sink.go_on()
            job.tally["relay stopped"] += 1
            if job._pid:
                job.wait()
        job.check_stop()
        job.finish()
        return job.tally


def power(folder: Path, seed: int, cuts: int) -> Counter[str]:
    """A job whose writes are recorded, and the power cut at random moments of it."""
    chance = random.Random(seed)
    level = "power" if seed % 2 else "process"
    shape = make_shape(chance, level=level, policy="skip", recipients=chance.randrange(100, 700))
    with life(folder, shape, seed) as job:
        log = folder / "changes"
        for run in range(2):
            job.start(lambda: shim.record(log, job.journal.parent))
            code = job.wait(moment(job, chance)) if run == 0 else job.wait()
            if code is None:
                job.kill()
            elif code != 3:
                break
        job.look()
        tally = power_cut.check_cuts(job, log, chance, cuts)
        return job.tally + tally


def run_case(kind: str, folder: str, seed: int, amount: float) -> tuple[str, int, dict[str, int], str]:
    """(kind, seed, what it counted, what is wrong or "")."""
    place = Path(folder) / f"{kind}-{seed}"
    try:
        if kind in ("disk-full", "clock"):
            counted = (disk_full if kind == "disk-full" else clock)(place, seed)
        else:
            counted = {"kill": kill, "stop": stop, "power": power}[kind](place, seed, amount)  # type: ignore[operator]
    except Wrong as wrong:
        return kind, seed, {}, str(wrong)
    except Exception as broken:
        import traceback

        return kind, seed, {}, f"{broken!r}\n{traceback.format_exc()}"
    return kind, seed, dict(counted), ""
