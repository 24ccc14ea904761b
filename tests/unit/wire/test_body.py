"""wire.body: what a piece of a message becomes, what closes it, what is refused."""

import mmap
import sys
import sysconfig
import threading

import pytest

from bulkmail.wire.body import encode_body, encode_message, end_body

LINE_START, AFTER_CR, MID_LINE = 0, 1, 2
MiB = 1 << 20

# text -> what goes to the wire for it, up to the final dot
MESSAGES = {
    b"": b"",
    b"a": b"a\r\n",
    b"a\r\n": b"a\r\n",
    b"a\n": b"a\r\n",
    b"a\r": b"a\r\n",
    b"a\nb": b"a\r\nb\r\n",
    b"a\rb": b"a\r\nb\r\n",
    b"a\r\rb": b"a\r\n\r\nb\r\n",
    b"a\n\rb": b"a\r\n\r\nb\r\n",
    b"a\r\r\nb": b"a\r\n\r\nb\r\n",
    b".": b"..\r\n",
    b"..": b"...\r\n",
    b"a.b": b"a.b\r\n",
    b"\n.\n": b"\r\n..\r\n",
    b"\r.\r": b"\r\n..\r\n",
    b"a\x00\xff.": b"a\x00\xff.\r\n",
}


@pytest.mark.parametrize(("text", "wire"), MESSAGES.items())
def test_message_on_the_wire(text: bytes, wire: bytes) -> None:
    assert encode_message(text) == wire + b".\r\n"


@pytest.mark.parametrize("newline", [b"\r\n", b"\n", b"\r", b"\n\r", b"\r\r", b"\n\n", b"\x0b", b"\x0c", b"\x85"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b""])
def test_no_text_ends_the_message_early(newline: bytes, end: bytes) -> None:
    """The sequences that SMTP smuggling tries: servers differ in which of them they take for the end."""
    wire = encode_message(b"text" + newline + b"." + end + b"MAIL FROM:<evil@example.com>\r\n")
    assert wire.find(b"\r\n.\r\n") == len(wire) - 5
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")


def test_byte_by_byte_equals_whole() -> None:
    for text in MESSAGES:
        wire, carry = b"", LINE_START
        for i in range(len(text)):
            piece, carry = encode_body(text[i : i + 1], carry)
            wire += piece
        assert wire + end_body(carry) == encode_message(text)


@pytest.mark.parametrize(
    ("text", "carry", "piece", "after"),
    [
        (b"", LINE_START, b"", LINE_START),
        (b"", AFTER_CR, b"", AFTER_CR),
        (b"", MID_LINE, b"", MID_LINE),
        (b"\n", AFTER_CR, b"\n", LINE_START),
        (b"a", AFTER_CR, b"\na", MID_LINE),
        (b".", AFTER_CR, b"\n..", MID_LINE),
        (b"\r", AFTER_CR, b"\n\r", AFTER_CR),
        (b".", MID_LINE, b".", MID_LINE),
        (b"\n", MID_LINE, b"\r\n", LINE_START),
    ],
)
def test_carry_between_pieces(text: bytes, carry: int, piece: bytes, after: int) -> None:
    assert encode_body(text, carry) == (piece, after)


def test_end_completes_the_line() -> None:
    assert [end_body(carry) for carry in (LINE_START, AFTER_CR, MID_LINE)] == [b".\r\n", b"\n.\r\n", b"\r\n.\r\n"]


@pytest.mark.parametrize("carry", [-1, 3, 10])
def test_foreign_carry_is_refused(carry: int) -> None:
    for call in (lambda: encode_body(b"a", carry), lambda: end_body(carry)):
        with pytest.raises(ValueError, match=f"carry is 0 or what encode_body returned, not {carry}"):
            call()


def test_bytes_that_need_no_change_are_not_copied() -> None:
    text = b"a line\r\n" * 100
    assert encode_body(text, LINE_START)[0] is text


@pytest.mark.parametrize("size", [10, 70_000, MiB + 3])
def test_any_bytes_like_is_taken(size: int) -> None:
    text = (b"a line\n.dot\r\n" * (size // 13 + 1))[:size]
    anonymous = mmap.mmap(-1, size)
    anonymous[:] = text
    views = [memoryview(text), memoryview(bytearray(text)), memoryview(text[::-1])[::-1]]
    buffers: list[bytearray | memoryview | mmap.mmap] = [bytearray(text), anonymous, *views]
    for buffer in buffers:
        assert encode_message(buffer) == encode_message(text)
        assert encode_body(buffer, MID_LINE) == encode_body(text, MID_LINE)


def test_result_of_a_writable_buffer_is_a_copy() -> None:
    text = bytearray(b"a line\r\n")
    piece, _ = encode_body(text, LINE_START)
    text[:1] = b"b"
    assert piece == b"a line\r\n"


@pytest.mark.parametrize("text", ["text", 5, None, [1, 2]])
def test_what_is_not_bytes_is_refused(text: object) -> None:
    for call in (lambda: encode_body(text, 0), lambda: encode_message(text)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"a message is bytes-like, not {type(text).__name__}"):
            call()


def test_text_that_another_thread_changes_stays_well_formed() -> None:
    """The output is sized before it is written; a "\\n" more in between would be written beyond it."""
    text = bytearray(b"a" * (2 * MiB))
    done = threading.Event()

    def change() -> None:
        fills = [b"\n" * len(text), b"a" * len(text)]
        while not done.is_set():
            for fill in fills:
                text[:] = fill

    thread = threading.Thread(target=change)
    thread.start()
    try:
        wires = [encode_message(text) for _ in range(20)]
    finally:
        done.set()
        thread.join()
    for wire in wires:
        assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
        assert len(wire) in (2 * MiB + 5, 4 * MiB + 3)


def other_thread_ran(text: bytes, calls: int) -> bool:
    """Whether another thread had its turn while encode_message(text) was called, at most `calls` times."""
    start, ran = threading.Event(), threading.Event()

    def turn() -> None:
        start.wait()
        ran.set()

    thread = threading.Thread(target=turn)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # so that a turn comes only from a release
    try:
        start.set()
        for _ in range(calls):
            encode_message(text)
            if ran.is_set():
                break
        return ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        start.set()
        thread.join()


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="no GIL here")
def test_gil_is_released_for_large_texts_only() -> None:
    assert other_thread_ran(b"a line\n" * (4 * MiB // 7), calls=500)
    assert not other_thread_ran(b"a line\n" * (20_480 // 7), calls=500)
