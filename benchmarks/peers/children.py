"""Child processes, measured: what one cost in all, and how busy another is meanwhile."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# How often the peak memory is read. It cannot be taken afterwards: ru_maxrss of a child starts at the size of the
# process that spawned it, and /proc forgets the figure when the child ends.
SAMPLE_SECONDS = 0.02
# Variables that slow a Python program down and that no user sets: without .pyc files our modules are compiled again at
# each start, for 0.3 s.
SLOWING = ("PYTHONDONTWRITEBYTECODE", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG", "PYTHONMALLOC", "PYTHONTRACEMALLOC")


def environment() -> dict[str, str]:
    """What every measured program and server is given."""
    return {name: value for name, value in os.environ.items() if name not in SLOWING}


@dataclass(frozen=True)
class Cost:
    """What a finished child cost from its exec to its end, start-up included."""

    wall: float
    user: float
    system: float
    peak_mb: float
    status: int
    output: str
    errors: str

    @property
    def cpu(self) -> float:
        return self.user + self.system

    def result(self) -> dict[str, object]:
        """The last JSON object of its standard output: one on a line of its own, or all of the output."""
        for text in [*reversed([line for line in self.output.splitlines() if line.startswith("{")]), self.output]:
            try:
                found = json.loads(text)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
        return {}


def peak_memory_mb(pid: int) -> float:
    """VmHWM of a living process; 0.0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process's main thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def process_cpu_seconds(pid: int) -> float:
    """The same of all threads that the process has now."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def measure(command: Sequence[str], *, seconds: float, cwd: Path | None = None) -> Cost:
    """Run a command to its end, or kill it after `seconds`; its cost is read with wait4."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=cwd, env=environment()
        )
        peak, ended = 0.0, select.poll()
        pidfd = os.pidfd_open(child.pid)
        try:
            ended.register(pidfd, select.POLLIN)
            while not ended.poll(SAMPLE_SECONDS * 1000):
                peak = max(peak, peak_memory_mb(child.pid))
                if time.perf_counter() - started > seconds:
                    child.kill()
        finally:
            os.close(pidfd)
        wall = time.perf_counter() - started
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Cost(
            wall,
            usage.ru_utime,
            usage.ru_stime,
            peak,
            child.returncode,
            output.read().decode(errors="replace"),
            errors.read().decode(errors="replace"),
        )


def on_core(number: int, command: list[str]) -> list[str]:
    """The command, on one core: the first (0) or the last (-1) of those that there are."""
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[number]), *command]


@contextmanager
def running(command: Sequence[str], *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server for as long as the block lasts; its output goes to `log`."""
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment())
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
