"""Header fields: encoded, folded, and never more than one field whatever the value."""

from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import SMTP
from email.utils import getaddresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message import headers
from bulkmail.message.compiled import encoded_words

VALUE = st.text(
    st.sampled_from(' ab\t=?"\\,<>()é田🙂\x01\x7f') | st.characters(exclude_categories=["Cs"]), max_size=200
).map(lambda text: "".join(c for c in text if c not in "\r\n\0").strip(" \t"))


def one_field(line):
    message = message_from_bytes(line + b"\r\n", policy=SMTP)
    assert len(message.keys()) == 1 and not message.defects
    return message


@settings(max_examples=500, deadline=None)
@given(VALUE)
def test_unstructured_values_come_back(value):
    line = headers.unstructured("Subject", value)
    assert str(one_field(line)["Subject"]) == value
    assert all(len(part) <= 998 for part in line.split(b"\r\n")) and line.isascii()


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), st.integers(0, 120))
def test_encoded_words_keep_their_bounds_and_whole_characters(text, col):
    words, last = encoded_words(text.encode(), col)
    lines = words.split(b"\r\n")
    for number, line in enumerate(lines):
        assert len(line) + (col if number == 0 else 0) <= 76 or (number == 0 and not line)
        for word in line.split():
            assert len(word) <= 75
            decode_header(word.decode())[0][0].decode("utf-8")  # whole characters
    assert str(make_header(decode_header(words.decode()))) == text
    assert last == len(lines[-1]) + (col if len(lines) == 1 else 0)


SEEN_AS_ONE = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🇧🇷", "e\u0301", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "👩🏽‍🚀", "é", "a", " ", "ש", "日"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SEEN_AS_ONE), min_size=1, max_size=40), st.integers(0, 80))
def test_what_is_seen_as_one_character_is_in_one_word(pieces, col):
    words, _ = encoded_words("".join(pieces).encode(), col)
    ends, done = set(), 0
    for piece in pieces:
        done += len(piece.encode())
        ends.add(done)
    taken = 0
    for word in words.split():
        taken += len(decode_header(word.decode())[0][0])
        assert taken in ends


def test_what_no_line_can_hold_is_still_divided_between_characters():
    long = "👩" + "\u200d👩" * 30
    words, _ = encoded_words(long.encode(), 9)
    assert str(make_header(decode_header(words.decode()))) == long
    assert all(len(line) <= 76 for line in words.split(b"\r\n"))
    for word in words.split():
        decode_header(word.decode())[0][0].decode()


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=4))
def test_mailboxes_come_back(names):
    boxes = [(name, f"user{n}@example.com") for n, name in enumerate(names)]
    line = headers.mailboxes("To", boxes, "to")
    found = getaddresses([message_from_bytes(line)["To"]])
    assert [(str(make_header(decode_header(name))), address) for name, address in found] == boxes


def test_long_text_is_folded_at_blanks_within_78():
    line = headers.unstructured("Subject", "word " * 60 + "end")
    assert all(len(part) <= 78 for part in line.split(b"\r\n"))
    assert b"=?" not in line


def test_a_run_too_long_for_a_line_becomes_encoded_words():
    line = headers.unstructured("X-Token", "x" * 2000)
    assert all(len(part) <= 76 for part in line.split(b"\r\n"))
    assert str(one_field(line)["X-Token"]) == "x" * 2000


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\r\nBcc: x@example.com", "a\0b", "\ud800"])
def test_values_that_would_end_the_field_are_refused_by_name(bad):
    with pytest.raises(MessageError, match=r"^subject: "):
        headers.check_value(bad, "subject")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("Subject", "'subject'"),
        ("REPLY-TO", "'reply_to'"),
        ("list-unsubscribe-post", "one_click"),
        ("Bcc", "add recipients"),
    ],
)
def test_a_custom_header_of_ours_names_the_key_to_use(name, remedy):
    with pytest.raises(MessageError, match=remedy):
        headers.check_name(name)


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\n", "Xé", "x" * 61])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(MessageError, match="not a header name"):
        headers.check_name(name)


def test_list_id_forms():
    assert headers.list_id("news.example.com") == b"List-Id: <news.example.com>\r\n"
    assert headers.list_id("Example News <news.example.com>") == b"List-Id: Example News <news.example.com>\r\n"
    assert headers.list_id('"News, daily" <n.example.com>') == b'List-Id: "News, daily" <n.example.com>\r\n'
    for bad in ("two words", "<a> <b>", "x\ny", ""):
        with pytest.raises(MessageError, match="list_id"):
            headers.list_id(bad)


def test_uris_are_made_legal_without_encoding_twice():
    line = headers.uris("List-Unsubscribe", ["https://e.com/?a=%20&b=c d<>é", "mailto:u@e.com"], "list_unsubscribe")
    assert line == b"List-Unsubscribe: <https://e.com/?a=%20&b=c%20d%3C%3E%C3%A9>, <mailto:u@e.com>\r\n"


def test_an_address_that_would_not_fit_a_uri_line_is_refused():
    with pytest.raises(MessageError, match="URI of 0 bytes"):
        headers.uris("List-Unsubscribe", [""], "list_unsubscribe")
    with pytest.raises(MessageError, match="list_unsubscribe"):
        headers.uris("List-Unsubscribe", ["https://e.com/" + "x" * 1000], "list_unsubscribe")


def test_only_recipients_may_have_a_local_part_beyond_ascii():
    assert headers.checked_address("ünï@example.com", "to", allow="ünï@example.com") == "ünï@example.com"
    with pytest.raises(MessageError, match="beyond ASCII"):
        headers.checked_address("ünï@example.com", "from")
    assert headers.checked_address("a@bücher.example", "from") == "a@xn--bcher-kva.example"
