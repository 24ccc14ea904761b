"""The kernels: each row at 2 KB, 20 KB and 256 KB, beside libraries that do the same and a plain copy.

    python -m pytest benchmarks/micro/test_kernels.py

`gb_per_s` in the extra info is of the bytes that go in, the call from Python included. The texts lie in the caches:
2 KB and 20 KB in the first, 256 KB in the second.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable, Iterator
from email.base64mime import body_encode
from quopri import decodestring

import pybase64
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.message.base64_lines import encode_base64
from bulkmail.message.compiled import encode_text
from bulkmail.wire.body import encode_message, force_row, kernel_rows, undotted

ROWS = kernel_rows()
SIZES = {"2KB": 2048, "20KB": 20480, "256KB": 262144}
LINE = b"a line of seventy-two bytes, which is what most composers of mail wrap a"
NEWLINES = {"crlf": b"\r\n", "lf": b"\n"}
PROSE = """the quick brown fox jumps over a lazy dog and newsletters go on for quite a while about 1.5 things . ...
<b> </b> <p> </p> <br> <td style="padding:0"> <a href="https://example.com/u/1?c=2"> </a> café Köln &nbsp;"""
WORDS = PROSE.split()
each_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Iterator[str]:
    force_row(request.param)
    yield request.param
    force_row(ROWS[-1])


def measure(benchmark: BenchmarkFixture, group: str, call: Callable[[bytes], bytes], data: bytes) -> bytes:
    benchmark.group = group
    made: bytes = benchmark(call, data)
    benchmark.extra_info["gb_per_s"] = round(len(data) / benchmark.stats.stats.median / 1e9, 2)
    return made


def message(size: int, newline: bytes) -> bytes:
    line = LINE + newline
    text = (line * (size // len(line) + 1))[: size - len(newline)]
    return text.rstrip(b"\r\n").ljust(size - len(newline), b"x") + newline


def newsletter(size: int) -> bytes:
    """HTML in lines of 60 to 120 bytes, with attributes and some letters beyond ASCII; no line is like another."""
    source = random.Random(6)
    lines: list[str] = []
    while sum(map(len, lines)) < size:
        words: list[str] = []
        while sum(map(len, words)) < source.randrange(50, 100):
            words.append(source.choice(WORDS))
        lines.append(" ".join(words))
    return "\n".join(lines).encode()[:size].decode(errors="ignore").encode()


@pytest.mark.parametrize("newline", NEWLINES)
@each_size
def test_encode_message(benchmark: BenchmarkFixture, row: str, size: str, newline: str) -> None:
    text = message(SIZES[size], NEWLINES[newline])
    wire = measure(benchmark, f"newlines and dots, {newline}, {size}", encode_message, text)
    assert wire == b"\r\n".join(text.replace(b"\r\n", b"\n").split(b"\n")) + b".\r\n"


@each_size
def test_undotted(benchmark: BenchmarkFixture, row: str, size: str) -> None:
    """The way back, for BDAT: every twentieth line opens with a dot."""
    line = LINE + b"\r\n"
    text = (line * 19 + b"." + line) * (SIZES[size] // (20 * len(line)) + 1)
    wire = encode_message(text).removesuffix(b".\r\n")
    assert measure(benchmark, f"newlines and dots, back, {size}", lambda data: undotted(data, 0), wire) == text


@pytest.mark.parametrize("newline", NEWLINES)
@each_size
def test_plain_copy(benchmark: BenchmarkFixture, size: str, newline: str) -> None:
    text = bytearray(message(SIZES[size], NEWLINES[newline]))
    assert measure(benchmark, f"newlines and dots, {newline}, {size}", bytes, text) == text


@each_size
def test_quoted_printable(benchmark: BenchmarkFixture, row: str, size: str) -> None:
    text = newsletter(SIZES[size])
    made = measure(benchmark, f"quoted-printable, {size}", encode_text, text)
    assert decodestring(made).replace(b"\r\n", b"\n") == text


@each_size
def test_quoted_printable_of_escaped_html(benchmark: BenchmarkFixture, row: str, size: str) -> None:
    text = newsletter(SIZES[size])
    made = measure(benchmark, f"quoted-printable, {size}", lambda data: encode_text(data, True), text)
    assert b"&lt;p&gt;" in made


@each_size
def test_quoted_printable_by_binascii(benchmark: BenchmarkFixture, size: str) -> None:
    text = newsletter(SIZES[size])
    assert decodestring(measure(benchmark, f"quoted-printable, {size}", binascii.b2a_qp, text)) == text


@each_size
def test_base64_lines(benchmark: BenchmarkFixture, row: str, size: str) -> None:
    data = random.Random(6).randbytes(SIZES[size])
    made = measure(benchmark, f"base64, {size}", encode_base64, data)
    assert base64.b64decode(made) == data


# The first two make one line without an end, which no message can carry.
BASE64_LIBRARIES: dict[str, Callable[[bytes], bytes]] = {
    "pybase64, no lines": pybase64.b64encode,
    "binascii, no lines": binascii.b2a_base64,
    "pybase64, lines": pybase64.encodebytes,
    "email": lambda data: body_encode(data).encode(),
}


@pytest.mark.parametrize("library", BASE64_LIBRARIES)
@each_size
def test_base64_by_libraries(benchmark: BenchmarkFixture, size: str, library: str) -> None:
    data = random.Random(6).randbytes(SIZES[size])
    made = measure(benchmark, f"base64, {size}", BASE64_LIBRARIES[library], data)
    assert base64.b64decode(made) == data
