"""`where`: right as Jinja2 is, whichever way it is evaluated, and bounded as templates are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.job.where import Where

ROW = {"email": "ann@example.com", "country": "DE", "age": "18", "score": 7, "tags": ["vip", "new"], "note": None}

TRUE = [
    "country == 'DE'",
    "country == 'DE' and age | int >= 18",
    "country in ('AT', 'DE')",
    "country in ['AT', 'DE'] or nobody_asks_for_this",
    "not (score > 7)",
    "5 < score <= 7",
    "email.endswith('@example.com')",
    "'vip' in tags",
    "tags | length == 2",
    "country | lower == 'de'",
    "age is defined and phone is undefined",
    "phone is undefined or phone",
    "country != 'FR' and country not in ('CH',)",
    "phone | default('+49') == '+49'",
    "range(3) | sum == 3",
    "tags == ['vip', 'new']",
    "true and not false and not none",
    "score",
]
FALSE = ["country == 'FR'", "age | int > 18", "score > 7", "'VIP' in tags", "tags == ('vip', 'new')", "0", "''"]


@pytest.mark.parametrize("text", TRUE)
def test_who_is_meant(text: str) -> None:
    assert Where(text)(dict(ROW)) is True


@pytest.mark.parametrize("text", FALSE)
def test_who_is_not_meant(text: str) -> None:
    assert Where(text)(dict(ROW)) is False


def test_a_field_wins_over_what_stands_in_for_it() -> None:
    where = Where("country == 'DE'", {"country": "DE"})
    assert where({"email": "a@x.org"})
    assert not where({"email": "a@x.org", "country": "FR"})
    assert Where("country is defined", {"country": "DE"})({"email": "a@x.org"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("phone == '1'", "'phone' is undefined"),
        ("age > 18", r"not supported between .*FIELD \| int makes one of it"),
        ("score / 0 > 1", "division by zero"),
        ("range(1000000) | list", "Range too big"),
        ("'x' * 100000000 == country", "more than"),
        ("email.__class__", "unsafe"),
        ("country.x == 1", "has no attribute"),
    ],
)
def test_what_cannot_be_said_of_a_row_is_a_sentence(text: str, why: str) -> None:
    where = Where(text)
    with pytest.raises(MessageError, match=why) as caught:
        where(dict(ROW))
    assert str(caught.value).startswith("where, line 1: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["country ==", "a b", "a %} x {% if b", "{{ a }}", "a | nosuch", "a is nosuch", "(" * 400, "x = 1", "{% if a %}"],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(MessageError, match="where"):
        Where(text)


def test_rows_are_data_and_never_code() -> None:
    row = {"email": "a@x.org", "country": "DE'] or row['email"}
    assert not Where("country == 'DE'")(row)
    assert Where('"\\"] or base[\\"" != country')(row)


PARTS = st.deferred(
    lambda: st.one_of(
        st.sampled_from(
            ["a", "b", "c", "missing", "1", "2.5", "'x'", "''", "'12'", "none", "true", "['x', 1]", "('x',)"]
        ),
        st.builds(
            "({} {} {})".format, PARTS, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "and", "or", "in"]), PARTS
        ),
        st.builds("(not {})".format, PARTS),
        st.builds("({} | {})".format, PARTS, st.sampled_from(["int", "lower"])),
        st.builds("({} is {})".format, st.sampled_from(["a", "missing"]), st.sampled_from(["defined", "undefined"])),
    )
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "x", "12", "X", ["x"], {"x": 1}]))


@given(PARTS, VALUES, VALUES)
def test_comparisons_mean_what_jinja2_means(text: str, a: Any, b: Any) -> None:
    where = Where(text, {"c": "x"})
    row = {"email": "e@x.org", "a": a, "b": b}
    quick, slow = outcome(where, row), Where(text, {"c": "x"})
    slow._quick = None
    assert quick == outcome(slow, row)


def outcome(where: Where, row: dict[str, Any]) -> object:
    try:
        return where(row)
    except MessageError as error:
        return str(error)
