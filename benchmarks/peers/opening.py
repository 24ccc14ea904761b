#!/usr/bin/env python3
"""How long it takes to open many connections over many egresses, and what each connection keeps in memory.

    opening.py [--connections 1000] [--egresses 50] [--rounds 3]

The egresses are addresses 127.0.0.1, 127.0.0.2... of microsocks, one each (in the first round one process serves them
all); the server is our sink, which holds back the reply to each first MAIL until all are connected, so that no
connection is finished before the last is open. `seconds` is from the first connect to the last connection being open.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from children import running
from recorder import HOST, free_port
from servers import find, microsocks, until_open
from tables import row

MOST_SECONDS, MOST_KB = 3.0, 60.0
DEADLINE = 120.0
MAILS = 5  # for each connection: what is given to some ahead must leave one for each of the others


def resident_kb() -> int:
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line).split()[1])


def serve(connections: int) -> None:
    """Our sink; no MAIL is answered before so many connections have sent one."""
    from bulkmail.sink import Server

    class Hooks:
        def __init__(self) -> None:
            self.count, self.all_here = 0, asyncio.Event()

        async def on_mail(self, session: object, address: str, parameters: object) -> None:
            self.count += 1  # the first of each connection: the others wait behind it
            if self.count >= connections:
                self.all_here.set()
            await self.all_here.wait()

    async def main() -> None:
        async with Server(Hooks(), listen=f"{HOST}:0", discard=True) as server:
            print(f"listening on {HOST}:{server.port}", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


def open_all(port: int, proxies: int, connections: int, egresses: int) -> dict[str, float]:
    """Open them all, send a message by each, and say what it took."""
    from bulkmail.net.loop import run
    from bulkmail.pool.lane import Lane
    from bulkmail.pool.mailer import Mailer
    from bulkmail.smtp.envelope import Envelope

    opened: list[float] = []

    class Watched(Mailer):
        def event(self, lane: Lane, name: str, session: object, error: object) -> None:
            super().event(lane, name, session, error)  # type: ignore[arg-type]
            if name == "connected":
                opened.append(time.perf_counter())
            if len(opened) == connections and "memory" not in found:
                gc.collect()
                found["memory"] = resident_kb()

    found: dict[str, float] = {}

    async def main() -> None:
        ways = [f"socks5://127.0.0.{number}:{proxies}" for number in range(1, egresses + 1)]
        url = f"smtp://{HOST}:{port}?tls=never&name=bench.example"
        async with Watched(url, connections=connections, egress=ways) as mailer:
            before, begun = resident_kb(), time.perf_counter()
            mails = (
                (Envelope("a@x.test", [f"u{n}@x.test"]), b"Subject: x\r\n\r\n") for n in range(MAILS * connections)
            )
            count = 0
            async for receipt in mailer.send_many(mails):
                assert receipt.error is None, receipt.error
                count += 1
            assert count == MAILS * connections
            found["seconds"] = opened[connections - 1] - begun
            found["kb"] = (found["memory"] - before) / connections

    run(main())
    return {"seconds": found["seconds"], "kb": found["kb"]}


def once(connections: int, egresses: int, folder: Path) -> dict[str, float]:
    proxies = free_port()
    if find("microsocks") is None:
        raise SystemExit("microsocks is not installed: sudo scripts/install-servers")
    own = [sys.executable, __file__, "--connections", str(connections), "--egresses", str(egresses)]
    log = folder / "sink.log"
    with (
        running(microsocks(proxies, "0.0.0.0"), log=folder / "microsocks.log"),
        running([*own, "--serve"], log=log) as sink,
    ):
        until_open(proxies)
        while not (ready := log.read_text()).endswith("\n"):
            if sink.poll() is not None:
                raise SystemExit(f"the sink ended: {ready}")
        ports = ["--port", ready.rpartition(":")[2].strip(), "--proxies", str(proxies)]
        done = subprocess.run([*own, *ports], capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        raise SystemExit(f"opening failed: {done.stderr[-1000:]}")
    return dict(json.loads(done.stdout))


def compare(connections: int, egresses: int, rounds: int) -> str:
    runs = []
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:
        for number in range(rounds):
            runs.append(once(connections, egresses, Path(folder)))
            print(f"opening   {number + 1}/{rounds} {runs[-1]}", file=sys.stderr, flush=True)
    head = ("connections", "egresses", "seconds", "KB a connection", "by round, seconds")
    cells = [f"{connections:,}", str(egresses), f"{median(run['seconds'] for run in runs):.2f}"]
    cells += [f"{median(run['kb'] for run in runs):.0f}", ", ".join(f"{run['seconds']:.2f}" for run in runs)]
    lines = [f"## {connections:,} connections through microsocks", "", row(head)]
    lines += [row(["---:"] * len(head)), row(cells), ""]
    return "\n".join([*lines, f"Asked: below {MOST_SECONDS:g} s and {MOST_KB:g} KB a connection."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--egresses", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    # what it runs itself with
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--proxies", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.connections)
    elif arguments.port:
        print(json.dumps(open_all(arguments.port, arguments.proxies, arguments.connections, arguments.egresses)))
    else:
        print(compare(arguments.connections, arguments.egresses, arguments.rounds))


if __name__ == "__main__":
    main()
