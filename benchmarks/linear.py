#!/usr/bin/env python3
"""Whether ten times the recipients cost ten times the CPU, and no more memory.

    linear.py [--recipients 10000000] [--personal] [--rounds 1] [--folder DIR]

Sends whole jobs of a tenth of the recipients and of all of them, by turns, to `bulkmail sink --discard`, journal on: a
shared message, a hundred recipients a transaction; with --personal a message of some 300 bytes of each recipient's own,
which takes ten times as long. CPU is of the whole process, as wait4 has it, less that of a job of a thousand: the
start. Ten million take a list of 0.8 GB in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scale import sink, write_list

TENTH = 10
START = 1000  # recipients of the job whose CPU counts as the start
MOST_MORE = 0.05  # CPU a recipient of all by that of a tenth, more or less than 1
SHARED = {"from": "news@example.com", "subject": "Hello", "text": "Hello everybody"}
PERSONAL = {
    "from": "News <news@example.com>",
    "to": "{{ name }} <{{ email }}>",
    "subject": "Hello {{ name }}",
    "text": "Dear {{ name }},\n\nyour number is {{ id }}.\n",
}


@dataclass(frozen=True)
class Run:
    recipients: int
    cpu: float
    peak_mb: float
    seconds: float


def write_job(folder: Path, recipients: int, port: int, personal: bool) -> Path:
    write_list(folder / "list.jsonl", recipients)
    relay: dict[str, Any] = {"url": f"smtp://127.0.0.1:{port}", "connections": 10}
    manifest = {
        "message": PERSONAL if personal else SHARED,
        "recipients": "list.jsonl",
        "relays": [relay if personal else relay | {"batch": 100}],
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


def once(recipients: int, personal: bool, port: int, place: str | None) -> Run:
    with tempfile.TemporaryDirectory(prefix="bulkmail-linear-", dir=place) as name:
        path = write_job(Path(name), recipients, port, personal)
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-m", "bulkmail", "send", str(path), "--json", "--no-progress"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ)
        assert child.stdout is not None
        summary = json.loads(child.stdout.read())
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or summary["delivered"] != recipients:
        raise SystemExit(f"a job of {recipients:,} ended with {child.returncode}: {summary}")
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Run(recipients, usage.ru_utime + usage.ru_stime, peak, summary["seconds"])


def compare(recipients: int, rounds: int, personal: bool = False, place: str | None = None) -> str:
    found: dict[int, list[Run]] = {START: [], recipients // TENTH: [], recipients: []}
    with tempfile.TemporaryDirectory(prefix="bulkmail-linear-") as name, sink(Path(name)) as port:
        for number in range(rounds):
            for count, runs in found.items():
                runs.append(once(count, personal, port, place))
                print(f"linear    {number + 1}/{rounds} {runs[-1]}", file=sys.stderr, flush=True)
    start = median(run.cpu for run in found.pop(START))
    each = {count: median(run.cpu - start for run in runs) / (count - START) * 1e6 for count, runs in found.items()}
    head = ("recipients", "CPU µs each", "peak MB", "seconds")
    lines = [f"## {'A message each' if personal else 'A shared message'}, {recipients:,} recipients", ""]
    lines += ["| " + " | ".join(head) + " |", "| " + " | ".join(["---:"] * len(head)) + " |"]
    for count, runs in found.items():
        peak, seconds = median(run.peak_mb for run in runs), median(run.seconds for run in runs)
        lines.append(f"| {count:,} | {each[count]:.2f} | {peak:.0f} | {seconds:.1f} |")
    ratio = each[recipients] / each[recipients // TENTH]
    return "\n".join([*lines, "", f"{ratio:.3f} of the CPU each; asked: 1 ± {MOST_MORE:g}, and the same memory."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=10_000_000)
    parser.add_argument("--personal", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", help="for list and journal")
    options = parser.parse_args()
    print(compare(options.recipients, options.rounds, options.personal, options.folder))


if __name__ == "__main__":
    main()
