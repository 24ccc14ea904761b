"""What plain data has in common: how it is compared, hashed and shown.

`@dataclass` compiles these functions for each class anew, half of what it compiles for a frozen one; with some seventy
classes that was a twentieth of the start of a job. So a class that is loaded at each start is written

    @dataclass(frozen=True, slots=True, eq=False, repr=False)
    class Point(Record):

and behaves as without `eq=False, repr=False`. Not for what is compared or hashed for each message.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class Record:
    """The base of a frozen dataclass."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)  # type: ignore[arg-type]
        return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _compared(record: Any) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record) if field.compare)
