"""The process whose work is counted: python -m counts.probe allocations|instructions|calls PROGRAM...

Each program runs three times: to warm up, then with few and with many messages. What lies between these two is what a
message costs once everything is there. Allocations are counted here and printed as JSON; for callgrind and strace the
two runs are marked by their names, and whoever started this reads their records.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from typing import Any

from counts.programs import PROGRAMS


class Allocations:
    def __init__(self) -> None:
        import _counter

        self._counter, self.found = _counter, {}

    def start(self, name: str) -> None:
        self._counter.start()

    def stop(self, name: str) -> None:
        self.found[name] = self._counter.stop()


class Instructions:
    def __init__(self) -> None:
        import _counter

        self._counter, self.found = _counter, {}

    def start(self, name: str) -> None:
        self._counter.callgrind_start()

    def stop(self, name: str) -> None:
        self._counter.callgrind_stop(name)


class Calls:
    """Marks are writes that fail: strace sees them, and they change nothing."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def start(self, name: str) -> None:
        self._mark(f"start {name}")

    def stop(self, name: str) -> None:
        self._mark(f"stop {name}")

    def _mark(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(-1, text.encode())


Probe = Allocations | Instructions | Calls
PROBES: dict[str, type[Probe]] = {"allocations": Allocations, "instructions": Instructions, "calls": Calls}


def measure(probe: Probe, name: str) -> None:
    program = PROGRAMS[name]
    for mark, count in ((None, program.few), ("few", program.few), ("many", program.many)):
        steps = program.steps(count)
        next(steps)
        gc.collect()
        if mark:
            probe.start(f"{name}: {mark}")
        next(steps)
        if mark:
            probe.stop(f"{name}: {mark}")
        for _ in steps:
            raise AssertionError(f"{name} yields more than twice")


def main(kind: str, names: list[str]) -> None:
    probe = PROBES[kind]()
    for name in names:
        measure(probe, name)
    json.dump(probe.found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
