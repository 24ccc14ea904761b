"""Quoted-printable of each kernel row is, byte for byte, that of a slow reference."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkmail.message.compiled import encode_text
from bulkmail.wire.body import force_row, kernel_rows

ROWS = kernel_rows()
ROOM = 75
ESCAPES = {"&": b"&amp;", "<": b"&lt;", ">": b"&gt;", '"': b"&#34;", "'": b"&#39;"}

any_row = pytest.mark.parametrize("row", ROWS)
BREAKS = ["\n", "\r\n", "\r", " \n", "\t\r\n", ".\n"]
RUNS = ["x" * 75, "y" * 64, "z" * 31, "é", "田", "😀", "\0", "\x7f"]
texts = st.lists(
    st.one_of(
        st.text("abc .=&<>\"'\t", max_size=90),
        st.sampled_from(BREAKS + RUNS),
        st.text(max_size=20).filter(lambda text: text.isprintable()),
    ),
    max_size=40,
).map("".join)
slow = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def best_row_afterwards() -> Iterator[None]:
    yield
    force_row(ROWS[-1])


class Pen:
    """The reference: one unit after the other, nothing done at once."""

    def __init__(self) -> None:
        self.lines = [b""]

    def unit(self, text: bytes) -> None:
        if len(self.lines[-1]) + len(text) > ROOM:
            self.lines[-1] += b"="
            self.lines.append(b"")
        self.lines[-1] += text

    def end_line(self) -> None:
        blank = self.lines[-1][-1:]
        if blank in (b" ", b"\t") and len(self.lines[-1]) > ROOM - 1:
            self.lines[-1] += b"="
            self.lines.append(b"")
        elif blank in (b" ", b"\t"):
            self.lines[-1] = self.lines[-1][:-1] + b"=%02X" % ord(blank)
        self.lines.append(b"")


def reference(text: str, html: bool) -> bytes:
    pen = Pen()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines):
        for place, character in enumerate(line):
            last = number + 1 < len(lines) and place + 1 == len(line)
            put(pen, character, last, html)
        if number + 1 < len(lines):
            pen.end_line()
    return b"\r\n".join(pen.lines)


def put(pen: Pen, character: str, last: bool, html: bool) -> None:
    col = len(pen.lines[-1])
    if html and character in ESCAPES:
        pen.unit(ESCAPES[character])
    elif character == "." and col in (0, ROOM):
        pen.unit(b"=2E")
    elif character in "\t" or (" " <= character < "\x7f" and character != "="):
        if col == ROOM and last and character not in " \t.":
            pen.lines[-1] += character.encode()  # where the "=" of a soft break would stand
        else:
            pen.unit(character.encode())
    else:
        for byte in character.encode():
            pen.unit(b"=%02X" % byte)


@any_row
@slow
@given(text=texts, html=st.booleans())
def test_row_equals_reference(row: str, text: str, html: bool) -> None:
    force_row(row)
    assert encode_text(text.encode(), html) == reference(text, html)


@any_row
@pytest.mark.parametrize("html", [False, True])
def test_each_byte_in_each_place_of_a_block(row: str, html: bool) -> None:
    """All 64 lanes know each of the 128 ASCII characters, and two beyond."""
    force_row(row)
    for character in [*map(chr, range(128)), "é", "€"]:
        for place in range(70):
            text = "x" * place + character + "y" * 200
            assert encode_text(text.encode(), html) == reference(text, html), (character, place)
