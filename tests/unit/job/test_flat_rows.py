"""A row that is only looked at is judged as the row that is decoded."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.job.flat_rows import find_email
from bulkmail.job.rows import MAX_ROW, RowParser

FIELDS = ("email", "name", "id")


def batch_of(data: bytes, keep: bool, cut: int = 0, **options: Any) -> SimpleNamespace:
    """The rows of data, given `cut` more bytes at a time (0: at once)."""
    batch = SimpleNamespace(numbers=[], offsets=[], addresses=[], rows=[], problems=[], failed=[], cut=0)
    parser = RowParser("jsonl", keep=keep, **options)
    held, pos, base, end = b"", 0, 0, 0
    while end < len(data) or pos < len(held):
        step = data[end : end + cut] if cut else data[end:]
        end += len(step)
        held, base, pos = held[pos:] + step, base + pos, 0
        pos = parser.take(held, pos, base, end == len(data), batch, 1 << 30)
    return batch


def check(data: bytes, cut: int = 0, **options: Any) -> SimpleNamespace:
    """Rows looked at, which must be those decoded, in all that a fill needs of them."""
    decoded, looked_at = batch_of(data, True, **options), batch_of(data, False, cut, **options)
    assert looked_at.rows == []
    for name in ("numbers", "offsets", "addresses", "problems", "failed"):
        assert getattr(looked_at, name) == getattr(decoded, name), name
    assert decoded.addresses == [row["email"] for row in decoded.rows]
    return decoded


USUAL = [
    b'{"email":"a@x.org"}',
    b' { "name" :\t"Ann" , "email": "a.b+c@mail.x.org" } ',
    b'{"email":"a@x.org","name":"M\xc3\xbcller \xe2\x82\xac \xf0\x9f\x98\x80","id":-0.5,"ok":true,"no":false}',
    b'{"id":12345678901234567890,"email":"a@x.org","name":"","x":null,"x":1,"":0}',
    b'{"email":"a@x.org","name":"exactly 8","id":0}',
]
UNUSUAL = [
    b"",
    b"{}",
    b"null",
    b'{"email":"a@x.org",}',
    b'{"email":"a@x.org"} x',
    b'{"email":"a@x.org"}{}',
    b'{"email":"a@x.org"',
    b'{"email":"a@x.org","id":01}',
    b'{"email":"a@x.org","id":+1}',
    b'{"email":"a@x.org","id":1.}',
    b'{"email":"a@x.org","id":.5}',
    b'{"email":"a@x.org","id":-}',
    b'{"email":"a@x.org","id":1e400}',
    b'{"email":"a@x.org","id":1e5}',
    b'{"email":"a@x.org","id":' + b"9" * 400 + b"}",
    b'{"email":"a@x.org","id":NaN}',
    b'{"email":"a@x.org","id":tru}',
    b'{"email":"a@x.org","id":nullx}',
    b'{"email":"a@x.org" "id":1}',
    b'{"email":"a@x.org","id" 1}',
    b'{"email":"a@x.org",id:1}',
    b"{'email':'a@x.org'}",
    b'{"email":null}',
    b'{"email":7}',
    b'{"email":"a@x.org","email":"b@x.org"}',
    b'{"email":"a@x.org","email":null}',
    b'{"email":"b@\xc3\xbc.org"}',
    b'{"email":" a@x.org "}',
    b'{"email":"nobody"}',
    b'{"email":"a\\u0040x.org"}',
    b'{"\\u0065mail":"a@x.org"}',
    b'{"email":"a@x.org","name":"a\\nb"}',
    b'{"email":"a@x.org","name":"\\u0000"}',
    b'{"email":"a@x.org","name":"\\ud800"}',
    b'{"email":"a@x.org","name":"a\rb"}',
    b'{"email":"a@x.org","name":"a\x00b"}',
    b'{"email":"a@x.org","name":"a\x1fb"}',
    b'{"email":"a@x.org","name":"\xff"}',
    b'{"email":"a@x.org","name":"\xc0\x80"}',
    b'{"email":"a@x.org","name":"\xe0\x9f\xbf"}',
    b'{"email":"a@x.org","name":"\xed\xa0\x80"}',
    b'{"email":"a@x.org","name":"\xf0\x8f\xbf\xbf"}',
    b'{"email":"a@x.org","name":"\xf4\x90\x80\x80"}',
    b'{"email":"a@x.org","name":"\xe2\x82"}',
    b'{"email":"a@x.org","name":"\xe2\x82',
    b'{"email":"a@x.org","deep":[]}',
    b'{"email":"a@x.org","deep":{"email":"b@x.org"}}',
    b'\xef\xbb\xbf{"email":"a@x.org"}',
    b'{"email":"a@x.org"}\x00',
    b'{"email":"a@x.org"}\r',
]


@pytest.mark.parametrize("row", USUAL)
def test_a_usual_row_is_taken_without_decoding_it(row: bytes) -> None:
    assert find_email(row) == json.loads(row)["email"]
    assert check(row, required=("email",)).problems == []


@pytest.mark.parametrize("row", UNUSUAL)
def test_whatever_is_unusual_is_left_to_the_decoder(row: bytes) -> None:
    assert find_email(row) is None
    check(row + b"\n" + USUAL[0], breakless=("name",))


def test_a_row_lacks_a_field_that_is_missing_or_null_at_last() -> None:
    rows = [b'{"email":"a@x.org"}', b'{"email":"a@x.org","name":null}', b'{"email":"a@x.org","name":"A","name":null}']
    rows += [b'{"email":"a@x.org","Name":"A"}', b'{"name":"A","email":"a@x.org"}']
    for row in rows[:-1]:
        assert find_email(row, ["name"]) is None
    assert find_email(rows[-1], ["name"]) == "a@x.org"
    assert len(check(b"\n".join(rows), required=("name",)).problems) == 4


def test_many_required_fields_are_all_looked_for() -> None:
    for count in (63, 64, 65):
        names = [f"field{i}" for i in range(count)]
        whole = json.dumps({"email": "a@x.org"} | dict.fromkeys(names, 1))
        short = json.dumps({"email": "a@x.org"} | dict.fromkeys(names[:-1], 1))
        assert len(check(f"{whole}\n{short}\n".encode(), required=names).problems) == 1


def test_a_row_that_is_too_long_is_no_row_here_either() -> None:
    long = b'{"email":"a@x.org","name":"' + b"x" * MAX_ROW + b'"}'
    assert len(check(USUAL[0] + b"\n" + long + b"\n" + USUAL[0], cut=1 << 16).problems) == 1


def test_cutting_the_file_anywhere_changes_nothing() -> None:
    data = b"\r\n".join([*USUAL, *UNUSUAL, *USUAL])
    for cut in (1, 2, 3, 7, 8, 9, 64, 1000):
        check(data, cut, required=("email",), breakless=("name",))


values = st.one_of(
    st.text(), st.text('ab\u00e4\U0001f600"\\\n\0'), st.none(), st.booleans(), st.integers(), st.floats(), st.just([1])
)
addresses = st.one_of(
    st.sampled_from(["a@x.org", "Ann.B@mail.example", " a@x.org", "a@b", "\u00e4@x.org", "@"]), values
)
objects = st.dictionaries(st.sampled_from([*FIELDS, "other", "\u00e4", ""]), values, max_size=5)
rows = st.builds(
    lambda fields, address, ascii, compact: json.dumps(
        fields | {"email": address}, ensure_ascii=ascii, separators=(",", ":") if compact else None
    ).encode("utf-8", "surrogatepass"),
    objects,
    addresses,
    st.booleans(),
    st.booleans(),
)
PIECES = [
    b'{"email":"a@x.org"',
    b'"email":',
    b'"a@x.org"',
    b'"name":"',
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b"1",
    b"-",
]
PIECES += [
    b"0",
    b".",
    b"e",
    b" ",
    b"null",
    b"true",
    b"[",
    b"]",
    b"\r",
    b"\xc3\xa4",
    b"\xed\xa0",
    b"\xf0\x90",
    b"\0",
    b"abcdefgh",
]
hostile = st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=14).map(b"".join)


@given(st.lists(rows | hostile, max_size=4), st.integers(0, 60), st.sets(st.sampled_from(FIELDS)))
@example([b'{"email":"a@x.org","name":"\xe2\x82\xac"}'], 0, {"name"})
def test_looking_at_a_row_finds_what_decoding_finds(lines: list[bytes], cut: int, required: set[str]) -> None:
    check(b"\n".join(lines), cut, required=required, breakless=("name",))


@given(rows, st.integers(0, 200), st.binary(max_size=3))
def test_a_damaged_row_is_never_taken_for_a_good_one(row: bytes, at: int, damage: bytes) -> None:
    at %= len(row) + 1
    check(row[:at] + damage + row[at + len(damage) :], required=("name",), breakless=("name",))
    check(row[:at] + damage + row[at:], required=("name",))
