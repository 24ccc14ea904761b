"""Text as quoted-printable: it decodes to itself, whatever it holds and wherever it is cut."""

import quopri

from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from bulkmail.message.compiled import encode_text

TEXT = st.text(
    st.sampled_from("ab.= \t\n\r&<>\"'é田🙂\x0b\x7f\0") | st.characters(exclude_categories=["Cs"]), max_size=300
)


def newlines(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(data):
    return quopri.decodestring(data).decode().replace("\r\n", "\n")


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_text_decodes_to_itself(text):
    assert decoded(encode_text(text.encode())) == newlines(text)


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_html_is_escaped_as_markupsafe_does(text):
    assert decoded(encode_text(text.encode(), html=True)) == newlines(str(escape(text)))


def test_every_length_around_the_line_end_folds_within_76_bytes():
    for unit in ("x", ".", "=", "é", "&", " ", "\t", ". ", "🙂"):
        for n in range(60, 90):
            for tail in ("", ".", "\n", " \n", "\n.", "é"):
                made = encode_text((unit * n + tail).encode(), html=True)
                assert all(len(line) <= 76 for line in made.split(b"\r\n"))
                assert decoded(made) == str(escape(unit * n + tail))


def test_no_line_starts_with_a_dot_or_ends_in_a_blank():
    for n in range(70, 80):
        made = encode_text(b"." * 3 * n + b"\n." + b" " * n + b"\n.\n" + b"\t\n")
        lines = made.split(b"\r\n")
        assert not any(line.startswith(b".") for line in lines)
        assert not any(line.endswith((b" ", b"\t")) for line in lines)


def test_plain_text_stays_readable():
    assert encode_text(b"Hello Ann,\n\n  see https://example.com/?a=1\n") == (
        b"Hello Ann,\r\n\r\n  see https://example.com/?a=3D1\r\n"
    )
