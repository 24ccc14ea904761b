#!/usr/bin/env python3
"""`Connection.send` of a long stream, by DATA and by BDAT, beside a raw socket copy of the same blocks on loopback.

    stream.py [--megabytes 1024] [--rounds 3] [--checked 64]

The blocks of 64 KiB come from an iterator. Sender and receiver are processes of their own; the receivers differ only in
what they read before and behind the content. Memory is the sender's peak while it sends, above what it had when it was
connected. First a shorter stream, with dots and newlines to be mended, is received as a whole and compared by digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tables import row

BLOCK = 64 * 1024
LINE = b"x" * 76 + b"\r\n"
LEAST, MOST_MB = 0.5, 20.0  # throughput by the raw copy's; memory
RAW, DATA, BDAT = "raw copy", "DATA", "BDAT"


def blocks(size: int) -> Iterator[bytes]:
    """`size` bytes of lines that need no change; the blocks do not end where lines do."""
    text = LINE * (2 * BLOCK // len(LINE) + 2)
    for start in range(0, size, BLOCK):
        place = start % len(LINE)
        yield text[place : place + min(BLOCK, size - start)]


def rough(size: int) -> Iterator[bytes]:
    """About `size` bytes with lines that open with dots, and newlines of all kinds, also across the ends of blocks."""
    text = (b".dot\r\n..two\nlf\r" + LINE * 9 + b"\r\n.\r\n") * (BLOCK // 400)
    for number in range(size // len(text)):
        yield text[number % 97 :]


def digest(size: int, *, mended: bool = True) -> str:
    """SHA-256 of what must arrive of rough(size)."""
    content = b"".join(rough(size))
    return hashlib.sha256(re.sub(rb"\r\n|\r|\n", b"\r\n", content) if mended else content).hexdigest()


def status_kb(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1])


# -- the receiver


class Receiver:
    """One connection: what came as content is counted, or kept when its digest is wanted."""

    def __init__(self, peer: socket.socket, *, keep: bool) -> None:
        self.peer, self.keep = peer, keep
        self.buffer = bytearray(4 * BLOCK)
        self.unread = memoryview(b"")  # of what was received last
        self.kept = bytearray()
        self.size = 0
        self.tail = b""

    def read(self) -> bool:
        """Have something unread; False at the end."""
        if not self.unread:
            self.unread = memoryview(self.buffer)[: self.peer.recv_into(self.buffer)]
        return bool(self.unread)

    def more(self, most: int = 4 * BLOCK) -> int:
        """Take a piece of content; how much, 0 at the end."""
        self.read()
        piece, self.unread = self.unread[:most], self.unread[most:]
        self.take(piece)
        return len(piece)

    def line(self) -> bytes:
        """The next command; empty at the end."""
        line = b""
        while not line.endswith(b"\n") and self.read():
            head = bytes(self.unread[:100])
            size = head.find(b"\n") + 1 or len(head)
            line += head[:size]
            self.unread = self.unread[size:]
        return line

    def take(self, piece: memoryview | bytes) -> None:
        self.size += len(piece)
        self.tail = (self.tail + piece[-5:])[-5:]
        if self.keep:
            self.kept += piece

    def raw(self) -> None:
        while self.more():
            pass

    def smtp(self, *, chunking: bool) -> None:
        self.peer.sendall(b"220 stream.example.test\r\n")
        while command := self.line():
            verb = command[:4].upper()
            if verb == b"EHLO":
                offer = b"250-CHUNKING\r\n" if chunking else b""
                self.peer.sendall(b"250-stream.example.test\r\n" + offer + b"250 8BITMIME\r\n")
            elif verb == b"DATA":
                self.peer.sendall(b"354 go\r\n")
                while self.tail != b"\r\n.\r\n" and self.more():
                    pass
                self.peer.sendall(b"250 ok\r\n")
            elif verb == b"BDAT":
                left = int(command.split()[1])
                while left and (got := self.more(left)):
                    left -= got
                self.peer.sendall(b"250 ok\r\n")
            else:
                self.peer.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")

    def content(self, manner: str) -> bytes:
        """What was sent, its dots undone."""
        kept = bytes(self.kept)
        if manner == DATA:
            kept = re.sub(rb"^\.(?=.)", b"", kept.removesuffix(b".\r\n"), flags=re.M)
        return kept


def receive(manner: str, *, keep: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        peer, _ = listener.accept()
    receiver = Receiver(peer, keep=keep)
    if manner == RAW:
        receiver.raw()
    else:
        receiver.smtp(chunking=manner == BDAT)
    found = hashlib.sha256(receiver.content(manner)).hexdigest() if keep else ""
    print(json.dumps({"bytes": receiver.size, "sha256": found}))


# -- the sender


def send_raw(port: int, source: Iterator[bytes]) -> float:
    with socket.create_connection(("127.0.0.1", port)) as peer:
        started = time.perf_counter()
        for block in source:
            peer.sendall(block)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)  # the receiver has read all of it, as with SMTP
        return time.perf_counter() - started


async def send_smtp(port: int, source: Iterator[bytes]) -> tuple[float, float]:
    """Seconds, and how many MB above its state when connected the process grew."""
    from bulkmail import Connection, Envelope

    async with Connection(f"smtp://127.0.0.1:{port}?tls=never") as connection:
        idle = status_kb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        started = time.perf_counter()
        await connection.send(Envelope("a@example.test", ["b@example.test"]), source)
        return time.perf_counter() - started, (status_kb("VmHWM") - idle) / 1024


def send(manner: str, port: int, source: Iterator[bytes]) -> None:
    grown = 0.0
    if manner == RAW:
        seconds = send_raw(port, source)
    else:
        from bulkmail.net.loop import run

        seconds, grown = run(send_smtp(port, source))
    spent = time.process_time()
    print(json.dumps({"seconds": seconds, "grown_mb": grown, "cpu": spent}))


# -- the comparison


def once(manner: str, size: int, *, checked: bool = False) -> dict[str, float]:
    """One stream from a new process to a new process."""
    keep = ["--keep"] if checked else []
    me = [sys.executable, __file__, "--manner", manner, "--bytes", str(size), *keep]
    with subprocess.Popen([*me, "--receive"], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout
        port = receiver.stdout.readline().strip()
        sender = subprocess.run([*me, "--port", port], stdout=subprocess.PIPE, text=True, check=True)
        arrived = json.loads(receiver.stdout.read())
    if checked:
        if arrived["sha256"] != digest(size, mended=manner != RAW):
            raise SystemExit(f"{manner}: other content arrived than was sent, {arrived['bytes']} bytes")
    elif not size <= arrived["bytes"] <= size + 5:
        raise SystemExit(f"{manner}: {arrived['bytes']} of {size} bytes arrived")
    return dict(json.loads(sender.stdout))


def compare(size: int, checked: int, rounds: int) -> str:
    for manner in (RAW, DATA, BDAT):
        once(manner, checked, checked=True)
    runs: dict[str, list[dict[str, float]]] = {RAW: [], DATA: [], BDAT: []}
    for number in range(rounds):
        order = [RAW, DATA, BDAT]
        for manner in order[number % 3 :] + order[: number % 3]:
            runs[manner].append(once(manner, size))
            print(f"stream    {number + 1}/{rounds} {manner:9} {runs[manner][-1]}", file=sys.stderr, flush=True)
    seconds = {manner: median(run["seconds"] for run in its) for manner, its in runs.items()}
    head = ("manner", "MB/s", "÷ raw copy", "by round", "CPU s", "grew by, MB")
    lines = [f"## A stream of {size >> 20} MB from an iterator of 64 KiB blocks", "", row(head)]
    lines.append(row(["---", *["---:"] * (len(head) - 1)]))
    for manner, its in runs.items():
        ratios = [raw["seconds"] / run["seconds"] for raw, run in zip(runs[RAW], its, strict=True)]
        cells = [manner, f"{size / seconds[manner] / 1e6:,.0f}", f"{seconds[RAW] / seconds[manner]:.2f}"]
        cells += [", ".join(f"{ratio:.2f}" for ratio in ratios), f"{median(run['cpu'] for run in its):.2f}"]
        lines.append(row([*cells, f"{max(run['grown_mb'] for run in its):.1f}"]))
    lines += ["", f"Asked: ÷ raw copy at least {LEAST}, growth below {MOST_MB:g} MB. Content was compared by SHA-256."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--checked", type=int, default=64, help="megabytes of the stream that is compared by digest")
    parser.add_argument("--rounds", type=int, default=3)
    # what it runs itself with
    parser.add_argument("--manner", help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.manner is None:
        print(compare(arguments.megabytes << 20, arguments.checked << 20, arguments.rounds))
    elif arguments.receive:
        receive(arguments.manner, keep=arguments.keep)
    else:
        source = rough(arguments.bytes) if arguments.keep else blocks(arguments.bytes)
        send(arguments.manner, arguments.port, source)


if __name__ == "__main__":
    main()
