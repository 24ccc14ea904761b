"""Parts of a page that a program writes: between two comments that have its name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def between(text: str, name: str) -> str:
    """What stands there now."""
    found = re.search(f"{re.escape(begin(name))}\n(.*?){re.escape(end(name))}", text, re.S)
    if not found:
        raise SystemExit(f"the page has no marks for {name}")
    return found[1]


def put(text: str, name: str, content: str) -> str:
    old = f"{begin(name)}\n{between(text, name)}{end(name)}"
    return text.replace(old, f"{begin(name)}\n{content}\n{end(name)}")


def begin(name: str) -> str:
    return f"<!-- {name}: begin -->"


def end(name: str) -> str:
    return f"<!-- {name}: end -->"
