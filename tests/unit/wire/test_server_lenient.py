"""The lenient reading: a CR or LF of its own becomes a CRLF, and CRLF.CRLF is the only end all the same."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.wire.server_talk import HELLO, LOGIN, MAIL, OPEN, RCPT, Talk, b64, codes
from unit.wire.test_server_text import SMUGGLING

BINARY = b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n"
EVIL = b"MAIL FROM:<evil@x>\r\nRCPT TO:<y@z>\r\nDATA\r\nsmuggled\r\n.\r\n"
BREAK = re.compile(rb"\r\n|\r|\n")


def mended(text: bytes) -> bytes:
    return BREAK.sub(b"\r\n", text)


def model(data: bytes) -> bytes | None:
    """The content of the first message in `data`, None if it has not ended. Dots are undone before ends are mended."""
    text, end, _ = (b"\r\n" + data).partition(b"\r\n.\r\n")
    return mended((text + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]) if end else None


def received(pieces: list[bytes], content: bool = True) -> bytes | int | None:
    """The content, or with content=False its size; None if the message did not end, or was not taken."""
    talk = Talk(lenient=True, content=content)
    talk.say(OPEN)
    for piece in pieces:
        talk.say(piece)
    ends = talk.of("end")
    if not ends:
        return None
    text = b"".join(event[1] for event in talk.of("content"))
    assert ends[0][1] == talk.counts.bytes
    assert not content or len(text) == talk.counts.bytes
    return text if content else talk.counts.bytes


def every_way(data: bytes) -> None:
    expected = model(data)
    size = None if expected is None else len(expected)
    assert received([data]) == expected
    assert received([data], content=False) == size
    assert received([data[i : i + 1] for i in range(len(data))]) == expected
    for cut in range(1, len(data)):
        assert received([data[:cut], data[cut:]]) == expected, cut
        assert received([data[:cut], data[cut:]], content=False) == size, cut


@pytest.mark.parametrize("text, content", [
    (b"a\nb\rc\r\nd", b"a\r\nb\r\nc\r\nd\r\n"),
    (b"\n\r\r\n\r\r", b"\r\n" * 6),  # LF, CR, CRLF, CR, CR, CRLF
    (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
    (b"a\n..\nb", b"a\r\n..\r\nb\r\n"),  # a dot behind LF was doubled by nobody that follows the RFC
    (b"a\r\n.\nb", b"a\r\n\r\nb\r\n"),  # the dot stood behind CRLF
    (b"a\r\n..\rb", b"a\r\n.\r\nb\r\n"),
    (b"a\r\n.\r.\r\n.\r\r\n", b"a\r\n\r\n.\r\n\r\n\r\n\r\n"),
])  # fmt: skip
def test_lone_ends_become_crlf(text: bytes, content: bytes) -> None:
    every_way(text + b"\r\n.\r\n")
    talk = Talk(lenient=True)
    assert codes(talk.say(OPEN + text + b"\r\n.\r\nNOOP\r\n"))[-2:] == [250, 250]
    assert talk.of("content") == [("content", content)]
    assert talk.counts.bytes == len(content)


@pytest.mark.parametrize("end", SMUGGLING)
def test_a_smuggled_end_does_not_end_a_message(end: bytes) -> None:
    talk = Talk(lenient=True)
    talk.say(OPEN)
    assert codes(talk.say(b"one" + end + EVIL)) == [250]
    assert len(talk.of("mail")) == 1
    assert talk.counts.messages == 1
    every_way(b"one" + end + b"two\r\n.\r\n")


@pytest.mark.parametrize("length", [*range(0, 8), *range(56, 76), *range(120, 136), 1000])
@pytest.mark.parametrize("line", [b"..", b".", b"\r", b"\n", b"\r\n", b"\r\n..x", b"\r\n.\r", b"\n."])
def test_what_matters_at_every_place_of_a_block(length: int, line: bytes) -> None:
    data = b"x" * length + line + b"y" * 70 + b"\r\n.\r\n"
    for head in (b"", b"z" * 70 + b"\r\n", b"z" * 70 + b"\r"):
        expected = model(head + data)
        assert expected is not None
        assert received([head + data]) == received([head, data]) == expected
        assert received([head + data], content=False) == received([head, data], content=False) == len(expected)


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
    assert expected is not None
    assert received([data]) == received(pieces) == expected
    assert received(pieces, content=False) == len(expected)


def test_the_limit_is_of_what_is_kept() -> None:
    def code(text: bytes) -> int:
        return codes(Talk(lenient=True, max_size=8).say(OPEN + text + b"\r\n.\r\n"))[-1]

    assert code(b"\n\n12") == 250  # 2 + 2 + 2 and the end
    assert code(b"\n\n123") == 552


# --- chunks


def bdat(content: bytes, last: bool) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(content), b" LAST" if last else b"", content)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"x"]), max_size=6).map(b"".join),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 9),
)
def test_chunks_are_mended_across_their_borders(texts: list[bytes], size: int) -> None:
    said = HELLO + MAIL + RCPT + b"".join(bdat(text, last) for text, last in lasts(texts))
    expected = mended(b"".join(texts))
    for pieces in ([said], [said[i : i + size] for i in range(0, len(said), size)]):
        talk = Talk(lenient=True)
        for piece in pieces:
            talk.say(piece)
        assert codes(talk.replies) == [250] * (3 + len(texts))
        assert b"".join(event[1] for event in talk.of("content")) == expected
        assert talk.of("end") == [("end", len(expected))]
        assert talk.counts.bytes == len(expected)


def lasts(texts: list[bytes]) -> list[tuple[bytes, bool]]:
    return [(text, number == len(texts)) for number, text in enumerate(texts, 1)]


def test_the_bytes_of_binarymime_are_nobodys_to_mend() -> None:
    talk = Talk(lenient=True)
    talk.say(HELLO + BINARY + RCPT + bdat(b"a\nb\r", False) + bdat(b"\nc\r", True))
    assert talk.of("content") == [("content", b"a\nb\r\nc\r")]
    assert talk.of("end") == [("end", 7)]


def test_a_chunk_that_outgrows_the_limit_by_being_mended() -> None:
    talk = Talk(lenient=True, max_size=6)
    said = MAIL + RCPT + bdat(b"\n\n\n", True) + MAIL + RCPT + bdat(b"\n\n\n\n", True) + b"NOOP\r\n"
    assert codes(talk.say(HELLO + said)) == [250, 250, 250, 250, 250, 250, 552, 250]
    # Announced: three bytes of text, the first of which is the LF to a CR that was counted with it.
    assert codes(talk.say(MAIL + RCPT + bdat(b"123\r", False) + bdat(b"\n4", True))) == [250, 250, 250, 250]
    assert codes(talk.say(MAIL + RCPT + bdat(b"123\r", False) + bdat(b"\n45", True))) == [250, 250, 250, 552]


# --- commands


SCRIPTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "commands that end in LF": (OPEN.replace(b"\r\n", b"\n") + b"x\n.\n\r\n.\r\nQUIT\n", {}),
    "an end of message is more than a line": (OPEN + b"x\n.\nQUIT\n", {}),
    "a login in lines": (
        HELLO + b"AUTH LOGIN\n" + b64(b"user") + b"\n" + b64(b"pass word") + b"\n" + MAIL,
        {"auth": LOGIN, "secure": True},
    ),
    "a chunk behind LF": (HELLO + MAIL + RCPT + b"BDAT 3 LAST\na\nbNOOP\n", {}),
    "a chunk too big by what was mended ahead of its end": (
        HELLO + MAIL + RCPT + bdat(b"\n\nabcd", True) + b"NOOP\n",
        {"max_size": 6},
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_cuts_do_not_matter(name: str) -> None:
    script, options = SCRIPTS[name]
    whole = Talk(lenient=True, **options)
    whole.say(script)
    for cut in range(1, len(script)):
        halves = Talk(lenient=True, **options)
        halves.say(script[:cut])
        halves.say(script[cut:])
        assert halves.settled() == whole.settled(), cut


@pytest.mark.parametrize("name, expected", [
    ("commands that end in LF", [250, 250, 250, 354, 250, 221]),
    ("an end of message is more than a line", [250, 250, 250, 354]),
    ("a login in lines", [250, 334, 334, 235, 250]),
    ("a chunk behind LF", [250, 250, 250, 250, 250]),
    ("a chunk too big by what was mended ahead of its end", [250, 250, 250, 552, 250]),
])  # fmt: skip
def test_a_command_may_end_in_lf(name: str, expected: list[int]) -> None:
    script, options = SCRIPTS[name]
    assert codes(Talk(lenient=True, **options).say(script)) == expected


def test_a_cr_does_not_end_a_command() -> None:
    assert codes(Talk(lenient=True).say(b"EHLO me\rNOOP\r\nNOOP\r\r\n\r\n\n")) == [500] * 4
