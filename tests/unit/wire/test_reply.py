"""Replies from bytes: whatever way the stream is cut, the same replies; whatever is not SMTP, one clear error."""

import pickle

import pytest

from bulkmail.errors import ProtocolError
from bulkmail.wire.reply import Reply, ReplyReader

STREAM = (
    b"220 mx.example.test ESMTP\r\n"
    b"250-mx.example.test\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
    b"250 2.1.0 Ok\n"
    b"354\r\n"
    b"550-5.1.1 <ann@example.test>: no such user\r\n550 5.1.1 gone \xff\xfe\r\n"
    b"421 4.7.0 \x1b[31mred\r\n"
)
CODES = [220, 250, 250, 354, 550, 421]


def read(chunks):
    reader = ReplyReader()
    found = [reply for chunk in chunks for reply in reader.replies(chunk)]
    return found, reader


def test_a_stream_read_whole_gives_every_reply():
    replies, reader = read([STREAM])
    assert [r.code for r in replies] == CODES
    assert reader.unread == 0
    assert replies[1].lines == ("mx.example.test", "PIPELINING", "SIZE 1000")
    assert replies[3].lines == ("",)
    assert replies[4].enhanced == "5.1.1"
    assert replies[2].text == "2.1.0 Ok"


def test_cut_in_two_at_every_byte_gives_the_same_replies():
    whole, _ = read([STREAM])
    for cut in range(len(STREAM) + 1):
        assert read([STREAM[:cut], STREAM[cut:]])[0] == whole, cut


def test_byte_by_byte_gives_the_same_replies():
    whole, _ = read([STREAM])
    assert read([STREAM[i : i + 1] for i in range(len(STREAM))])[0] == whole


def test_undecodable_and_control_bytes_never_reach_a_terminal():
    replies, _ = read([STREAM])
    assert "\x1b" not in str(replies[5])
    assert "\N{REPLACEMENT CHARACTER}" in replies[4].text


@pytest.mark.parametrize(
    "bad",
    [
        b"hello\r\n",
        b"25\r\n",
        b"2500 ok\r\n",
        b"199 no\r\n",
        b"600 no\r\n",
        b"\r\n",
        b"25x ok\r\n",
        b"250-first\r\n251 second\r\n",
        b"250_no\r\n",
    ],
)
def test_what_is_no_reply_is_a_protocol_error_that_shows_it(bad):
    with pytest.raises(ProtocolError) as caught:
        read([bad])
    assert caught.value.code == "EPROTOCOL"
    with pytest.raises(ProtocolError):
        read([bad[i : i + 1] for i in range(len(bad))])


def test_a_reply_without_end_is_refused_at_the_bound():
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than 65536"):
        for _ in range(100):
            reader.replies(b"2" * 1000)
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than 65536"):
        for _ in range(10_000):
            reader.replies(b"250-another line\r\n")


def test_a_long_multi_line_reply_below_the_bound_is_read():
    lines = b"".join(b"250-line %d\r\n" % i for i in range(3000)) + b"250 end\r\n"
    replies, _ = read([lines[i : i + 1000] for i in range(0, len(lines), 1000)])
    assert len(replies) == 1
    assert len(replies[0].lines) == 3001


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("2.1.5 ok", "2.1.5"), ("5.7.26", "5.7.26"), ("2.1.5ok", None), ("3.1.1 x", None), ("ok 2.1.5", None), ("", None)],
)
def test_enhanced_codes_stand_first_or_nowhere(text, enhanced):
    assert Reply(250, text).enhanced == enhanced


def test_replies_compare_hash_show_and_pickle_by_content():
    parsed = read([b"250 2.0.0 Ok\r\n"])[0][0]
    made = Reply(250, ["2.0.0 Ok"])
    assert parsed == made
    assert hash(parsed) == hash(made)
    assert str(parsed) == "250 2.0.0 Ok"
    assert pickle.loads(pickle.dumps(parsed)) == made
    assert parsed != Reply(251, ["2.0.0 Ok"])
