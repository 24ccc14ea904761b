"""Body encoding: each kernel row at 2 KB and 20 KB, beside a plain copy of the same text."""

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.wire.body import encode_message, force_row, kernel_rows

ROWS = kernel_rows()
SIZES = {"2KB": 2048, "20KB": 20480}
LINE = b"a line of seventy-two bytes, which is what most composers of mail wrap a"
NEWLINES = {"crlf": b"\r\n", "lf": b"\n"}


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Iterator[str]:
    force_row(request.param)
    yield request.param
    force_row(ROWS[-1])


def message(size: int, newline: bytes) -> bytes:
    line = LINE + newline
    text = (line * (size // len(line) + 1))[: size - len(newline)]
    return text.rstrip(b"\r\n").ljust(size - len(newline), b"x") + newline


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("size", SIZES)
def test_encode_message(benchmark: BenchmarkFixture, row: str, size: str, newline: str) -> None:
    text = message(SIZES[size], NEWLINES[newline])
    benchmark.group = f"encode_message {size} {newline}"
    wire = benchmark(encode_message, text)
    assert wire == b"\r\n".join(text.replace(b"\r\n", b"\n").split(b"\n")) + b".\r\n"


@pytest.mark.parametrize("size", SIZES)
def test_plain_copy(benchmark: BenchmarkFixture, size: str) -> None:
    text = bytearray(message(SIZES[size], b"\r\n"))
    benchmark.group = f"encode_message {size} crlf"
    assert benchmark(bytes, text) == text
