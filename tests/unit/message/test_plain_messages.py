"""Messages of bytes that are sent as they are: looked at once in C, with what message.raw and the wire make of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message import raw
from bulkmail.message.ready import ready
from bulkmail.wire.body import encode_message
from bulkmail.wire.header import message_id

HEADER_END = re.compile(rb"\n\r?\n")
MESSAGE_ID = re.compile(rb"\nmessage-id:\s*(<[^<>\r\n]*>)", re.IGNORECASE)

PIECES = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b".", b"..", b" ", b"\t", b"x", b"\0", b"\xe4", b":", b"<", b">"]
PIECES += [b"From: a@b", b"Bcc: c@d", b"resent-BCC:", b"\r\nMessage-ID:", b"message-id: <1@x>", b"<2@x>", b"\x0b"]
messages = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


def reference_id(content):
    head = b"\n" + content
    if end := HEADER_END.search(head):
        head = head[: end.start()]
    place = head.lower().find(b"\nmessage-id:")
    found = MESSAGE_ID.match(head, place) if place >= 0 else None
    return found[1].decode("ascii", "replace") if found else None


@given(messages)
@example(b"From: a@b\r\n\r\n.dot\r\n")
@example(b"From: a@b\n\n.dot")
@example(b"From: a@b\r\nMessage-ID:\r\n <1@x>\r\n\r\nMessage-ID: <2@x>\r\n")
@example(b"Message-ID: <\xe4@x>\r\n\r\n")
def test_what_is_ready_is_what_prepare_and_the_encoder_make_of_it(data):
    found = ready(data)
    try:
        content = raw.prepare(data)
    except MessageError:
        assert found is None
        return
    if found is not None:
        assert (found.data, found.content, found.body) == (data, content, encode_message(content))
        assert (found.ascii, found.message_id) == (content.isascii(), reference_id(content))
        assert found.content is data or content != data


@given(messages)
def test_a_message_id_is_found_where_it_was_found_by_expressions(content):
    assert message_id(content) == reference_id(content)


@pytest.mark.parametrize(
    "data",
    [
        b"From: a@b\r\nBcc: c@d\r\n\r\nx",
        b"rEsent-bCC: c@d\r\n\r\nx",
        b"no field\r\n",
        b"",
        b"a: b\r\n\r\n\0",
        b": x\r\n",
    ],
)
def test_what_has_to_be_changed_or_refused_is_not_ready(data):
    assert ready(data) is None


def test_a_bcc_below_the_header_is_text():
    assert ready(b"From: a@b\r\n\r\nBcc: c@d\r\n").content.endswith(b"Bcc: c@d\r\n")


def test_a_message_id_beyond_what_is_searched_is_none():
    filler = b"X: " + b"y" * 65536 + b"\r\n"
    assert message_id(b"A: b\r\n" + filler + b"Message-ID: <1@x>\r\n") is None
    assert message_id(b"Message-ID: <1@x>\r\n" + filler) == "<1@x>"
