#!/usr/bin/env python3
"""What a crowd of clients costs the sink: memory for those that are idle, speed of the others for those that drip.

    sink_crowd.py [--idle 5000] [--dripping 1000] [--rounds 3]

idle      so many connections that have said EHLO and nothing since; the sink's resident memory, less what it had before
dripping  so many connections that send a byte a second each, half of them in a command and half in a message; and
          smtp-source with 20 connections and 2 KB messages, with and without them, in turns
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from children import cpu_seconds, running
from messages import SENDER, message
from recorder import HOST
from servers import find
from tables import row

MOST_MB, LEAST_SHARE = 100.0, 0.9
GOOD, SIZE = 20, 2048
SECONDS = 600.0
# Descriptors beside the connections'.
SPARE = 256
PLAIN, HOOKED = "plain", "with hooks"
ENVELOPE = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n"


def raise_limit(connections: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{connections} connections need {wanted} descriptors, of which this process may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


# --- the sink


def serve(kind: str) -> None:
    """A sink that discards."""
    import asyncio

    from bulkmail.net.loop import run
    from bulkmail.sink import Server

    class Hooks:
        async def on_mail(self, *arguments: object) -> None: ...

        async def on_rcpt(self, *arguments: object) -> None: ...

    async def main() -> None:
        async with Server(Hooks() if kind == HOOKED else None, listen=f"{HOST}:0", discard=True) as server:
            print(f"listening on {server.port}", flush=True)
            await asyncio.Event().wait()

    run(main())


@contextlib.contextmanager
def sink(kind: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Its port and pid."""
    with child(["--serve", kind], folder / "sink.log") as (process, ready):
        yield int(ready.split()[-1]), process.pid


