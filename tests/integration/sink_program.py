"""`bulkmail sink` as a program, for clients that know nothing of us."""

from __future__ import annotations

import json
import mailbox
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration import cli_program
from integration.servers.common import START_SECONDS, STOP_SECONDS, stop


@dataclass
class Sink:
    """A running sink. `ports` in the order of --listen; `counts` and `stderr` once it has ended."""

    process: subprocess.Popen[str]
    folder: Path
    ports: list[int]
    counts: dict[str, int] = field(default_factory=dict)
    stderr: str = ""

    @property
    def port(self) -> int:
        return self.ports[0]

    def envelopes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "envelopes.jsonl").read_text("utf-8").splitlines()]

    def contents(self) -> list[bytes]:
        """The messages' bytes, in the order of envelopes.jsonl; and that `mailbox` can read them."""
        assert len(mailbox.Maildir(self.folder, create=False)) == len(self.envelopes())
        return [(self.folder / envelope["file"]).read_bytes() for envelope in self.envelopes()]

    def end(self) -> dict[str, int]:
        """SIGTERM; the counts."""
        self.process.terminate()
        out, self.stderr = self.process.communicate(timeout=STOP_SECONDS)
        assert self.process.returncode == 0, self.stderr
        self.counts = json.loads(out.splitlines()[-1])
        return self.counts


@contextmanager
def sink(folder: Path, *options: str, listeners: int = 1, store: bool = True) -> Iterator[Sink]:
    """Run `bulkmail sink --json` on free ports, storing in `folder`/box unless told not to."""
    listen = ["--listen=127.0.0.1:0"] * listeners
    keep = ["--store", str(folder / "box")] if store else [] if "--mbox" in options else ["--discard"]
    process = cli_program.start("sink", *listen, *keep, "--json", *options, cwd=folder)
    try:
        yield Sink(process, folder / "box", read_ports(process, listeners))
    finally:
        stop(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def read_ports(process: subprocess.Popen[str], listeners: int) -> list[int]:
    """The ports from the lines a sink prints when it is ready; one that says nothing is killed."""
    assert process.stdout is not None
    watch = threading.Timer(START_SECONDS, process.kill)
    watch.start()
    try:
        lines = [process.stdout.readline() for _ in range(listeners)]
    finally:
        watch.cancel()
    found = [re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line) for line in lines]
    if not all(found):
        process.kill()
        raise AssertionError(f"the sink said {lines}")
    return [int(match[1]) for match in found if match]
