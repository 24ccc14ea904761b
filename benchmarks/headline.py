#!/usr/bin/env python3
"""The table of goals of the last run of `make bench`: shown, or put into README.md and docs/performance.md.

headline.py              prints it
headline.py --readme     writes it between the marks of both files
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

import goals
import marks
from marks import ROOT

LAST = ROOT / ".bench" / "last.json"
FILES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
NAME = "the table of `make bench`"


def last() -> str:
    if not LAST.exists():
        raise SystemExit(f"{LAST} is missing: run `make bench` first")
    return goals.headline(json.loads(LAST.read_text()))


def write() -> None:
    for path in FILES:
        path.write_text(marks.put(path.read_text(), NAME, last()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write it into " + ", ".join(path.name for path in FILES))
    if parser.parse_args().readme:
        write()
    else:
        print(last())


if __name__ == "__main__":
    main()
