"""Limits of a running job that are changed by name: "rate", "relay.main.connections", "domain.gmail.com.rate"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bulkmail.errors import ConfigError
from bulkmail.records import Record
from bulkmail.url import OPTIONS
from bulkmail.urlparts import listed, nearest, quoted
from bulkmail.values import Rate, parse_rate

KEYS = ("rate", "connections")
NONE = ("none", "off")  # in place of a value: no limit


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Change(Record):
    """name: as the user wrote it; scope: "job", "relay", "egress" or "domain", `of` its name ("" of the job).

    key: "rate" (a Rate or None: no limit) or "connections" (a number; of all but a relay also None).
    """

    name: str
    scope: str
    of: str
    key: str
    value: Rate | int | None


def parse_changes(limits: Mapping[str, Any], known: Mapping[str, Iterable[str]]) -> list[Change]:
    """known: the names of each scope, such as {"relay": ["main"], "egress": [], "domain": ["gmail.com"]}.

    raises  ConfigError  a name that there is not, with those that there are; or a value that is none
    """
    return [_change(str(name), value, known) for name, value in limits.items()]


def _change(name: str, value: Any, known: Mapping[str, Iterable[str]]) -> Change:
    if name in KEYS:
        return Change(name, "job", "", name, _value(name, name, value, may_be_none=True))
    scope, _, rest = name.partition(".")
    of, _, key = rest.rpartition(".")
    if scope not in known or key not in KEYS or not of:
        names = [*KEYS, *(f"{one}.NAME.{key}" for one in known for key in KEYS)]
        raise ConfigError(f"there is no limit {quoted(name)}, expected {listed(names)}{nearest(name, names)}")
    there = list(known[scope])
    if of not in there:
        said = f"there is no {scope} {quoted(of)}"
        those = f"; there is {listed(map(quoted, there))}" if there else f"; the job has no {scope} with a name"
        raise ConfigError(f"{quoted(name)}: {said}{those}{nearest(of, there)}")
    return Change(name, scope, of, key, _value(name, key, value, may_be_none=key == "rate" or scope != "relay"))


def _value(name: str, key: str, value: Any, *, may_be_none: bool) -> Rate | int | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in NONE):
        if may_be_none:
            return None
        raise ConfigError(f"{quoted(name)} is {quoted(value)}, expected a whole number from 1")
    if key == "rate":
        return parse_rate(value, quoted(name))
    number: int = OPTIONS["connections"].metadata["parse"](value, quoted(name))
    return number


def words(rate: float | None) -> str | None:
    """A rate for people: 33.333 a second is "2000/m"; None where there is none."""
    if rate is None:
        return None
    for seconds, unit in ((1, "s"), (60, "m"), (3600, "h"), (86400, "d")):
        count = rate * seconds
        if abs(count - round(count)) < 1e-6 * count:
            return f"{round(count)}/{unit}"
    return f"{rate:.6g}/s"
