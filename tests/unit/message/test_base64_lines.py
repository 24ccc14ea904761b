"""encode_base64: the lines of the standard library with CRLF, from every kernel row, whatever the buffer."""

import base64
import mmap
import random
from array import array
from collections.abc import Iterator

import pytest

from bulkmail.message.base64_lines import encode_base64
from bulkmail.wire.body import force_row, kernel_rows

ROWS = kernel_rows()
CONTENT = random.Random(6).randbytes(4096)
LINE = 57


@pytest.fixture(params=ROWS, autouse=True)
def row(request: pytest.FixtureRequest) -> Iterator[str]:
    force_row(request.param)
    yield request.param
    force_row(ROWS[-1])


def reference(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def test_each_length_at_each_alignment() -> None:
    for length in range(300):
        offset = length % 64
        view = memoryview(CONTENT)[offset : offset + length]
        assert encode_base64(view) == reference(bytes(view)), length


def test_each_byte_in_each_place_of_a_line() -> None:
    """All 64 digits come from all vector lanes."""
    for shift in range(3):
        data = bytes(shift) + bytes(value for value in range(256) for _ in range(LINE - 1))
        assert encode_base64(data) == reference(data)


def test_a_megabyte_and_more_is_the_same_without_the_gil() -> None:
    data = CONTENT * 257
    assert encode_base64(data) == reference(data)


@pytest.mark.parametrize("size", [LINE, 3 * LINE, 20 * LINE])
def test_pieces_of_whole_lines_join(size: int) -> None:
    pieces = [encode_base64(CONTENT[start : start + size]) for start in range(0, len(CONTENT), size)]
    assert b"".join(pieces) == reference(CONTENT)


def test_any_contiguous_buffer_is_taken() -> None:
    with mmap.mmap(-1, len(CONTENT)) as mapped:
        mapped[:] = CONTENT
        assert encode_base64(mapped) == reference(CONTENT)
    assert encode_base64(bytearray(CONTENT)) == reference(CONTENT)
    assert encode_base64(array("H", [1, 2, 3])) == reference(array("H", [1, 2, 3]).tobytes())


def test_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        encode_base64("text")  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="contiguous"):
        encode_base64(memoryview(CONTENT)[::2])
