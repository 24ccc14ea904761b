"""Which lines of Cython sources were run, from what llvm-cov exports (lcov) of the C made of them, read from stdin.

Cython writes before the C of each line where it comes from. A line counts as run if any of its C was; C that Cython
adds (conversions, errors that cannot be) belongs to the line that it is for.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ORIGIN = re.compile(r'^\s*/\* "(.+\.p[yx][xd])":(\d+)$')
Lines = dict[str, dict[int, bool]]


def origins(source: Path) -> dict[int, tuple[str, int]]:
    """For each line of C: the file and line that it is for."""
    found = {}
    origin = None
    for number, line in enumerate(source.read_text().splitlines(), 1):
        match = ORIGIN.match(line)
        if match:
            origin = match[1], int(match[2])
        elif line == "}":  # what follows a function is not of it
            origin = None
        elif origin is not None:
            found[number] = origin
    return found


def gather(lcov: str) -> Lines:
    lines: Lines = defaultdict(dict)
    for record in lcov.split("end_of_record"):
        name = re.search(r"^SF:(.+\.c)$", record, re.MULTILINE)
        if name is None:
            continue
        where = origins(Path(name[1]))
        for number, count in re.findall(r"^DA:(\d+),(\d+)", record, re.MULTILINE):
            if int(number) in where:
                file, line = where[int(number)]
                lines[file][line] = lines[file].get(line, False) or count != "0"
    return lines


def main() -> None:
    for file, lines in sorted(gather(sys.stdin.read()).items()):
        missed = [line for line in sorted(lines) if not lines[line]]
        print(f"lines: {file}: {len(lines) - len(missed)} of {len(lines)} run{f'; not {missed}' if missed else ''}")


if __name__ == "__main__":
    main()
