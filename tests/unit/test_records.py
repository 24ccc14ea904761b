"""A Record is compared, hashed and shown as a dataclass that has these functions of its own."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from bulkmail.records import Record


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ours(Record):
    name: str
    secret: str = field(default="s", repr=False)
    seen: int = field(default=0, compare=False)
    more: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Usual:
    name: str
    secret: str = field(default="s", repr=False)
    seen: int = field(default=0, compare=False)
    more: tuple[Any, ...] = ()


GIVEN = [("a",), ("a", "t"), ("a", "s", 3), ("b", "s", 0, (1,)), ("a", "s", 0, ("x", None))]


@pytest.mark.parametrize("one", GIVEN)
@pytest.mark.parametrize("other", GIVEN)
def test_the_same_are_equal_and_only_these(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (Ours(*one) == Ours(*other)) == (Usual(*one) == Usual(*other))
    assert (Ours(*one) != Ours(*other)) == (Usual(*one) != Usual(*other))
    assert (hash(Ours(*one)) == hash(Ours(*other))) == (hash(Usual(*one)) == hash(Usual(*other)))


@pytest.mark.parametrize("given", GIVEN)
def test_it_is_shown_without_what_is_not_to_be_shown(given: tuple[Any, ...]) -> None:
    assert repr(Ours(*given)) == repr(Usual(*given)).replace("Usual", "Ours")


def test_it_is_frozen_and_can_be_replaced_copied_and_pickled() -> None:
    one = Ours("a", more=(1,))
    with pytest.raises(FrozenInstanceError):
        one.name = "b"  # type: ignore[misc]
    assert replace(one, name="b") == Ours("b", more=(1,))
    assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
    assert not hasattr(one, "__dict__")


def test_it_equals_nothing_of_another_class_and_no_list_is_hashed() -> None:
    assert Ours("a") != Usual("a")
    assert Ours("a") != ("a", "s", 0, ())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours("a", more=[]))  # type: ignore[arg-type]
