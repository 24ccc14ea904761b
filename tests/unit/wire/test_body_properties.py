"""wire.body against a receiver of its own making, for any text cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from bulkmail.wire.body import encode_body, encode_message, end_body

hostile = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.\r\n", b"x", b"x" * 31, b"\x00", b"\xff" * 64]))
texts = st.one_of(st.binary(max_size=300), hostile.map(b"".join))


def receive(wire: bytes) -> bytes:
    """The DATA phase as a server sees it (RFC 5321 section 4.5.2): one byte at a time, up to the end, dots removed."""
    received = bytearray()
    line = bytearray()
    for i, byte in enumerate(wire):
        line.append(byte)
        if not line.endswith(b"\r\n"):
            assert byte != 0x0A, f"LF without CR at {i}"
            assert len(line) < 2 or line[-2] != 0x0D, f"CR without LF at {i - 1}"
            continue
        if line == b".\r\n":
            assert i == len(wire) - 1, f"the message ended at byte {i} of {len(wire)}"
            return bytes(received)
        received += line[1:] if line.startswith(b".") else line
        line.clear()
    raise AssertionError("the message did not end")


def normal(text: bytes) -> bytes:
    """The text with CRLF for each newline of any kind, the last line complete."""
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return text if not text or text.endswith(b"\r\n") else text + b"\r\n"


@given(texts)
def test_server_receives_the_text(text: bytes) -> None:
    assert receive(encode_message(text)) == normal(text)


@given(st.lists(texts, max_size=8))
def test_any_pieces_equal_the_whole(pieces: list[bytes]) -> None:
    wire, carry = b"", 0
    for piece in pieces:
        encoded, carry = encode_body(piece, carry)
        wire += encoded
    assert wire + end_body(carry) == encode_message(b"".join(pieces))


@given(texts, st.sampled_from([0, 1, 2]))
def test_size_keeps_the_promised_bound(text: bytes, carry: int) -> None:
    size = len(encode_body(text, carry)[0])
    assert len(text) <= size <= 2 * len(text) + 1


@given(texts)
def test_normal_text_without_dots_passes_unchanged(text: bytes) -> None:
    text = normal(text.replace(b".", b","))
    assert encode_body(text, 0) == (text, 0)
