"""What a client really sends: smtp-sink keeps a small run of it in files."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from children import Cost, measure, running

START_SECONDS = 10.0
RECORD_SECONDS = 120.0
HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def sink_command(port: int, *options: str) -> list[str]:
    """smtp-sink on `port`: PIPELINING announced, room for a thousand connections, mail forgotten."""
    program = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin:/sbin")
    if program is None:
        raise SystemExit("smtp-sink (Debian: postfix) is missing: run scripts/install-servers as root")
    user = [] if "-u" in options or os.geteuid() else ["-u", "nobody"]
    return [program, "-4", *user, "-m", "1024", "-h", "sink.example.test", *options, f"inet:{HOST}:{port}", "512"]


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with socket.create_connection((HOST, port), timeout=1) as peer:
                if peer.recv(3) == b"220":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing greets on port {port} after {START_SECONDS:g} s")
        time.sleep(0.01)


def record(command: Callable[[int], list[str]]) -> tuple[Cost, list[bytes]]:
    """Run command(port) against a recording smtp-sink; its cost and what arrived, a file each, in no order."""
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-bench-sink-"))
    try:
        port = free_port()
        kept = folder / "kept"
        kept.mkdir()
        user = ("-u", "root") if os.geteuid() == 0 else ()
        with running(sink_command(port, *user, "-d", f"{kept}/"), log=folder / "log"):
            wait_for(port)
            cost = measure(command(port), seconds=RECORD_SECONDS)
        return cost, [file.read_bytes() for file in kept.iterdir()]
    finally:
        shutil.rmtree(folder)


def content(dumped: bytes) -> bytes:
    """The message in a file of smtp-sink's: after its X- lines and the Received field, without the LF at the end."""
    return re.split(rb"\n\tby sink[^\n]*\n\t[^\n]*\n", dumped, maxsplit=1)[1].removesuffix(b"\n")


def recipients(dumped: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"^X-Rcpt-Args: <([^>\n]*)>", dumped, re.M)]


def sender(dumped: bytes) -> str:
    found = re.search(rb"^X-Mail-Args: <([^>\n]*)>", dumped, re.M)
    return found[1].decode() if found else ""
