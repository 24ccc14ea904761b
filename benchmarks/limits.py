#!/usr/bin/env python3
"""What limits cost, and whether they are kept: CPU time a message of `bulkmail send` with none, some and all of them.

    limits.py [--recipients 50000] [--rounds 5] [--domains 200] [--connections 20] [--without CHUNKING] [--sorted]

Each kind sends the same list to the same `bulkmail sink --discard`, one after the other, round by round. The limits are
so high that none holds anything up: what is measured is what having them costs. A last run (`bound`) has a global
rate that does: its rate is what the sink counted in the middle of it. Figures are medians; a message's CPU is that of
the whole process, less that of a job with one recipient.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from children import Cost, measure
from messages import write_job

RUN_SECONDS = 600.0
FREE = "10000000/s"  # holds nothing up
FILLER = 1300  # characters of prose: messages of 2 KB
KINDS = ("none", "egresses", "global", "domains", "all")


@contextmanager
def sink(without: list[str]) -> Iterator[str]:
    """The URL of a sink in its own process."""
    hidden = [word for extension in without for word in ("--without", extension)]
    command = [sys.executable, "-m", "bulkmail", "sink", "--listen", "127.0.0.1:0", "--discard", *hidden]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield "smtp://" + line.rpartition("smtp://")[2].split()[0] if "smtp://" in line else _url(line)
    finally:
        process.terminate()
        process.wait(10)


def _url(line: str) -> str:
    port = line.partition("127.0.0.1:")[2].split()[0].strip(",.")
    return f"smtp://127.0.0.1:{port}"


def write(folder: Path, kind: str, url: str, args: argparse.Namespace, recipients: int) -> Path:
    """A job with the limits of one kind; returns the manifest's path."""
    path = write_job(folder, size=2048, filler=FILLER, recipients=1, url=url, connections=args.connections)
    names = [f"d{number % args.domains}.test" for number in range(recipients)]
    if args.sorted:
        names.sort()
    else:
        random.Random(1).shuffle(names)
    (folder / "recipients.jsonl").write_text(
        "".join(
            f'{{"email": "user{number}@{name}", "name": "Reader {number}", "id": "r{number:07d}"}}\n'
            for number, name in enumerate(names)
        )
    )
    manifest: dict[str, Any] = json.loads(path.read_text())
    limits: dict[str, Any] = {}
    if kind in ("egresses", "all"):
        rate = {"rate": FREE} if kind == "all" else {}
        manifest["egress"] = {f"e{n}": {"local_address": f"127.0.0.{n + 2}"} | rate for n in range(3)}
        manifest["relays"][0]["egress"] = list(manifest["egress"])
    if kind in ("global", "all"):
        limits["rate"] = FREE
    if kind == "bound":
        limits["rate"] = f"{args.bound}/s"
    if kind in ("domains", "all"):
        limits["domains"] = {f"d{n}.test": {"rate": args.domain_rate} for n in range(args.domains)}
    path.write_text(json.dumps(manifest | {"limits": limits}))
    return path


def run(kind: str, url: str, args: argparse.Namespace, recipients: int) -> Cost:
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:
        path = write(Path(folder), kind, url, args, recipients)
        command = [sys.executable, "-m", "bulkmail", "send", str(path), "--json", "--no-progress"]
        cost = measure(command, seconds=RUN_SECONDS)
    if cost.status or cost.result().get("delivered") != recipients:
        raise RuntimeError(f"{kind}: status {cost.status}: {cost.errors[-1000:]} {cost.output[-500:]}")
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--domains", type=int, default=200)
    parser.add_argument("--domain-rate", default=FREE)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--sorted", action="store_true")
    parser.add_argument("--bound", type=int, default=0, help="recipients a second of the last run; 0: none")
    args = parser.parse_args()
    kinds, costs = args.kinds.split(","), {}
    with sink(args.without) as url:
        for turn in range(args.rounds):
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                start = run(kind, url, args, 1).cpu
                cost = run(kind, url, args, args.recipients)
                costs.setdefault(kind, []).append(((cost.cpu - start) / args.recipients * 1e6, cost))
        base = statistics.median(cpu for cpu, _ in costs[kinds[0]])
        print(f"{'limits':10} {'us CPU/msg':>10} {'of ' + kinds[0]:>8} {'spread':>14} {'msg/s':>8} {'peak MB':>8}")
        for kind in kinds:
            values = [cpu for cpu, _ in costs[kind]]
            middle = statistics.median(values)
            rate = statistics.median(args.recipients / cost.wall for _, cost in costs[kind])
            peak = max(cost.peak_mb for _, cost in costs[kind])
            spread = f"{min(values):.1f}-{max(values):.1f}"
            print(f"{kind:10} {middle:10.2f} {middle / base:8.2f} {spread:>14} {rate:8.0f} {peak:8.0f}")
        if args.bound:
            cost = run("bound", url, args, args.recipients)
            rate = args.recipients / cost.result()["seconds"]
            print(f"bound by {args.bound}/s: {rate:.0f}/s, {rate / args.bound:.3f} of it")


if __name__ == "__main__":
    main()
