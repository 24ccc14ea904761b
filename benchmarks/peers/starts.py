#!/usr/bin/env python3
"""How long a program is in coming: `import bulkmail` and `bulkmail --help`, whole processes, nothing subtracted.

    starts.py [--times 20]

They take turns with Python alone, which is shown beside them. The first time of each, which may still write .pyc files,
is not counted.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from children import Cost, measure
from results import Figures
from tables import row

IMPORT, HELP, PYTHON = "import", "help", "python"
COMMANDS = {
    PYTHON: [sys.executable, "-c", "pass"],
    IMPORT: [sys.executable, "-c", "import bulkmail"],
    HELP: [sys.executable, "-m", "bulkmail", "--help"],
}
TITLES = {PYTHON: "Python alone", IMPORT: "`import bulkmail`", HELP: "`bulkmail --help`"}
MOST_MS = {IMPORT: 40.0, HELP: 120.0}
DEADLINE = 60.0


def play(times: int) -> dict[str, list[Cost]]:
    runs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    for number in range(times + 1):
        for name, command in COMMANDS.items():
            cost = measure(command, seconds=DEADLINE)
            if cost.status:
                raise SystemExit(f"{' '.join(command)}: status {cost.status}, {cost.errors[-500:]}")
            if number:
                runs[name].append(cost)
    return runs


def compare(times: int) -> tuple[str, dict[str, Figures]]:
    """The table, and the milliseconds of the two that are asked for."""
    runs = play(times)
    head = ("process", "ms", "least", "most", "CPU ms", "asked")
    lines = [f"## Starting, {times} times each", "", row(head), row(["---", *["---:"] * 5])]
    figures = {}
    for name, its in runs.items():
        wall, cpu = [cost.wall * 1e3 for cost in its], median(cost.cpu for cost in its) * 1e3
        cells = [TITLES[name], *(f"{one:.1f}" for one in (median(wall), min(wall), max(wall), cpu))]
        lines.append(row([*cells, f"≤ {MOST_MS[name]:g}" if name in MOST_MS else ""]))
        figures[name] = Figures(wall, f"{cpu:.0f} ms of CPU")
    del figures[PYTHON]
    return "\n".join(lines), figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    print(compare(parser.parse_args().times)[0])


if __name__ == "__main__":
    main()
