"""The text of a message: what ends it, what is refused, what content it has. Against a plain model, byte by byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ServerCounts, ServerSettings

OPEN = b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
BARE = "554 5.6.0 The message has a CR or LF that is not part of a CR LF"


def model(data: bytes) -> tuple[str, bytes] | None:
    """("end", content) or ("abort", b"") for the first message in `data`, None if it has not ended."""
    text, end, _ = (b"\r\n" + data).partition(b"\r\n.\r\n")
    if not end:
        return None
    text += b"\r\n"
    lone = text.replace(b"\r\n", b"")
    if b"\r" in lone or b"\n" in lone:
        return "abort", b""
    return "end", text.replace(b"\r\n.", b"\r\n")[2:]


def received(pieces: list[bytes], content: bool = True) -> tuple[str, bytes] | None:
    counts = ServerCounts()
    codec = ServerCodec(ServerSettings(envelopes=content), counts)
    codec.feed(OPEN)
    codec.output()
    text = b""
    for piece in pieces:
        for event in codec.feed(piece):
            if event[0] == "content":
                text += event[1]
            elif event[0] == "end":
                assert event[1] == len(text)
                return "end", text
            elif event[0] == "abort":
                assert event[1] == BARE
                return "abort", b""
    if not content and codec.output():
        return ("end", b"%d" % counts.bytes) if counts.messages else ("abort", b"")
    return None


def every_way(data: bytes) -> None:
    expected = model(data)
    assert received([data]) == expected
    assert received([data[i : i + 1] for i in range(len(data))]) == expected
    for cut in range(1, len(data)):
        assert received([data[:cut], data[cut:]]) == expected, cut


# The sequences that were published for SMTP smuggling (SEC Consult, 2023), each as the end of a message it must not be.
SMUGGLING = [
    b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r.\n", b"\n\n.\r\n", b"\r\r.\r\r",
    b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n\x00.\r\n", b"\x00\r\n.\n", b"\r\n.\x00\r\n", b"\n\r.\n\r",
    b"\r\n.\n\r", b"\n\r.\r\n",     b"\r\n\n.\n\r\n", b"\r\n..\r\n", b"\r\n. \r\n", b"\r\n .\r\n",
]  # fmt: skip


@pytest.mark.parametrize("end", SMUGGLING)
def test_a_smuggled_end_does_not_end_a_message(end: bytes) -> None:
    counts = ServerCounts()
    codec = ServerCodec(ServerSettings(), counts)
    codec.feed(OPEN)
    codec.output()
    events = codec.feed(b"one" + end + b"MAIL FROM:<evil@x>\r\nRCPT TO:<y@z>\r\nDATA\r\nsmuggled\r\n.\r\n")
    assert not any(event[0] in ("mail", "rcpt") for event in events)
    assert counts.messages + counts.refused == 1
    assert codec.output().count(b"\r\n") == 1
    lone = end.replace(b"\r\n", b"").strip(b"\x00. ") != b""
    assert (counts.refused == 1) == lone


@pytest.mark.parametrize("end", SMUGGLING)
def test_a_smuggled_end_however_it_is_cut(end: bytes) -> None:
    every_way(b"one" + end + b"two\r\n.\r\n")


@pytest.mark.parametrize("text", [
    b".\r\n", b"\r\n.\r\n", b"a\r\n.\r\n", b"..\r\n.\r\n", b"...\r\n.\r\n", b".a\r\n.\r\n",
    b"a\r\n..\r\nb\r\n..c\r\n.\r\n",
    b"a.\r\n.b\r\n.\r\n", b"\x00\xff.\r\n.\r\n", b"no end", b"no end\r\n.", b"no end\r\n.\r", b"\r", b"\n.\r\n",
])  # fmt: skip
def test_ends_and_dots(text: bytes) -> None:
    every_way(text)


@pytest.mark.parametrize("length", [*range(0, 8), *range(56, 76), *range(120, 136), 1000])
@pytest.mark.parametrize("line", [b"..", b".", b"\r", b"\n", b"\r\n", b"\r\n..x"])
def test_what_matters_at_every_place_of_a_block(length: int, line: bytes) -> None:
    data = b"x" * length + line + b"y" * 70 + b"\r\n.\r\n"
    for head in (b"", b"z" * 70 + b"\r\n"):
        assert received([head + data]) == model(head + data)
        assert received([head, data]) == model(head + data)
        assert received([head + data], content=False) is not None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"x", b"\r\n.", b"long " * 30]), max_size=40),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_text_cut_anywhere(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts) + b"\r\n.\r\n"
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    expected = model(data)
    assert received([data]) == expected
    assert received(pieces) == expected
    counted = received(pieces, content=False)
    assert counted is not None and expected is not None
    assert counted[0] == expected[0]
    if expected[0] == "end":
        assert counted[1] == b"%d" % len(expected[1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_at_all(data: bytes, cut: int) -> None:
    def talk(pieces: list[bytes]) -> tuple[bytes, dict[str, int], bool]:
        counts = ServerCounts()
        codec = ServerCodec(ServerSettings(envelopes=False), counts)
        for piece in pieces:
            codec.feed(piece)
        return codec.output(), counts.as_dict(), codec.closed

    assert talk([data]) == talk([data[:cut], data[cut:]]) == talk([data[i : i + 1] for i in range(len(data))])
