"""What callgrind has counted, read from its file: instructions of each function itself, and of each call from one to
another, all that the callee called included."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Function = tuple[str, str]  # the file it was loaded from, and its name
NAMED = re.compile(r"(\w+)=(?:\((\d+)\))? ?(.*)")
# "calls" is followed by a line with the cost of the callee; the others change what the following lines are about.
KEYS = {"ob": "object", "fn": "name", "cob": "object", "cfn": "name"}


@dataclass
class Profile:
    itself: Counter[Function] = field(default_factory=Counter)
    calls: Counter[tuple[Function, Function]] = field(default_factory=Counter)

    def minus(self, other: Profile) -> Profile:
        """What this one has more of; a function that did less in the longer run did nothing for it."""
        return Profile(self.itself - other.itself, self.calls - other.calls)


def read(path: Path) -> Profile:
    with path.open(errors="replace") as lines:
        return parse(lines)


def parse(lines: Iterable[str]) -> Profile:
    found, names = Profile(), {"object": {}, "name": {}}
    here = {"ob": "", "fn": ""}
    callee: dict[str, str] = {}
    stream = iter(lines)
    for line in stream:
        if line[0] in "0123456789+-*":
            found.itself[here["ob"], here["fn"]] += _cost(line)
        elif line.startswith("calls="):
            called = (callee.get("cob", here["ob"]), callee["cfn"])
            found.calls[(here["ob"], here["fn"]), called] += _cost(next(stream))
            callee = {}
        elif (match := NAMED.match(line)) and match[1] in KEYS:
            table: dict[str, str] = names[KEYS[match[1]]]
            if match[3]:
                table[match[2]] = match[3]
            (callee if match[1] in ("cob", "cfn") else here)[match[1]] = table[match[2]]
    return found


def _cost(line: str) -> int:
    fields = line.split()
    return int(fields[1]) if len(fields) > 1 else 0


def attribute(profile: Profile, stage_of: dict[Function, str], *, rest: str, turns: int = 60) -> Counter[str]:
    """Instructions of each stage. What a function without a stage costs belongs to those that call it, in the
    proportion of the calls' costs; so it goes up until there is a stage. `rest` is what nobody answers for."""
    callers: dict[Function, dict[Function, int]] = {}
    for (caller, callee), cost in profile.calls.items():
        if callee not in stage_of and caller != callee:
            callers.setdefault(callee, {})[caller] = cost
    shares: dict[Function, dict[str, float]] = {one: {stage: 1.0} for one, stage in stage_of.items()}
    for _ in range(turns):  # until what goes round in circles has found its way out
        for callee, by in callers.items():
            shares[callee] = _mixed(shares, by)
    total: Counter[str] = Counter()
    for function, cost in profile.itself.items():
        its = shares.get(function, {})
        for stage, share in its.items():
            total[stage] += cost * share
        total[rest] += cost * max(0.0, 1 - sum(its.values()))
    return total


def _mixed(shares: dict[Function, dict[str, float]], by: dict[Function, int]) -> dict[str, float]:
    whole = sum(by.values())
    mixed: dict[str, float] = {}
    for caller, cost in by.items():
        for stage, share in shares.get(caller, {}).items():
            mixed[stage] = mixed.get(stage, 0.0) + share * cost / whole
    return mixed
