"""The relays of a campaign: the embedded sink in a process of its own, which notes who has a message before it says so.

The notes are a file that outlives it: a line is the time (CLOCK_MONOTONIC) and the recipients of a message.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bulkmail.net.loop import run
from bulkmail.sink.server import Server

# What a relay does on a bad day, each now and then.
FAULTS = (
    "mail:421 4.3.2 Closing@0.1%",
    "mail:451 4.3.0 Later@0.2%",
    "rcpt:450 4.2.1 Later@0.4%",
    "rcpt:550 5.1.1 Unknown@0.3%",
    "rcpt:drop@0.1%",
    "data:452 4.3.1 No room@0.2%",
    "data:drop@0.1%",
    "body:451 4.3.0 Later@0.2%",
    "body:554 5.6.0 No@0.1%",
    "body:421 4.3.2 Closing@0.1%",
    "body:drop@0.1%",
    "body:hang@0.03%",
    "mail:hang@0.02%",
    "greeting:421 4.3.2 Busy@2%",
    "ehlo:drop@1%",
)
TAKEN_AND_SILENT = 0.0004  # a message that is taken and never answered


class Notes:
    """A store that keeps nothing of a message but who has it."""

    def __init__(self, path: Path, seed: int, silent: float) -> None:
        self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._chance, self._silent = random.Random(seed), silent

    def begin(self, message: Any) -> Any:
        return _Note(self, message)

    def take(self, recipients: list[str]) -> Any:
        os.write(self._log, f"{time.monotonic():.9f} {' '.join(recipients)}\n".encode())
        return asyncio.sleep(3600) if self._chance.random() < self._silent else None

    def close(self) -> None: ...


class _Note:
    def __init__(self, store: Notes, message: Any) -> None:
        self._store, self._message = store, message

    def write(self, chunk: bytes) -> None: ...

    def commit(self) -> Any:
        return self._store.take(list(self._message.recipients))

    def abandon(self) -> None: ...


class Sink:
    """faulty: with FAULTS. It can die and come back at its port."""

    def __init__(self, folder: Path, name: str, seed: int, faulty: bool) -> None:
        self._log, self._seed, self._faulty = folder / f"{name}.taken", seed, faulty
        self._log.touch()
        self._read, self.port, self.pid = 0, 0, 0
        self.start()

    def start(self) -> None:
        """Returns when it listens."""
        ready, say = os.pipe()
        self._seed += 1
        self.pid = os.fork()
        if not self.pid:
            self._serve(say)
        os.close(say)
        told = os.read(ready, 10)
        os.close(ready)
        if not told:
            raise RuntimeError("a sink did not start")
        self.port = int(told)

    def _serve(self, say: int) -> None:
        try:
            run(self._main(say))
        finally:
            os._exit(1)

    async def _main(self, say: int) -> None:
        faults = FAULTS if self._faulty else ()
        server = Server(listen=f"127.0.0.1:{self.port}", fault=faults, seed=self._seed, max_recipients=1000)
        server.store = Notes(self._log, self._seed, TAKEN_AND_SILENT if self._faulty else 0.0)
        async with server:
            os.write(say, str(server.port).encode())
            os.close(say)
            await asyncio.Event().wait()

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def look(self, taken: defaultdict[str, list[float]]) -> None:
        """Add what it has taken since the last look: the moments, by address."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            moment, *recipients = line.split()
            for address in recipients:
                taken[address].append(float(moment))
