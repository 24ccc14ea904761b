"""How much a template may do for one recipient: steps, time, characters, and how large one value may become.

A step is a turn of a loop, a filter, a test, a call or an operation on values. What makes text longer is asked before
it is run how long its result would be, so that no limit is found only when the memory is gone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, MappingView
from functools import wraps
from typing import Any, TypeVar, cast

from jinja2.utils import Namespace

# Characters that one value, one loop, one rendered slot may have. A message this long would be refused by nearly every
# server (Gmail: 25 MB with attachments, bodies clipped at 102 KB).
MAX_OUTPUT = 1 << 20
# Characters that all values made for one recipient may have together: they are held in memory at the same time.
MAX_CHARACTERS = 1 << 26
# Steps for one recipient: some hundred times what a long list of orders takes, a second of work at most.
MAX_STEPS = 1_000_000
# Processor seconds for one recipient: other programs and a machine that sleeps do not count. The event loop stands
# still for as long.
MAX_SECONDS = 2.0
# Bits of an integer that a template may compute: enough for any amount of money, too few to stall on.
MAX_INTEGER_BITS = 4096

_LOOK_EVERY = 16  # steps between two looks at the clock ...
_SLOW = 0.02  # ... while they take less than so many seconds

_FIELD = re.compile(r"\{[^{}]*:([^{}]*)")
_NESTED_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{")
_PERCENT = re.compile(r"%(\([^)]*\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?[a-zA-Z]")

Growth = Callable[[tuple[Any, ...], dict[str, Any]], int]
T = TypeVar("T")


class LimitReached(Exception):
    """A template that goes on and on, or a value that would be too large."""


class Budget:
    """What is left for one recipient."""

    __slots__ = ("_alarm", "_characters", "_looked", "_started", "_steps")

    def __init__(self) -> None:
        self._steps = self._characters = 0
        self._alarm = 1
        self._started: float | None = None
        self._looked = 0.0

    def step(self) -> None:
        self._steps += 1
        if self._steps >= self._alarm:
            self._look()

    def _look(self) -> None:
        if self._steps > MAX_STEPS:
            raise LimitReached(f"more than {MAX_STEPS} steps for one message, does a loop run away?")
        now = time.thread_time()
        if self._started is None:
            self._started = self._looked = now
        if now - self._started > MAX_SECONDS:
            raise LimitReached(f"more than {MAX_SECONDS:g} seconds for one message, does a loop run away?")
        self._alarm = self._steps + (_LOOK_EVERY if now - self._looked < _SLOW else 1)
        self._looked = now

    def take(self, size: int) -> None:
        self._characters += size
        if self._characters > MAX_CHARACTERS:
            raise LimitReached(f"more than {MAX_CHARACTERS} characters are made for one message")


class _Active(threading.local):
    budget: Budget | None = None


# The budget of the rendering that this thread is in. Jinja2's calls lead through contexts of their own, which cannot
# carry it.
active = _Active()


def step() -> None:
    budget = active.budget
    if budget is not None:
        budget.step()


def charged(value: T) -> T:
    """The value that an operation has made. raises  LimitReached"""
    if isinstance(value, (str, bytes, list, tuple, dict)):
        refuse(len(value))
        budget = active.budget
        if budget is not None:
            budget.take(len(value))
    return value


def refuse(size: int, what: str = "a value") -> None:
    if size > MAX_OUTPUT:
        raise LimitReached(f"{what} of more than {MAX_OUTPUT} characters or items")


def weight(*values: Any) -> int:
    """About the characters of the values' text forms; counting ends soon after MAX_OUTPUT.

    A list that holds itself twice, ten times over, is small in memory only.
    """
    total = 0
    waiting = list(values)
    while waiting and total <= MAX_OUTPUT:
        value = waiting.pop()
        total += 1
        if isinstance(value, (str, bytes)):
            total += len(value)
        elif isinstance(value, int):
            total += value.bit_length() // 3
        elif isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset, MappingView)):
            waiting.extend(cast(Iterable[Any], value))
        elif isinstance(value, Namespace):
            waiting.append(value._Namespace__attrs)
    return total


def check_weight(values: tuple[Any, ...]) -> None:
    """Before values become text, or are gone through."""
    for value in values:
        if not isinstance(value, str) and value is not None:
            refuse(weight(value))


def bounded_filter(name: str, function: Callable[..., Any], first: int) -> Callable[..., Any]:
    """The filter as a step whose result has a bound. first: arguments before the filtered value (a context)."""
    growth = FILTERS.get(name)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        step()
        given = args[first:]
        if growth is not None:
            if name == "join" and not hasattr(given[0], "__len__"):
                given = (list(given[0]), *given[1:])
                args = (*args[:first], *given)
            refuse(growth(given, kwargs), f"a result of the filter {name!r}")
        check_weight(given)
        return charged(function(*args, **kwargs))

    return call


def bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        step()
        return function(*args, **kwargs)

    return call


def bounded_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Asks before a call of a method how large its result would be. returns  the arguments to call it with"""
    step()
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, (str, bytes)) and name in METHODS:
        if name == "join" and args and not hasattr(args[0], "__len__"):
            args = (list(args[0]), *args[1:])
        refuse(METHODS[name]((owner, *args), kwargs), f"a result of the method {name!r}")
    elif isinstance(owner, int) and name == "to_bytes":
        refuse(_number(_given(args, kwargs, 0, "length", 1)))
    check_weight(args)
    return args


