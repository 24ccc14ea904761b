"""Transfer encodings: each text gets the one that fits it, and comes back out of every one of them."""

import base64
import quopri

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.base64_lines import encode_base64
from bulkmail.message.encodings import check_encoding, choose_encoding, choose_whole, encode_whole

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("", "7bit"),
        ("Hi\n.\nplain\ttext\r\nwith\rlines\n", "7bit"),
        ("x" * 78, "7bit"),
        ("x" * 79, "quoted-printable"),
        ("blank at the end \nof a line", "quoted-printable"),
        ("x\nFrom here on", "quoted-printable"),
        ("--=_x", "quoted-printable"),
        ("nul \0", "quoted-printable"),
        ("\x1b[1m", "quoted-printable"),
        ("\x7f", "quoted-printable"),
        ("Grüße aus Köln, wo es schön ist", "quoted-printable"),
        ("Привет, мир", "base64"),
        ("こんにちは", "base64"),
        ("<p style='font-family: Helvetica, Arial, sans-serif'>田</p>", "quoted-printable"),
        ("=====\n= = =\n=====" * 9, "7bit"),
    ],
)
def test_a_whole_text_gets_the_encoding_that_fits(text, encoding):
    assert choose_whole(text) == encoding
    assert choose_encoding(text) == ("quoted-printable" if encoding == "7bit" else encoding)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_texts_come_back_out_of_every_encoding(text):
    data = text if text.endswith(("\n", "\r")) else text + "\n"
    expected = data.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").encode()
    assert base64.b64decode(encode_whole(text, "base64", "text")) == expected
    printable = encode_whole(text, "quoted-printable", "text")
    assert quopri.decodestring(printable.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n") == expected
    if "\0" not in text:
        assert encode_whole(text, "8bit", "text") == expected
    if choose_whole(text) == "7bit":
        assert encode_whole(text, "7bit", "text") == expected and expected.isascii()


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_base64_is_chosen_only_where_it_is_the_shorter_one(text):
    if choose_encoding(text) == "base64":
        # The last group of base64 is padded, and every line of it is as long as quoted-printable's at most.
        assert len(encode_whole(text, "base64", "text")) <= len(encode_whole(text, "quoted-printable", "text")) + 4


@pytest.mark.parametrize("size", [0, 1, 2, 56, 57, 58, 114, 57 * 4096 - 1, 57 * 4096, 57 * 4096 + 1, 700_001])
def test_base64_is_lines_of_76_characters(size):
    data = bytes(i * 7 % 256 for i in range(size))
    assert encode_base64(data) == base64.encodebytes(data).replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ("ü", "7bit", "beyond ASCII"),
        ("x\n" + "y" * 999, "7bit", "line 2 has more than 998 bytes"),
        ("é" * 500, "8bit", "line 1 has more than 998 bytes"),
        ("a\0b", "8bit", "a NUL at byte 1"),
        ("a\ud800", "base64", "not valid Unicode"),
        ("a\ud800", "8bit", "not valid Unicode"),
    ],
)
def test_what_an_encoding_cannot_carry_is_refused(text, encoding, words):
    with pytest.raises(MessageError, match=words) as caught:
        encode_whole(text, encoding, "text")
    assert str(caught.value).startswith("text: ")
    assert encode_whole("x" * 998, "8bit", "text")


def test_an_unknown_encoding_is_an_error_that_names_the_known_ones():
    with pytest.raises(MessageError, match=r"encoding: 'uuencode', expected one of 7bit, 8bit, quoted-print"):
        check_encoding("uuencode", "encoding")
