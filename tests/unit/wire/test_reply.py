"""Replies from bytes: whatever way the stream is cut, the same replies; whatever is not SMTP, one clear error."""

import pickle
import tracemalloc

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
        b"100-wait\r\n100 for it\r\n",
        b"199 no\r\n",
        b"600 no\r\n",
        b"000 no\r\n",
        b"\r\n",
        b" 250 no\r\n",
        b"25x ok\r\n",
        b"2\x0050 ok\r\n",
        b"\x00250 ok\r\n",
        b"250-first\r\n251 second\r\n",
        b"250-first\r\nsecond\r\n250 third\r\n",
        b"250_no\r\n",
        b"250\tno\r\n",
        b"250\x00\r\n",
        b"250\rno\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
def test_what_is_no_reply_is_a_protocol_error_that_shows_it(bad):
    with pytest.raises(ProtocolError, match=r"^not an SMTP reply: b.*, expected ") as caught:
        read([bad])
    assert caught.value.code == "EPROTOCOL"
    with pytest.raises(ProtocolError) as again:
        read([bad[i : i + 1] for i in range(len(bad))])
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b"hello\r\n", "not an SMTP reply: b'hello', expected three digits, then a space or '-'"),
        (b"100 wait\r\n", "not an SMTP reply: b'100 wait', its code is 100, expected 200 to 599"),
        (
            b"250-a\r\n251 b\r\n",
            "not an SMTP reply: b'251 b', its code is 251, expected 250 as on the line before",
        ),
        (b"x" * 1000 + b"\n", f"not an SMTP reply: b'{'x' * 80}', expected three digits, then a space or '-'"),
    ],
)
def test_a_protocol_error_says_what_is_wrong(bad, sentence):
    with pytest.raises(ProtocolError) as caught:
        read([bad])
    assert str(caught.value) == sentence


def test_a_dead_reader_stays_dead():
    reader = ReplyReader()
    for data in (b"250 ok\r\nhello\r\n", b"", b"250 ok\r\n", b"\n"):
        with pytest.raises(ProtocolError, match="b'hello'"):
            reader.replies(data)


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"250\r\n", ("",)),
        (b"250 \r\n", ("",)),
        (b"250\n", ("",)),
        (b"250 Ok\n", ("Ok",)),
        (b"250 Ok\r\r\n", ("Ok",)),
        (b"250\r\r\n", ("",)),
        (b"250-\r\n250-\n250\r\n", ("", "", "")),
        (b"250-a\r\n250-250 b\r\n250 -c\r\n", ("a", "250 b", "-c")),
        (b"250  a  \r\n", (" a  ",)),
        (b"299 a\tb\r\n", ("a\tb",)),
        (b"250 a\x00b\rc\x1b[0m\r\n", ("a?b?c?[0m",)),
        ("250 grüß \x85 \x9b31m \u2028 Gott\r\n".encode(), ("grüß ? ?31m ? Gott",)),
        (b"550-5.1.1 a\r\n550 5.1.1 b\r\n", ("5.1.1 a", "5.1.1 b")),
    ],
)
def test_what_servers_send_is_read_as_it_is(raw, lines):
    (reply,), reader = read([raw[i : i + 1] for i in range(len(raw))])
    assert reply.code == int(raw[:3])
    assert reply.lines == lines
    assert reader.unread == 0
    assert read([raw])[0] == [reply]


def test_a_reply_without_end_is_refused_at_the_bound():
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than 65536"):
        for _ in range(100):
            reader.replies(b"2" * 1000)
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than 65536"):
        for _ in range(10_000):
            reader.replies(b"250-another line\r\n")


@pytest.mark.parametrize("size", [65536, 65537])
@pytest.mark.parametrize("head", [b"", b"250-first\r\n" * 100], ids=["one line", "many lines"])
def test_the_bound_is_the_same_however_the_reply_is_cut(size, head):
    stream = b"220 hi\r\n" + (head + b"250 ").ljust(size - 2, b"x") + b"\r\n"
    for step in (1, 1000, size):
        chunks = [stream[i : i + step] for i in range(0, len(stream), step)]
        if size > 65536:
            with pytest.raises(ProtocolError, match="longer than 65536"):
                read(chunks)
        else:
            assert [reply.code for reply in read(chunks)[0]] == [220, 250]