@contextlib.contextmanager
def child(arguments: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """This program again, and the line that it says when it is ready."""
    with running([sys.executable, __file__, *arguments], log=log) as process:
        while not (said := log.read_text()).endswith("\n"):
            if process.poll() is not None:
                raise SystemExit(f"{arguments[0]} ended: {said}")
            time.sleep(0.01)
        yield process, said


# --- the crowd


def connect(port: int, count: int, words: list[bytes]) -> list[socket.socket]:
    """So many connections, each of which has said its turn of `words` and heard a reply to each line."""
    socks = []
    for number in range(count):
        sock = socket.create_connection((HOST, port))
        said = words[number % len(words)]
        sock.sendall(said)
        lines = said.count(b"\r\n") + 1  # and the greeting
        heard = b""
        while sum(line[3:4] == b" " for line in heard.splitlines()) < lines or not heard.endswith(b"\n"):
            heard += sock.recv(4096)
        socks.append(sock)
    return socks


def drip(port: int, count: int) -> None:
    """Until killed: a byte a second on each connection; a new one for each that is hung up on."""
    hello = b"EHLO crowd.test\r\n"
    socks = connect(port, count, [hello, hello + ENVELOPE])
    print("dripping", flush=True)
    for sock in socks:
        sock.setblocking(False)
    began = time.monotonic()
    for turn in range(1 << 30):
        with contextlib.suppress(OSError):
            socks[turn % count].send(b"x" if turn // count % 500 else b"\r\n")  # before a line is too long
        time.sleep(max(0.0, began + turn / count - time.monotonic()) if turn % 10 == 0 else 0)


# --- what is measured


def memory_of(kind: str, count: int, folder: Path) -> tuple[float, float]:
    """Resident megabytes of the sink with `count` idle connections, and kilobytes for each of them."""
    with sink(kind, folder) as (port, pid):
        connect(port, 1, [b"EHLO first.test\r\n"])[0].close()  # what the first of all makes is no connection's
        before = resident_mb(pid)
        socks = connect(port, count, [b"EHLO idle.test\r\n"])
        after = resident_mb(pid)
        with selectors.DefaultSelector() as ended:
            for sock in socks:
                ended.register(sock, selectors.EVENT_READ)
            if ended.select(0):
                raise SystemExit("the sink hung up on an idle client")
        for sock in socks:
            sock.close()
    return after, (after - before) * 1024 / count


def speed(port: int, pid: int, count: int, content: Path) -> tuple[float, float]:
    """Messages a second of smtp-source, and the sink's microseconds of CPU for each."""
    command = [find("smtp-source") or "", "-4", "-d", "-N", "-s", str(GOOD), "-m", str(count), "-F", str(content)]
    command += ["-M", "peer.example.test", "-f", SENDER, "-t", "user@example.test", f"inet:{HOST}:{port}"]
    busy, began = cpu_seconds(pid), time.perf_counter()
    subprocess.run(command, check=True, timeout=SECONDS)
    seconds = time.perf_counter() - began
    return count / seconds, (cpu_seconds(pid) - busy) / count * 1e6


def speeds(dripping: int, rounds: int, messages: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    content = folder / "good.eml"
    content.write_bytes(message(SIZE).replace(b"\r\n", b"\n"))  # which is what smtp-source reads
    found: dict[str, list[tuple[float, float]]] = {"alone": [], "in the crowd": []}
    with sink(PLAIN, folder) as (port, pid):
        speed(port, pid, GOOD, content)
        for number in range(rounds):
            found["alone"].append(speed(port, pid, messages, content))
            with child(["--drip", str(port), "--dripping", str(dripping)], folder / "crowd.log"):
                found["in the crowd"].append(speed(port, pid, messages, content))
            print(f"crowd     {number + 1}/{rounds} {found}", file=sys.stderr, flush=True)
    return found


def compare(idle: int, dripping: int, rounds: int, messages: int = 100_000) -> str:
    raise_limit(idle + dripping)
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as name:
        folder = Path(name)
        memory = {kind: memory_of(kind, idle, folder) for kind in (PLAIN, HOOKED)}
        found = speeds(dripping, rounds, messages, folder) if find("smtp-source") else {}
    return "\n".join([*memory_lines(idle, memory), "", *(speed_lines(dripping, found) if found else [])])


def memory_lines(idle: int, memory: dict[str, tuple[float, float]]) -> list[str]:
    lines = [f"## A sink with {idle:,} idle connections", "", row(("sink", "resident MB", "KB a connection"))]
    lines.append(row(("---", "---:", "---:")))
    lines += [row((kind, f"{total:.0f}", f"{each:.1f}")) for kind, (total, each) in memory.items()]
    worst = max(total for total, _ in memory.values())
    word = "reached" if worst <= MOST_MB else "MISSED"
    return [*lines, "", f"Asked: at most {MOST_MB:g} MB: {word} ({worst:.0f} MB)."]


def speed_lines(dripping: int, found: dict[str, list[tuple[float, float]]]) -> list[str]:
    lines = [f"## {GOOD} good clients beside {dripping:,} that drip, 2 KB", ""]
    lines += [
        row(("", "messages/s", "CPU µs of the sink a message", "by round, messages/s")),
        row(("---", *["---:"] * 3)),
    ]
    rates = {}
    for name, runs in found.items():
        rates[name] = median(rate for rate, _ in runs)
        cpu = median(cpu for _, cpu in runs)
        lines.append(row((name, f"{rates[name]:,.0f}", f"{cpu:.1f}", ", ".join(f"{rate:,.0f}" for rate, _ in runs))))
    share = rates["in the crowd"] / rates["alone"]
    word = "reached" if share >= LEAST_SHARE else "MISSED"
    return [*lines, "", f"Asked: at least {LEAST_SHARE:g} of the speed: {word} ({share:.2f})."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--dripping", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=100_000, help="of smtp-source, in each run")
    # what it runs itself with
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--drip", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    elif arguments.drip:
        drip(arguments.drip, arguments.dripping)
    else:
        print(compare(arguments.idle, arguments.dripping, arguments.rounds, arguments.messages))


if __name__ == "__main__":
    main()
