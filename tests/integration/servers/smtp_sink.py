"""Postfix's smtp-sink: an SMTP server that takes and forgets, with switches for its faults (smtp-sink(1))."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .common import HOST, Server, free_port, require, stop, wait_for_greeting

BACKLOG = "512"  # as many connections as a test may open at once


@dataclass(frozen=True)
class SmtpSink(Server):
    """A running smtp-sink. `dump`: where it keeps what it took, one file a message, if asked to."""

    dump: Path | None = None
    pid: int = 0

    def dumped(self) -> list[bytes]:
        """The messages kept so far: smtp-sink's own X- lines about the envelope, then the content (LF line ends)."""
        assert self.dump is not None, "start it with keep=True"
        return [file.read_bytes() for file in sorted(self.dump.iterdir())]


@contextmanager
def smtp_sink(folder: Path, *options: str, keep: bool = False) -> Iterator[SmtpSink]:
    """Run smtp-sink with `options`, such as "-r", "RCPT" (refuse every RCPT with a 4xx reply).

    folder   an empty or new one, for its log and (keep=True) the messages
    """
    program = require("smtp-sink")
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "smtp-sink.log"
    command = [program, "-4", "-h", "sink.example.test", "-m", "1024", *options]
    dump = folder / "messages" if keep else None
    if dump:
        dump.mkdir()
        command += ["-d", f"{dump}/"]
    if os.geteuid() == 0:
        # It refuses to run as root. Whoever reads the messages is root, so who owns them does not matter.
        command += ["-u", "root" if keep else "nobody"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"inet:{HOST}:{port}", BACKLOG], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        refuses_connect = any("CONNECT" in option.upper() for option in options)
        wait_for_greeting(process, port, log, implicit_tls=refuses_connect)
        yield SmtpSink(port, dump=dump, pid=process.pid)
    finally:
        stop(process)
