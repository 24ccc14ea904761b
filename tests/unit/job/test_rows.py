"""Rows: good ones come out whole however the file is cut; bad ones are named and cost nobody else anything."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.address import check_address
from bulkmail.job.csv_records import split_csv
from bulkmail.job.rows import MAX_DEPTH, MAX_ROW, RowParser
from bulkmail.wire.plain_address import is_plain_address


def new_batch() -> SimpleNamespace:
    return SimpleNamespace(numbers=[], offsets=[], addresses=[], rows=[], problems=[], failed=[], cut=0)


def parse(data: bytes, format: str = "jsonl", *, cut: int = 0, limit: int = 1 << 30, **options: Any) -> SimpleNamespace:
    """All rows of data, given `cut` more bytes at a time (0: at once), in batches of `limit`, joined."""
    parser, whole = RowParser(format, **options), new_batch()
    held, pos, base, end = b"", 0, 0, 0
    while end < len(data) or pos < len(held):
        step = data[end : end + cut] if cut else data[end:]
        end += len(step)
        held, base, pos = held[pos:] + step, base + pos, 0
        while True:
            batch = new_batch()
            pos = parser.take(held, pos, base, end == len(data), batch, limit)
            whole.failed += [(len(whole.numbers) + i, why) for i, why in batch.failed]
            for name in ("numbers", "offsets", "addresses", "rows", "problems"):
                getattr(whole, name).extend(getattr(batch, name))
            if len(batch.numbers) + len(batch.problems) < limit:
                break
    return whole


def reasons(data: bytes, format: str = "jsonl", **options: Any) -> list[tuple[int, int, str]]:
    return parse(data, format, **options).problems


MIXED = {
    "jsonl": (
        b'{"email":"a@x.org","name":"Ann"}\r\n\n{"email":"b@x.org","n":1.5}\n  \nnot json\n[1]\n'
        b'{"email":"c@x.org","name":"a\\nb"}\n{"email":"\xff@x.org"}\n{"name":"no address"}\n{"email":"d@x.org"}',
        {"breakless": {"name"}},
    ),
    "csv": (
        b'a@x.org,Ann,1\r\n"b@x.org","Bob ""the"" Builder","two\nlines"\n\nc@x.org,Carl\nd@x.org,"x"y,2\n'
        b'e@x.org,"never closed,3\nf@x.org,F,4\n"g@x.org",,\n',
        {"columns": ("email", "name", "note")},
    ),
    "text": (b"a@x.org\n\nb@x.org\r\n  c@x.org\t\nnobody\nd@x.org", {}),
}


@pytest.mark.parametrize("format", MIXED)
def test_cutting_the_file_anywhere_changes_nothing(format: str) -> None:
    data, options = MIXED[format]
    whole = parse(data, format, **options)
    assert whole.rows and whole.problems
    for cut in range(1, len(data) + 1):
        for limit in (1, 3, 1000):
            assert parse(data, format, cut=cut, limit=limit, **options) == whole, (cut, limit)


@pytest.mark.parametrize("format", MIXED)
def test_a_row_read_by_its_place_is_the_row_that_was_scanned(format: str) -> None:
    data, options = MIXED[format]
    whole = parse(data, format, **options)
    options.pop("breakless", None)
    rows: list[dict[str, Any]] = []
    assert RowParser(format, **options).parse_at(data, 0, whole.offsets, 0, True, rows) == len(whole.offsets)
    assert rows == whole.rows


def test_reading_stops_where_a_row_is_not_whole_and_says_how_far_it_came() -> None:
    data = b"a@x.org\nb@x.org\nc@x.org\n"
    rows: list[dict[str, Any]] = []
    assert RowParser("text").parse_at(data[:12], 0, [0, 8, 16], 0, False, rows) == 1
    assert RowParser("text").parse_at(data[8:], 8, [0, 8, 16], 1, True, rows) == 3
    assert [row["email"] for row in rows] == ["a@x.org", "b@x.org", "c@x.org"]


def test_reading_at_a_place_without_a_good_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="byte 4: not JSON"):
        RowParser("jsonl").parse_at(b'{"email":"a@x.org"}\n', 0, [4], 0, True, [])


def test_rows_have_numbers_lines_and_offsets() -> None:
    whole = parse(b'"a@x.org","1\n2\n3"\nbad,\nb@x.org,4\n', "csv", columns=("email", "n"), line=1)
    assert whole.numbers == [1, 3]
    assert whole.offsets == [0, 23]
    assert [(number, line) for number, line, _ in whole.problems] == [(2, 5)]


JSON_REASONS = [
    (b"{}", 'no "email"'),
    (b'{"Email":"a@x.org"}', 'no "email"; it has "Email"'),
    (b'{"email":null}', 'no "email"'),
    (b'{"email":["a@x.org"]}', '"email" is not a string but ["a@x.org"]'),
    (b'{"email":""}', "the address is empty"),
    (b'{"email":"nobody"}', "it has no @"),
    (b'{"email":"a b@x.org"}', "a space"),
    (b'{"email":"a@x.org"', "not JSON: "),
    (b'{"email":"a@x.org"} trailing', "not JSON: "),
    (b'{"email":"a@x.org","n":NaN}', "not JSON: "),
    (b"[" * 5000, "not JSON: "),
    (b'{"email":"a@x.org","deep":' + b"[" * 5000 + b"]" * 5000 + b"}", "not JSON: "),
    (b"[" * 900 + b"]" * 900, "not a JSON object"),
    (b'"a@x.org"', 'not a JSON object such as {"email": "ann@example.com"} but "a@x.org"'),
    (b'{"email":"a@x.org","n":"\xe9"}', "not valid UTF-8 (byte 0xe9 at byte 25 of the row)"),
    (b'{"email":"a@x.org","n":"\x00"}', "a NUL byte"),
    (b'{"email":"a@x.org","n":"\\u0000"}', "a NUL (\\u0000)"),
    (b'{"email":"a@x.org","n":{"in":["\\\\\\u0000"]}}', "a NUL (\\u0000)"),
    (b'{"email":"a@x.org","n":"\\ud800"}', "half of a surrogate pair"),
    (b'{"email":"a@x.org","n":"\\udc00 "}', "half of a surrogate pair"),
    (b'{"email":"a@x.org","n":' + b"9" * 5000 + b"}", "not JSON: number is infinity"),
    (b'{"email":"a@x.org","n":1e400}', "not JSON: number is infinity"),
]


@pytest.mark.parametrize(("line", "reason"), JSON_REASONS, ids=range(len(JSON_REASONS)))
def test_a_bad_json_row_is_named_and_its_neighbours_pass(line: bytes, reason: str) -> None:
    whole = parse(b'{"email":"a@x.org"}\n' + line + b'\n{"email":"b@x.org"}\n')
    assert [row["email"] for row in whole.rows] == ["a@x.org", "b@x.org"]
    [(number, where, found)] = whole.problems
    assert (number, where) == (2, 2)
    assert reason in found and "\n" not in found and len(found) < 300


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert parse(b'{"email":"a@x.org","n":"\\\\u0000"}').rows == [{"email": "a@x.org", "n": "\\u0000"}]


def test_values_are_as_they_are_in_json() -> None:
    row = {"email": "a@x.org", "int": 7, "float": 1.5, "yes": True, "list": [1, "x"], "deep": {"a": None}, "text": "é"}
    assert parse(json.dumps(row, ensure_ascii=False).encode()).rows == [row]


@pytest.mark.parametrize("number", [2**63, 2**64 + 1, -(2**63) - 1, 10**30 + 1])
def test_long_integers_keep_all_their_digits(number: int) -> None:
    for value in (number, [number], {"in": [number]}):
        data = json.dumps({"email": "a@x.org", "id": value}).encode()
        assert parse(data).rows == [{"email": "a@x.org", "id": value}]


def test_a_null_field_is_as_if_it_were_not_there() -> None:
    data = b'{"email":"a@x.org","name":null}'
    assert parse(data).rows == [{"email": "a@x.org"}]
    assert '"name"' in reasons(data, required={"name"})[0][2]


def test_the_address_comes_out_as_the_envelope_takes_it() -> None:
    rows = parse('{"email":" a@bücher.example "}\n{"email":"\\"a b\\"@x.org"}\n{"email":"a@[192.0.2.1]"}'.encode()).rows
    assert [row["email"] for row in rows] == ["a@xn--bcher-kva.example", '"a b"@x.org', "a@[192.0.2.1]"]


def test_a_row_that_lacks_a_field_of_the_message_is_bad() -> None:
    whole = parse(b'{"email":"a@x.org","id":1}\n{"email":"b@x.org"}\n', required={"id"})
    assert whole.numbers == [1]
    assert whole.problems == [(2, 2, 'no "id", which the message uses; add it, or give it in `defaults`')]


BREAKS = [b'"x\\ny"', b'"x\\r"', b'"\\u000a"', b'"\\u000D"', b'["x",{"y":["\\n"]}]', b'{"a\\nb":1}']


@pytest.mark.parametrize("value", BREAKS)
def test_a_line_break_on_its_way_to_a_header_fails_that_recipient_alone(value: bytes) -> None:
    line = b'{"email":"a@x.org","name":%s,"other":"x"}\n' % value
    whole = parse(line + b'{"email":"b@x.org","name":"fine\\t"}\n', breakless={"name"})
    assert whole.problems == [] and whole.numbers == [1, 2]
    [(index, reason)] = whole.failed
    assert index == 0 and "line break" in reason and '"name"' in reason
    assert parse(line, breakless={"other"}).failed == []


def test_a_line_break_in_the_address_fails_that_recipient_alone() -> None:
    for address in (b"a@x.org\\r\\nRCPT TO:<b@x.org>", b"a@x.org\\n", b"\\u000aa@x.org"):
        whole = parse(b'{"email":"%s"}\n{"email":"b@x.org"}\n' % address)
        assert [index for index, _ in whole.failed] == [0] and whole.problems == []
    assert [index for index, _ in parse(b'"a\r@x.org"\nb@x.org', "csv", columns=("email",)).failed] == [0]


CSV_REASONS = [
    (b"a@x.org", "1 fields where the header has 2"),
    (b"a@x.org,1,2", "3 fields where the header has 2"),
    (b'"a@x.org"x,1', "not CSV: a quoted field goes on after its closing quote"),
    (b"a@x.org,\xff", "not valid UTF-8 (byte 0xff at byte 1 of the row)"),
    (b"a@x.org,\x00", "a NUL byte"),
    (b",1", "the address is empty"),
]


@pytest.mark.parametrize(("line", "reason"), CSV_REASONS, ids=range(len(CSV_REASONS)))
def test_a_bad_csv_row_is_named_and_its_neighbours_pass(line: bytes, reason: str) -> None:
    whole = parse(b"a@x.org,1\n" + line + b"\nb@x.org,2\n", "csv", columns=("email", "n"))
    assert [row["n"] for row in whole.rows] == ["1", "2"]
    [(number, where, found)] = whole.problems
    assert (number, where) == (2, 2) and reason in found


def test_a_quote_that_is_never_closed_costs_one_line() -> None:
    whole = parse(b'a@x.org,1\nb@x.org,"2\nc@x.org,3\n', "csv", columns=("email", "n"))
    assert [row["n"] for row in whole.rows] == ["1", "3"]
    assert [(number, line) for number, line, _ in whole.problems] == [(2, 2)]
    assert "never closed" in whole.problems[0][2]


def test_a_column_without_a_name_is_left_out() -> None:
    assert parse(b"a@x.org,1,2\n", "csv", columns=("email", "", "n")).rows == [{"email": "a@x.org", "n": "2"}]


@pytest.mark.parametrize("cut", [0, 1 << 16])
@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_a_row_beyond_the_bound_is_bad_and_the_next_one_is_good(format: str, cut: int) -> None:
    good = {"jsonl": b'{"email":"a@x.org"}', "csv": b"a@x.org", "text": b"a@x.org"}[format]
    for size in (MAX_ROW + 1, 3 * MAX_ROW):
        whole = parse(good + b"\n" + b"x" * size + b"\n" + good + b"\n", format, cut=cut, columns=("email",))
        assert whole.numbers == [1, 3] and whole.offsets == [0, len(good) + size + 2]
        [(number, line, reason)] = whole.problems
        assert (number, line) == (2, 2) and f"longer than {MAX_ROW} bytes" in reason


def test_a_row_of_the_bound_itself_is_good() -> None:
    line = b'{"email":"a@x.org","n":"%s"}'
    line %= b"x" * (MAX_ROW - len(line) + 2)
    assert len(line) == MAX_ROW
    assert parse(line + b"\n" + line, cut=1 << 18).numbers == [1, 2]


def test_a_quote_open_beyond_the_bound_costs_one_line() -> None:
    data = b'a@x.org,1\nb@x.org,"2\n' + b"c@x.org,3\n" * (MAX_ROW // 10 + 1)
    for cut in (0, 1 << 18):
        whole = parse(data, "csv", cut=cut, columns=("email", "n"))
        assert len(whole.rows) == MAX_ROW // 10 + 2
        assert [(number, line) for number, line, _ in whole.problems] == [(2, 2)]


addresses = st.one_of(
    st.emails(),
    st.text('ab1.-@_ "+\t\n<>é', max_size=20),
    st.from_regex(r"[a-z.!]{1,66}@[a-z0-9.-]{1,70}", fullmatch=True),
    st.builds(lambda n, m: "a" * n + "@" + "b" * m + ".org", st.integers(60, 66), st.integers(60, 200)),
)


@given(addresses)
@example("a" * 64 + "@" + ".".join(["b" * 62] * 3) + ".a")
@example("a@x.1")
@example("a@1.2.3.4")
@example("a@x.1a")
@example("a@-x.org")
@example("a@x-.org")
@example("a@xn--a.org")
def test_what_the_fast_rule_accepts_the_rule_gives_back_unchanged(text: str) -> None:
    if is_plain_address(text):
        assert check_address(text) == text


def test_the_fast_rule_takes_the_usual_addresses() -> None:
    for text in ("ann@example.com", "a.b+c_d-e@mail.Example-9.co.uk", "root@localhost", "o'neil@x.org"):
        assert is_plain_address(text)


fields = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=("Cs",)), max_size=12)


@given(
    st.lists(st.lists(fields, min_size=2, max_size=2), min_size=1, max_size=8),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_is_read_as_the_csv_module_wrote_it(table: list[list[str]], quoting: int, mark: str, end: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=mark, quoting=quoting, lineterminator=end).writerows([["a@x.org", *row] for row in table])
    data = out.getvalue().encode()
    whole = parse(data, "csv", columns=("email", "x", "y"), delimiter=mark)
    assert [[row["x"], row["y"]] for row in whole.rows] == table
    assert whole.problems == []
    assert parse(data, "csv", columns=("email", "x", "y"), delimiter=mark, cut=5) == whole


csv_noise = st.text('ab",\n', max_size=30)


@given(csv_noise)
@example('a,"b""",c')
@example('"a""')
@example('a"b,c"d')
def test_one_record_splits_as_the_csv_module_splits_it(text: str) -> None:
    try:
        theirs = next(csv.reader(io.StringIO(text, newline=""), strict=True), [""])
    except csv.Error:
        with pytest.raises(ValueError):
            split_csv(text.encode(), ",")
    else:
        assert (split_csv(text.encode(), ",")[0] or [""]) == (theirs or [""])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["x", "y", "é"]), json_values, max_size=3), st.booleans())
def test_json_rows_are_what_the_standard_library_reads(row: dict[str, Any], ascii_only: bool) -> None:
    data = json.dumps({"email": "a@x.org"} | row, ensure_ascii=ascii_only).encode()
    expected = {name: value for name, value in json.loads(data).items() if value is not None}
    assert parse(data).rows == [expected]


def test_a_large_float_stays_a_float() -> None:
    assert parse(b'{"email":"a@x.org","n":1e30}').rows == [{"email": "a@x.org", "n": 1e30}]


@pytest.mark.parametrize("inner", [b"1", b"9" * 30, b'"\\n"'])
def test_rows_are_read_to_a_bounded_depth(inner: bytes) -> None:
    def nested(depth: int) -> bytes:
        return b'{"email":"a@x.org","n":' + b"[" * depth + inner + b"]" * depth + b"}"

    assert parse(nested(MAX_DEPTH - 1), breakless={"n"}).numbers == [1]
    for depth in (MAX_DEPTH, 1000):
        assert reasons(nested(depth), breakless={"n"}) == [(1, 1, f"nested more than {MAX_DEPTH} levels deep")]
