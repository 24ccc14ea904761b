#!/usr/bin/env python3
"""What ten thousand connections cost: memory of each, and of each message beside twenty connections.

    many_connections.py [--connections 10000] [--rounds 3]

A `Mailer` opens them all: our sink holds back the reply to each first MAIL until all are connected. Memory is the
process's own (Pss of /proc/self/smaps_rollup; the kernel's buffers are not in it) before the first connect, once all
are open and each has a message under way, and when all of it is sent and they are idle. Then MAILS messages for each of
the many go over them, and as many over twenty in another process: CPU of the client, and messages/s, to the same sink.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from children import environment, running
from opening import serve
from recorder import HOST
from results import Figures
from tables import row

FEW = 20
MAILS = 10  # for each of the many, once they are open
DEADLINE = 300.0
SPARE_FILES = 500


def allow_files(count: int) -> None:
    """This process and those that it starts may have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{wanted} open files are needed, and {hard} allowed: ulimit -Hn {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def own_kb() -> int:
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


# ---- memory ----------------------------------------------------------------------------------------------------------


def hold(port: int, connections: int, messages: int) -> dict[str, float]:
    """Open them all, send a message by each, and say what each keeps; then what a message costs."""
    from bulkmail.net.loop import run
    from bulkmail.pool.lane import Lane
    from bulkmail.pool.mailer import Mailer

    found: dict[str, float] = {}

    class Watched(Mailer):
        open = 0

        def event(self, lane: Lane, name: str, session: object, error: object) -> None:
            super().event(lane, name, session, error)  # type: ignore[arg-type]
            self.open += name == "connected"
            if self.open == connections and "open" not in found:
                found["open"] = own_kb()

    def mails(count: int) -> Iterator[tuple[object, bytes]]:
        from bulkmail.smtp.envelope import Envelope

        for number in range(count):
            yield Envelope("a@x.test", [f"u{number}@x.test"]), b"Subject: x\r\n\r\n"

    async def send(mailer: Mailer, count: int) -> None:
        async for receipt in mailer.send_many(mails(count)):  # type: ignore[arg-type]
            assert receipt.error is None, receipt.error

    async def main() -> None:
        options = "tls=never&name=bench.example&idle_timeout=1h"
        async with Watched(f"smtp://{HOST}:{port}?{options}", connections=connections) as mailer:
            found["before"] = own_kb()
            await send(mailer, connections)
            await asyncio.sleep(0)
            assert mailer.open == connections, f"{mailer.open} of {connections} were opened"
            found["idle"] = own_kb()
            cpu, wall = time.process_time(), time.perf_counter()
            await send(mailer, messages)
            found["cpu"] = (time.process_time() - cpu) / messages * 1e6
            found["rate"] = messages / (time.perf_counter() - wall)

    run(main())
    kept = {name: (found[name] - found["before"]) / connections for name in ("open", "idle")}
    return kept | {name: found[name] for name in ("cpu", "rate")}


@contextmanager
def listening(options: list[str], folder: Path) -> Iterator[int]:
    """A sink of this file's own; its port."""
    log = folder / "sink.log"
    with running([sys.executable, __file__, *options], log=log) as sink:
        while not (ready := log.read_text()).endswith("\n"):
            if sink.poll() is not None:
                raise SystemExit(f"the sink ended: {ready}")
            time.sleep(0.01)
        yield int(ready.rpartition(":")[2])


def once(connections: int, messages: int, folder: Path) -> dict[str, float]:
    own = ["--connections", str(connections)]
    with listening([*own, "--serve"], folder) as port:
        client = [sys.executable, __file__, *own, "--port", str(port), "--messages", str(messages)]
        done = subprocess.run(client, capture_output=True, text=True, timeout=DEADLINE, env=environment())
    if done.returncode:
        raise SystemExit(f"many connections failed: {done.stderr[-1000:]}")
    return dict(json.loads(done.stdout))


def compare(connections: int, rounds: int) -> tuple[str, dict[str, Figures]]:
    allow_files(connections)
    few, many = [], []
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as name:
        for number in range(rounds):
            few.append(once(FEW, MAILS * connections, Path(name)))
            many.append(once(connections, MAILS * connections, Path(name)))
            print(f"many      {number + 1}/{rounds} {few[-1]} {many[-1]}", file=sys.stderr, flush=True)
    head = ("connections", "KB each, a message under way", "KB each, idle", "CPU µs/message", "messages/s")
    lines = [f"## {connections:,} connections", "", row(head), row(["---:"] * len(head))]
    for count, found in ((FEW, few), (connections, many)):
        cells = [f"{median(run[name] for run in found):,.1f}" for name in ("open", "idle", "cpu", "rate")]
        lines.append(row([f"{count:,}", *cells]))
    idle, cpu, before = (
        median(run[name] for run in found) for found, name in ((many, "idle"), (many, "cpu"), (few, "cpu"))
    )
    return "\n".join(lines), {
        "many-memory": Figures([max(run["open"], run["idle"]) for run in many], f"{idle:.1f} KB when idle"),
        "many-rate": Figures(
            [after["rate"] / before["rate"] for after, before in zip(many, few, strict=True)],
            f"{cpu:.1f} µs CPU a message; of {FEW}: {before:.1f}",
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    # what it runs itself with
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--messages", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.connections)
    elif arguments.port:
        print(json.dumps(hold(arguments.port, arguments.connections, arguments.messages)))
    else:
        print(compare(arguments.connections, arguments.rounds)[0])


if __name__ == "__main__":
    main()
