#!/usr/bin/env python3
"""Where the microseconds of a message go: `bulkmail send` of a personalised job to smtp-sink, stage by stage.

    budget.py [--size 2048] [--connections 20] [--functions 0] [--keep FOLDER] [--write]

Instructions are callgrind's, of a job with MANY recipients less those of one with FEW: start-up and what is done once
drop out. What a stage's own functions cost is the stage's; what libc, Python's runtime or SQLite cost belongs to those
that called them. System calls and the kernel's time are those of perf, by the same subtraction, at full speed.
--functions N lists the N dearest functions as well. Prints Markdown, which --write puts into docs/performance.md. Takes
some three minutes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

import bulkmail_send
import callgrind
import machine
import marks
from callgrind import Function, Profile
from children import environment, measure, running
from recorder import HOST, free_port, sink_command, wait_for
from servers import find
from tables import row

FEW, MANY = 10_000, 30_000
PERF_FEW, PERF_MANY = 1_000, 100_000
ROUNDS = 3
HERTZ = 5000
DEADLINE = 1800.0
NAME = "benchmarks/budget.py"
GLUE, REST = "Python code", "unclear"
# What is whose: the first line that matches "module:function" decides; what matches none belongs to its callers.
STAGES = (
    ("recipient row", r"(job/(\w*rows?\w*|cutting|csv_records|seen|personal)|\w+/plain_address|orjson|_blake2):"),
    ("claim", r"job/settle:.*(claim|waiting|hand_out)"),
    ("result", r"job/settle:.*(settle_delivered|finished|\dsettle$)|smtp/session:.*take_(done|ended)"),
    ("envelope", r"wire/transaction:|job/settle:"),
    ("compose", r"message/|wire/body:"),
    ("write", r"(smtp/session|net/stream):.*_(flush|gather|send|write)|net/gather:|uvloop.*:.*[Ww]rite|_ssl:.*write"),
    ("reply", r"wire/(reply|flight|client|limit):|smtp/session:|net/stream:"),
    ("journal", r"job/(packing|detail|journal\w*):|libsqlite3:|_sqlite3:|zlib:|libz:"),
    ("loop", r"net/hub:|uvloop|_asyncio:|select:"),
    (GLUE, r"libpython[\d.]*:_PyEval_EvalFrameDefault|python[\d.]*:_PyEval_EvalFrameDefault"),
)  # fmt: skip
WHAT = {
    "recipient row": "a row of the list: found, parsed, its address checked, cut into chunks",
    "claim": "taken from its chunk for a connection that has room",
    "compose": "its own parts of the message, encoded, dots doubled",
    "envelope": "MAIL, RCPT and what follows as one group",
    "write": "pieces gathered, handed to the socket",
    "reply": "the dialogue: which reply belongs to what, and what may be written next",
    "result": "delivered, counted, remembered for the journal",
    "journal": "packed and written, by SQLite in a thread of its own",
    "loop": "which sockets have something, and calling those that wait",
    GLUE: "a batch's way through scheduler, pool and progress",
    REST: "what nobody answers for",
}
CALLS = ("sendmsg", "sendto", "write", "writev", "read", "recvfrom", "recvmsg", "epoll_wait", "epoll_pwait", "futex")
CALLS += ("pwrite64", "fdatasync", "fsync", "epoll_ctl", "sched_yield", "clock_nanosleep")


def module(path: str) -> str:
    """ "job/rows" of ".../bulkmail/job/rows.cpython-311-x86_64-linux-gnu.so", "libc" of ".../libc.so.6"."""
    name = re.split(r"\.(?:cpython|abi3|so)\b", path)[0]
    return name.rpartition("/bulkmail/")[2] if "/bulkmail/" in name else "/".join(name.split("/")[-2:])


def stage_of(function: Function) -> str | None:
    name = f"{module(function[0])}:{function[1]}"
    return next((stage for stage, pattern in STAGES if re.search(pattern, name)), None)


def stages(profile: Profile) -> Counter[str]:
    known = {one: stage for one in _functions(profile) if (stage := stage_of(one))}
    return callgrind.attribute(profile, known, rest=REST)


def _functions(profile: Profile) -> set[Function]:
    return set(profile.itself) | {one for pair in profile.calls for one in pair}


# -- the runs


class Job:
    """Jobs of any length for one sink; each is run once, in a folder of its own."""

    def __init__(self, folder: Path, port: int, size: int, connections: int) -> None:
        self.folder, self.port, self.size, self.connections = folder, port, size, connections
        self.runs = 0

    def command(self, recipients: int) -> list[str]:
        self.runs += 1
        return bulkmail_send.command(
            self.folder / str(self.runs),
            host=HOST,
            port=self.port,
            connections=self.connections,
            messages=recipients,
            size=self.size,
        )

    def run(self, recipients: int, *before: str) -> str:
        """Its standard error, where the tools write."""
        done = subprocess.run(
            [*before, *self.command(recipients)], capture_output=True, text=True, timeout=DEADLINE, env=environment()
        )
        if done.returncode or f'"delivered":{recipients}' not in done.stdout:
            raise SystemExit(f"{' '.join(before)}: status {done.returncode}, {done.stderr[-1000:]}")
        return done.stderr


def counted(job: Job) -> Profile:
    """callgrind's counts of MANY less those of FEW."""
    profiles = []
    for recipients in (FEW, MANY):
        out = job.folder / f"callgrind.{recipients}"
        job.run(recipients, "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}")
        profiles.append(callgrind.read(out))
    return profiles[1].minus(profiles[0])


