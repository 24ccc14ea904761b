"""Canonicalization: RFC 6376's own examples, and every way of cutting, copying and resuming against plain Python."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.message.canon import BodyHash, HeaderPicker, canonical_bytes, header_size, relaxed_field, use_avx2
from bulkmail.wire.body import encode_message
from unit.message.dkim_corpus import BODIES

ROWS = [True, False] if use_avx2(True) else [False]


@pytest.fixture(params=ROWS, ids=["avx2" if fast else "scalar" for fast in ROWS])
def row(request):
    use_avx2(request.param)
    yield
    use_avx2(True)


def expected(body: bytes, relaxed: bool) -> bytes:
    """RFC 6376 sections 3.4.3 and 3.4.4, by the letter."""
    lines = body.split(b"\r\n")
    if relaxed:
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    text = b"\r\n".join(lines)
    while text.endswith(b"\r\n"):
        text = text[:-2]
    return text + b"\r\n" if text or not relaxed else b""


def digest(pieces: list[bytes], relaxed: bool, dotted: bool = False) -> bytes:
    return BodyHash(relaxed=relaxed, dotted=dotted).digest(pieces)


def sha(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


# RFC 6376 section 3.4.5
HEADER = b"A: X\r\nB : Y\t\r\n\tZ  \r\n"
BODY = b" C \r\nD \t E\r\n\r\n\r\n"


def picked(header: bytes, names: list[bytes], relaxed: bool, dotted: bool = False) -> bytes:
    return HeaderPicker([(name, 0) for name in names], relaxed=relaxed).pick(header, len(header), dotted)[1]


def test_the_examples_of_the_standard(row):
    assert picked(HEADER, [b"a", b"b"], True) == b"a:X\r\nb:Y Z\r\n"
    assert picked(HEADER, [b"a", b"b"], False) == HEADER
    assert digest([BODY], True) == sha(b" C\r\nD E\r\n")
    assert digest([BODY], False) == sha(b" C \r\nD \t E\r\n")


def test_the_empty_body_of_the_standard(row):
    # Sections 3.4.3 and 3.4.4 give these digests.
    assert digest([b""], False).hex() == sha(b"\r\n").hex()
    assert digest([], True).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("relaxed", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_hard_bodies(name, relaxed, row):
    body = BODIES[name][2:]
    assert digest([body], relaxed) == sha(expected(body, relaxed))
    assert digest([encode_message(body)[:-3]], relaxed, dotted=True) == sha(expected(ended(body), relaxed))


def ended(body: bytes) -> bytes:
    """As the wire has it: nothing is without a newline at the end."""
    return body if body.endswith(b"\r\n") or not body else body + b"\r\n"


bits = st.lists(
    st.sampled_from([b"\r\n", b" ", b"\t", b".", b"a", b"word", b"\xff", b"x" * 31, b" " * 33]), max_size=60
)
clean = bits.map(b"".join)


@given(body=clean, relaxed=st.booleans(), data=st.data())
def test_any_cut_gives_the_same(body, relaxed, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert digest(pieces, relaxed) == sha(expected(body, relaxed))
    wire = encode_message(body)[:-3]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert digest(pieces, relaxed, dotted=True) == sha(expected(ended(body), relaxed))


@given(body=st.binary(max_size=300) | clean, relaxed=st.booleans(), dotted=st.booleans())
def test_the_rows_agree_on_any_bytes(body, relaxed, dotted):
    use_avx2(False)
    scalar = canonical_bytes(body, relaxed=relaxed, dotted=dotted)
    use_avx2(True)
    assert canonical_bytes(body, relaxed=relaxed, dotted=dotted) == scalar


@given(bodies=st.lists(st.tuples(st.integers(0, 3), clean, clean), min_size=2, max_size=8), relaxed=st.booleans())
@example(bodies=[(1, b"", b""), (1, b"", b"a"), (1, b"\r\n", b""), (2, b"", b"")], relaxed=True)
@example(bodies=[(2, b"", b""), (2, b".", b""), (2, b"", b"")], relaxed=True)
def test_what_bodies_have_in_common_changes_nothing(bodies, relaxed):
    """Each begins with one of four long texts, of which some have a beginning in common."""
    hasher = BodyHash(relaxed=relaxed, dotted=False)
    for kind, middle, end in bodies:
        start = b"a line of  text \r\n" * 1000 + b"\r\n" * (kind % 2 * 3000) + b" " * (kind // 2 * 5000)
        pieces = [start, middle + b"\r\n", end]
        assert hasher.digest(pieces) == sha(expected(b"".join(pieces), relaxed))


def test_a_body_that_is_the_same_is_not_hashed_again():
    hasher, text = BodyHash(relaxed=True, dotted=False), b"text\r\n" * 100_000
    first = hasher.digest([text, b"end\r\n"])
    assert hasher.digest([bytes(bytearray(text)), b"end\r\n"]) is first
    assert hasher.digest([text, b"another end\r\n"]) != first


def test_a_cut_within_a_newline_or_a_run_of_blanks(row):
    body = b"a \t \r\n \r\n.\r\n\r\n\r\n  b\t\r\n\r\n"
    for relaxed in (True, False):
        for cut in range(len(body) + 1):
            assert digest([body[:cut], body[cut:]], relaxed) == sha(expected(body, relaxed)), cut
        assert digest([body[at : at + 1] for at in range(len(body))], relaxed) == sha(expected(body, relaxed))


def test_repeated_fields_are_taken_from_the_bottom_up():
    header = b"To: 1\r\nCc: x\r\nTO: 2\r\nto:\r\n 3\r\n"
    assert picked(header, [b"to", b"cc"], True) == b"to:3\r\nto:2\r\nto:1\r\ncc:x\r\n"
    assert picked(header, [b"to", b"cc"], False) == b"to:\r\n 3\r\nTO: 2\r\nTo: 1\r\nCc: x\r\n"


def test_a_field_whose_name_begins_with_a_dot_is_found_on_the_wire_too():
    assert picked(b"..x: 1\r\nA: 2\r\n", [b".x", b"a"], True, dotted=True) == b".x:1\r\na:2\r\n"


def test_no_field_is_found_in_the_body_or_in_a_folded_line():
    message = b"A: 1\r\n To: folded\r\nB: 2\r\n\r\nTo: body\r\n"
    picker = HeaderPicker([(b"to", 1), (b"a", 0)], relaxed=True)
    assert picker.pick(message, header_size(message), False) == (b"\x01\0\x01\0", b"a:1 To: folded\r\n")


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_hostile_headers_are_read_within_bounds(header, relaxed, dotted):
    HeaderPicker([(b"a", 0), (b"from", 1), (b"", 0)], relaxed=relaxed).pick(header, len(header), dotted)
    assert len(relaxed_field(header)) <= len(header)


def test_more_fields_than_a_signature_may_cover_are_an_error():
    with pytest.raises(ValueError, match="more than 500 fields"):
        picked(b"A: 1\r\n" * 501, [b"a"], True)