def operation_size(operator: str, left: Any, right: Any) -> int:
    """Characters, items, or (scaled to the same bound) bits of the result; 0 where it cannot be large."""
    scale = MAX_OUTPUT // MAX_INTEGER_BITS
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(right, 0) * scale
        return (left.bit_length() + right.bit_length()) * scale if operator == "*" else 0
    if operator == "*":
        for items, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(items, (str, bytes, list, tuple)):
                return len(items) * max(times, 0)
    if operator == "+" and isinstance(left, (str, bytes, list, tuple)) and isinstance(right, type(left)):
        return len(left) + len(right)
    if operator == "%" and isinstance(left, (str, bytes)):
        return _percent_size(str(left), right)
    return 0


def _percent_size(template: str, values: Any) -> int:
    size = len(template)
    repeated = 1
    for key, width, precision in _PERCENT.findall(template):
        if "*" in (width, precision):
            raise LimitReached("a width that is itself a value ('*') is not allowed")
        size += int((width or "0")[:9]) + int((precision or "0")[:9])
        repeated += bool(key)
    return size + repeated * weight(values)


def format_size(template: str, values: tuple[Any, ...]) -> int:
    """Of `str.format`."""
    if _NESTED_FIELD.search(template):
        raise LimitReached("a format whose width is itself a value is not allowed")
    fields = template.count("{")
    widths = sum(int(digits[:9]) for spec in _FIELD.findall(template) for digits in re.findall(r"\d+", spec))
    return len(template) + widths + fields * weight(*values)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any) -> Any:
    return kwargs.get(name, args[position] if len(args) > position else default)


def _number(value: Any) -> int:
    """A width or count; what is none is left to the filter, which says so."""
    return min(int(value), 1 << 40) if isinstance(value, (int, float)) and value == value and value > 0 else 0


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _width(position: int, name: str, default: int = 0) -> Growth:
    return lambda args, kwargs: max(_length(args[0]), _number(_given(args, kwargs, position, name, default)))


def _square(shift: int) -> Growth:
    """Work that may grow with the square of the length."""
    return lambda args, kwargs: _length(args[0]) ** 2 >> shift


def _replace(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    text, old, new = args[0], _given(args, kwargs, 1, "old", ""), _given(args, kwargs, 2, "new", "")
    if not isinstance(text, bytes):
        refuse(weight(text, old, new))
        text, old, new = str(text), str(old), str(new)
    return len(text) + (text.count(old) if isinstance(old, type(text)) else 0) * _length(new)


def _join(separator: Any, items: Any) -> int:
    return weight(items) + _length(items) * _length(separator) if separator is not None else weight(items)


def _indent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    width = _given(args, kwargs, 1, "width", 4)
    each = len(width) if isinstance(width, str) else _number(width)
    return weight(args[0]) + (str(args[0]).count("\n") + 1) * each if isinstance(args[0], str) else weight(args[0])


def _wordwrap(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    text = args[0] if isinstance(args[0], str) else ""
    width = max(_number(_given(args, kwargs, 1, "width", 79)), 1)
    lines = text.count("\n") + 2 * len(text) // width + 1
    return len(text) + lines * _length(_given(args, kwargs, 3, "wrapstring", None) or "\n")


def _sum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    # Lists are added by copying what is there already, again and again.
    start = _given(args, kwargs, 2, "start", 0)
    return _length(args[0]) ** 2 if isinstance(start, (list, tuple)) else 0


def _round(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return 1 + MAX_OUTPUT if _number(_given(args, kwargs, 1, "precision", 0)) > MAX_INTEGER_BITS // 4 else 0


def _urlize(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    words = len(str(args[0]).split()) if isinstance(args[0], str) else 1
    attributes = sum(_length(_given(args, kwargs, i, name, None) or "") for i, name in ((3, "target"), (4, "rel")))
    return max(words * attributes + _length(args[0]), _square(14)(args, kwargs))


def _json(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return weight(args[0]) * (1 + _number(_given(args, kwargs, 1, "indent", 0) or 0))


def _format(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return _percent_size(args[0], kwargs or args[1:]) if isinstance(args[0], str) else 0


def _translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    table = args[1] if len(args) > 1 and isinstance(args[1], dict) else {}
    return _length(args[0]) * max((_length(value) for value in table.values() if value is not None), default=1)


def _strip(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return _length(args[0]) * _length(_given(args, kwargs, 1, "chars", None) or "") >> 10


def _tabs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    text = args[0]
    tabs = text.count(b"\t" if isinstance(text, bytes) else "\t")
    return _length(text) + int(tabs) * _number(_given(args, kwargs, 1, "tabsize", 8))


# How many characters or items come out at most, of those that may give more than a few times what they are given.
FILTERS: dict[str, Growth] = {
    "batch": _width(1, "linecount"),
    "center": _width(1, "width", 80),
    "format": _format,
    "indent": _indent,
    "join": lambda args, kwargs: _join(_given(args, kwargs, 1, "d", ""), args[0]),
    "pprint": lambda args, kwargs: 16 * weight(args[0]),  # slow
    "replace": _replace,
    "round": _round,
    "slice": _width(1, "slices"),
    "striptags": _square(14),
    "sum": _sum,
    "tojson": _json,
    "trim": _strip,
    "urlize": _urlize,
    "wordwrap": _wordwrap,
}
METHODS: dict[str, Growth] = {
    "center": _width(1, "width"),
    "expandtabs": _tabs,
    "join": lambda args, kwargs: _join(args[0], args[1] if len(args) > 1 else ()),
    "ljust": _width(1, "width"),
    "lstrip": _strip,
    "replace": _replace,
    "rjust": _width(1, "width"),
    "rstrip": _strip,
    "strip": _strip,
    "striptags": _square(14),
    "translate": _translate,
    "zfill": _width(1, "width"),
}