def system_calls(job: Job) -> Counter[str]:
    """How often each is made for a message."""
    events = ",".join(f"syscalls:sys_enter_{name}" for name in CALLS)
    counts = []
    for recipients in (PERF_FEW, PERF_MANY):
        out = job.folder / f"stat.{recipients}"
        job.run(recipients, "perf", "stat", "-x,", "-o", str(out), "-e", events)
        found = re.findall(r"^(\d+),.*?syscalls:sys_enter_(\w+)", out.read_text(), re.M)
        counts.append(Counter({name: int(number) for number, name in found}))
    more = counts[1] - counts[0]
    return Counter({name: number / (PERF_MANY - PERF_FEW) for name, number in more.items()})


def kernel_time(job: Job) -> Counter[str]:
    """Microseconds of a message in each system call, and in user code under ""; by samples of the CPU's clock."""
    counts = []
    for recipients in (PERF_FEW, PERF_MANY):
        out = job.folder / f"perf.{recipients}"
        job.run(recipients, "perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-g", "-o", str(out))
        shown = subprocess.run(["perf", "script", "-i", str(out), "-F", "comm,ip,sym"], capture_output=True, text=True)
        counts.append(Counter(where(stack) for stack in samples(shown.stdout)))
    more = counts[1] - counts[0]
    return Counter({name: number / HERTZ * 1e6 / (PERF_MANY - PERF_FEW) for name, number in more.items()})


def samples(shown: str) -> Iterator[list[str]]:
    """The lines of each stack."""
    for part in shown.split("\n\n"):
        if stack := [line for line in part.splitlines() if line.startswith(("\t", " "))]:
            yield stack


def where(stack: list[str]) -> str:
    """The system call that a sample was in; "" for user code, "other" for faults and interrupts."""
    for line in reversed(stack):
        if found := re.search(r" (?:__(?:x64_|arm64_|do_)?|k)sys_(\w+)", line):
            return found[1]
    address = stack[0].split()[0]
    return "other" if len(address) == 16 and address.startswith("ffff") else ""


def cpu_us(job: Job) -> tuple[float, float]:
    """User and system time of a message past start-up, without any tool: the median of some rounds."""
    found = []
    for _ in range(ROUNDS):
        few, many = (measure(job.command(count), seconds=DEADLINE) for count in (PERF_FEW, PERF_MANY))
        found.append(
            [(b - a) / (PERF_MANY - PERF_FEW) * 1e6 for a, b in ((few.user, many.user), (few.system, many.system))]
        )
    return median(one[0] for one in found), median(one[1] for one in found)


# -- the page


def stage_table(by_stage: Counter[str], user_us: float) -> str:
    whole = sum(by_stage.values())
    lines = [row(("stage", "instructions", "µs", "what")), row(["---", "---:", "---:", "---"])]
    for stage in [*dict.fromkeys(stage for stage, _ in STAGES), REST]:
        count = by_stage[stage]
        lines.append(row((stage, f"{count / (MANY - FEW):,.0f}", f"{count / whole * user_us:.2f}", WHAT[stage])))
    lines.append(row(("all", f"{whole / (MANY - FEW):,.0f}", f"{user_us:.2f}", "")))
    return "\n".join(lines)


def kernel_table(calls: Counter[str], time: Counter[str], system_us: float) -> str:
    """The sampled shares of what the kernel took in all."""
    kernel = Counter({name: us for name, us in time.items() if name})
    whole = sum(kernel.values()) or 1.0
    lines = [row(("system call", "a message", "µs")), row(["---", "---:", "---:"])]
    shown = [name for name, us in kernel.most_common() if us > 0.01 * whole and name != "other"]
    for name in shown:
        lines.append(
            row((name, f"{calls[name]:.2f}" if name in CALLS else "", f"{kernel[name] / whole * system_us:.2f}"))
        )
    rest = whole - sum(kernel[name] for name in shown)
    lines.append(row(("faults, interrupts, others", "", f"{rest / whole * system_us:.2f}")))
    lines.append(row(("all", "", f"{system_us:.2f}")))
    return "\n".join(lines)


def function_table(profile: Profile, count: int) -> str:
    lines = [row(("instructions", "module", "function", "stage")), row(["---:", "---", "---", "---"])]
    for function, cost in profile.itself.most_common(count):
        name = re.sub(r"__pyx_\w+?_8bulkmail_", "", function[1])
        lines.append(
            row((f"{cost / (MANY - FEW):,.0f}", module(function[0]), name, stage_of(function) or "its callers'"))
        )
    return "\n".join(lines)


def budget(job: Job, functions: int) -> Iterator[str]:
    user_us, system_us = cpu_us(job)
    what = f"{job.size:,} bytes, {job.connections} connections, smtp-sink"
    yield f"{what}: {user_us:.1f} µs a message in user code, {system_us:.1f} µs in the kernel."
    if find("valgrind"):
        profile = counted(job)
        yield stage_table(stages(profile), user_us)
        if functions:
            yield function_table(profile, functions)
    else:
        yield "No instructions: valgrind is not installed."
    try:
        yield kernel_table(system_calls(job), kernel_time(job), system_us)
    except (SystemExit, OSError) as error:
        yield f"No system calls: perf cannot count them here ({error})."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--functions", type=int, default=0, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where callgrind's and perf's files stay")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bulkmail-budget-") as temporary:
        folder, port = options.keep or Path(temporary), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        with running(sink_command(port), log=folder / "sink.log"):
            wait_for(port)
            parts = [f"{machine.stamp()}, {machine.machine()}; {machine.versions()}."]
            for part in budget(Job(folder, port, options.size, options.connections), options.functions):
                print(part + "\n", flush=True)
                parts.append(part)
    if options.write:
        page = marks.ROOT / "docs" / "performance.md"
        page.write_text(marks.put(page.read_text(), NAME, "\n\n".join(parts)))


if __name__ == "__main__":
    main()
