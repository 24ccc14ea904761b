"""The dialogue as text: every line once, no secret, nothing that a terminal would obey."""

from __future__ import annotations

import logging

import pytest

from bulkmail.errors import ConfigError
from bulkmail.smtp import wirelog
from bulkmail.smtp.wirelog import MAX_SHOWN, make_trace


@pytest.fixture
def traced(tmp_path):
    """(trace, lines): what was written so far, without time and connection."""
    path = tmp_path / "wire.log"
    _, trace = make_trace(str(path))
    yield trace, lambda: [line.split(" ", 2)[2] for line in path.read_text().splitlines()]
    wirelog._files.pop(str(path)).close()


def test_off_there_is_no_trace_but_an_id_of_its_own():
    (one, none), (other, nothing) = make_trace(None), make_trace(False)
    assert none is nothing is None and one != other


def test_lines_of_both_sides(traced):
    trace, lines = traced
    trace("S", b"220-mx\r\n220 hi\r\n")
    trace("C", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
    assert lines() == ["S: 220-mx", "S: 220 hi", "C: MAIL FROM:<a@b>", "C: RCPT TO:<c@d>", "C: DATA"]


@pytest.mark.parametrize(
    "command", [b"AUTH PLAIN AGEAYg==\r\n", b"auth plain AGEAYg==\r\n", b"AUTH PLAIN  AGEAYg==\r\n"]
)
def test_an_initial_response_is_masked(traced, command):
    trace, lines = traced
    trace("C", command)
    assert lines() == [f"C: {command[:10].decode()} ***"]


def test_responses_are_masked_until_the_login_is_over(traced):
    trace, lines = traced
    for who, data in [
        ("C", b"AUTH LOGIN\r\n"),
        ("S", b"334 VXNlcg==\r\n"),
        ("C", b"YW5u\r\n"),
        ("S", b"334 UGFzcw==\r\n"),
        ("C", b"c2VjcmV0\r\n"),
        ("S", b"535 no\r\n"),
        ("C", b"NOOP\r\n"),
    ]:
        trace(who, data)
    assert lines()[0] == "C: AUTH LOGIN ***"
    assert lines()[2] == lines()[4] == "C: ***" and lines()[6] == "C: NOOP"


def test_a_long_line_is_cut_and_control_characters_are_shown_as_question_marks(traced):
    trace, lines = traced
    trace("S", b"250 " + b"x" * 1000 + b"\r\n")
    trace("S", b"250 \x1b[2J\x9b31m\x0c\x85a\rb\xff\r\n")
    long, odd = lines()
    assert len(long) < MAX_SHOWN + 50 and "1004 characters" in long
    assert odd.isprintable() and "\x1b" not in odd and odd.startswith("S: 250 ?[2J")


def test_one_reply_is_as_many_lines_as_the_server_sent_and_no_more(traced):
    trace, lines = traced
    trace("S", "250 one\u2028C: AUTH\x0bC: x\x1cy\r\n".encode())
    assert len(lines()) == 1


def test_the_logger_gets_the_connection_with_each_record(caplog):
    caplog.set_level(logging.DEBUG, logger="bulkmail.smtp")
    cid, trace = make_trace(True)
    trace("C", b"EHLO me\r\n")
    ((record),) = caplog.records
    assert record.cid == cid and record.getMessage() == "C: EHLO me" and record.name == "bulkmail.smtp"


def test_connections_share_a_file(tmp_path):
    path = tmp_path / "wire.log"
    (one, first), (other, second) = make_trace(str(path)), make_trace(str(path))
    first("C", b"NOOP\r\n")
    second("C", b"RSET\r\n")
    wirelog._files.pop(str(path)).close()
    assert [line.split(" ", 2)[1:] for line in path.read_text().splitlines()] == [[one, "C: NOOP"], [other, "C: RSET"]]


@pytest.mark.parametrize("path", ["missing/wire.log", "."])
def test_a_file_that_cannot_be_written(tmp_path, path):
    with pytest.raises(ConfigError, match="option 'wire_log'"):
        make_trace(str(tmp_path / path))


def test_a_full_disk_costs_the_log_and_not_the_mail(traced, caplog, monkeypatch):
    trace, _ = traced
    monkeypatch.setattr(trace, "_write", lambda text: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    trace("C", b"NOOP\r\n")
    trace("C", b"RSET\r\n")
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "No space left" in caplog.text
