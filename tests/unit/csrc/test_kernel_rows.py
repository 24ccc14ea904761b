"""Every kernel row of this CPU, called through wire.body, gives the bytes of the row "scalar" and of a reference."""

from collections.abc import Iterator

import pytest

from bulkmail.wire.body import encode_body, encode_message, force_row, kernel_rows, undotted

ROWS = kernel_rows()
TEXTS = [
    b"\n" * 140,
    b"\r" * 140,
    b"." * 140,
    b"\r\n" * 70,
    b"\n\r" * 70,
    b"\r." * 70,
    b"\n." * 70,
    b"\r\n.\r\n" * 28,
    b"\r\r\n.." * 28,
    b"thirty-one bytes and a newline.\n" * 5,
    b"thirty bytes and then a newline.\r\n." * 4,
    b"a line of seventy-two bytes, which is what most composers of mail wrap at\r\n" * 2,
    b"a line of seventy-two bytes, which is what most composers of mail wrap at\n." * 2,
    bytes(range(256)),
]


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Iterator[str]:
    force_row(request.param)
    yield request.param
    force_row(ROWS[-1])


def reference(text: bytes) -> bytes:
    """Another way to the same bytes. A CR at the end keeps its LF for later."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    encoded = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    return encoded[:-1] if text.endswith(b"\r") else encoded


def at_alignment(text: bytes, alignment: int) -> memoryview:
    """A view, which wire.body does not copy, some bytes into a bytes object. What lies before it would mislead."""
    return memoryview(b"\r" * alignment + text)[alignment:]


@pytest.mark.parametrize("text", TEXTS)
def test_row_equals_reference_at_each_alignment(row: str, text: bytes) -> None:
    for alignment in range(64):
        assert encode_body(at_alignment(text, alignment), 0)[0] == reference(text)


@pytest.mark.parametrize("text", TEXTS)
def test_row_equals_reference_at_each_cut_and_alignment(row: str, text: bytes) -> None:
    expected = reference(text)
    for alignment in range(0, 64, 7):
        for cut in range(len(text) + 1):
            head, carry = encode_body(at_alignment(text[:cut], alignment), 0)
            tail, _ = encode_body(at_alignment(text[cut:], alignment), carry)
            assert head + tail == expected, (alignment, cut)


@pytest.mark.parametrize("carry", [0, 1, 2])
def test_row_equals_scalar_at_each_length_and_carry(row: str, carry: int) -> None:
    for text in TEXTS:
        views = [at_alignment(text[:length], length % 64) for length in range(140)]
        force_row(row)
        got = [encode_body(view, carry) for view in views]
        force_row("scalar")
        assert got == [encode_body(view, carry) for view in views]


def test_sums_of_a_long_text_do_not_overflow(row: str) -> None:
    """Two insertions a byte in the same vector lanes, beyond what their 8 bits hold at once."""
    text = b"\r." * 40_000
    assert encode_message(text) == reference(text) + b"\r\n.\r\n"


@pytest.mark.parametrize("text", TEXTS)
def test_undotted_is_the_way_back_at_each_alignment_and_cut(row: str, text: bytes) -> None:
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    for alignment in range(0, 64, 3):
        for cut in range(0, len(lines), 5):
            head, carry = encode_body(lines[:cut], 0)
            tail, _ = encode_body(lines[cut:], carry)
            made = [undotted(at_alignment(head, alignment), 0), undotted(at_alignment(tail, alignment), carry)]
            assert b"".join(made) == lines, (alignment, cut)


def test_rows_are_listed_weakest_first() -> None:
    assert ROWS[0] == "scalar"
    assert len(set(ROWS)) == len(ROWS)


def test_unknown_row_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no kernel row 'mmx' here; there are scalar"):
        force_row("mmx")
