"""python -m counts [PROGRAM...]: what a message costs, beside what bounds.py has."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from counts import bounds, measuring
from integration.servers.smtp_sink import smtp_sink
from integration.sink_program import sink

COSTS = bounds.PIECES | bounds.WHOLES


def show_costs(names: Iterable[str], folder: Path, sinks: dict[str, str]) -> None:
    allocations = measuring.allocations(names, folder, **sinks)
    instructions = measuring.instructions(names, folder, **sinks)
    for name in names:
        held = COSTS[name]
        made, needed = sum(allocations[name].values()), sum(instructions[name].values())
        print(f'    "{name}": Cost({made:.2f}, {needed:.0f}),   # was {held.allocations}, {held.instructions}')


def show_calls(names: Iterable[str], folder: Path, sinks: dict[str, str]) -> None:
    for name, calls in measuring.system_calls(names, folder, **sinks).items():
        found = ", ".join(f"{count:.3f}" for count in bounds.by_kind(calls))
        print(f'    "{name}": Calls({found}),   # at most {", ".join(map(str, bounds.CALLS[name]))}')


def main(names: list[str]) -> None:
    names = names or list(COSTS)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with smtp_sink(folder / "smtp-sink") as plain, sink(folder, store=False) as chunking:
            sinks = {"SINK": str(plain.port), "CHUNKING_SINK": str(chunking.port)}
            show_costs(names, folder, sinks)
            show_calls([name for name in names if name in bounds.CALLS], folder, sinks)


if __name__ == "__main__":
    main(sys.argv[1:])
