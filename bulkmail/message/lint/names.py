"""Lists of names that rules look things up in; `names.toml` has them, each with its source."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files


@cache
def _lists() -> dict[str, frozenset[str]]:
    data = tomllib.loads(files(__package__).joinpath("names.toml").read_text(encoding="utf-8"))
    split = {key: given["names"] for key, given in data.items()}
    return {key: frozenset(given.split() if isinstance(given, str) else given) for key, given in split.items()}


def names(key: str) -> frozenset[str]:
    """Of one list: freemail, shorteners, attachments, phrases."""
    return _lists()[key]