def test_too_long_comes_before_all_that_a_long_line_may_be():
    """Or the error would depend on whether the line's end has come."""
    for line in (b"hello", b"100 ", b"251 "):
        bad = b"250-a\n" + line.ljust(65536, b"x") + b"\n"
        for chunks in ([bad], [bad[:-1], b"\n"]):
            with pytest.raises(ProtocolError, match="longer than 65536"):
                read(chunks)


def test_of_a_long_reply_the_whole_lines_within_4_kib_are_kept():
    lines = [b"250-line %d\r\n" % i for i in range(3000)] + [b"250 end\r\n"]
    stream = b"".join(lines) + b"221 bye\r\n"
    (long, bye), _ = read([stream[i : i + 1000] for i in range(0, len(stream), 1000)])
    assert bye == Reply(221, "bye")
    kept = [line.decode()[4:-2] for line in lines if stream.index(line) + len(line) <= 4096]
    assert len(kept) == 301 - 1
    dropped = len(stream) - len(b"221 bye\r\n") - sum(map(len, lines[: len(kept)]))
    assert (long.code, long.lines) == (250, (*kept, f"[{dropped} bytes more]"))
    assert pickle.loads(pickle.dumps(long)) == long


@pytest.mark.parametrize(("size", "kept"), [(4096, 4096), (4097, 4096), (65536, 4096)])
def test_of_a_long_line_4_kib_are_kept(size, kept):
    (reply,), _ = read([b"550 5.7.1 ".ljust(size - 2, b"x") + b"\r\n"])
    assert reply.enhanced == "5.7.1"
    whole = ("5.7.1 ".ljust(size - 6, "x"),)
    assert reply.lines == (whole if size == kept else (whole[0][: kept - 4], f"[{size - kept} bytes more]"))


def test_a_challenge_is_kept_whole():
    """Half of one cannot be answered, and 3xx is in no receipt."""
    challenge = "x" * 12_000
    (reply,), _ = read([b"334 " + challenge.encode() + b"\r\n"])
    assert reply.lines == (challenge,)


def test_a_million_receipts_do_not_hold_what_a_wordy_server_said():
    wordy = b"250-" + b"a" * 60_000 + b"\r\n250 ok\r\n"
    reader = ReplyReader()
    tracemalloc.start()
    try:
        held = [reader.replies(wordy) for _ in range(20)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held) == 20
    assert size < 20 * 5000 + 2 * len(wordy)


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("2.1.5 ok", "2.1.5"), ("5.7.26", "5.7.26"), ("2.1.5ok", None), ("3.1.1 x", None), ("ok 2.1.5", None), ("", None)],
)
def test_enhanced_codes_stand_first_or_nowhere(text, enhanced):
    assert Reply(250, text).enhanced == enhanced


@pytest.mark.parametrize(
    ("raw", "enhanced"),
    [
        (b"250 5.1.1 accepted all the same\r\n", "5.1.1"),
        (b"421 5.7.32 unaligned\r\n", "5.7.32"),
        (b"550-5.1.1 unknown\r\n550 5.7.1 and unwanted\r\n", "5.1.1"),
        (b"550-unknown\r\n550 5.1.1 user\r\n", None),
        (b"354 2.0.0 go\r\n", "2.0.0"),
    ],
)
def test_an_enhanced_code_is_what_the_server_sent_and_does_not_change_the_code(raw, enhanced):
    (reply,), _ = read([raw])
    assert (reply.code, reply.enhanced) == (int(raw[:3]), enhanced)


def test_replies_compare_hash_show_and_pickle_by_content():
    parsed = read([b"250 2.0.0 Ok\r\n"])[0][0]
    made = Reply(250, ["2.0.0 Ok"])
    assert parsed == made
    assert hash(parsed) == hash(made)
    assert str(parsed) == "250 2.0.0 Ok"
    assert pickle.loads(pickle.dumps(parsed)) == made
    assert parsed != Reply(251, ["2.0.0 Ok"])
