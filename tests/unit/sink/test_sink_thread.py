"""SmtpSink: a server beside code that blocks."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import threading
import time

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Message, Refuse, SmtpSink

LETTER = (
    b"From: a@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Two: 1\r\nX-Two: 2\r\n\r\nHello\r\nthere\r\n"
)


def send(sink, content=LETTER, to=("b@example.com",)):
    with smtplib.SMTP(sink.host, sink.port, timeout=20) as client:
        client.sendmail("a@example.com", to, content)


def test_blocking_code_delivers_and_finds_its_message():
    with SmtpSink() as sink:
        send(sink)
        (message,) = sink.messages
        assert message.content == LETTER
        assert (message.sender, message.recipients) == ("a@example.com", ["b@example.com"])
        assert sink.url == f"smtp://127.0.0.1:{sink.port}"
        assert sink.counts["messages"] == 1


def test_nothing_is_left_behind_and_what_came_stays():
    threads = threading.active_count()
    with SmtpSink() as sink:
        send(sink)
        lingering = socket.create_connection((sink.host, sink.port), timeout=20)
        assert lingering.recv(4) == b"220 "
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert len(sink.messages) == 1
    with lingering:
        heard = lingering.makefile("rb").read()  # to its end: the sink has closed it
    assert b"\r\n421 " in heard
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", sink.port), timeout=20):
        pass
    sink.stop()


def test_a_message_that_is_left_in_the_middle_does_not_hold_the_end_up():
    half = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: x\r\n"
    with SmtpSink() as sink, socket.create_connection((sink.host, sink.port), timeout=20) as client:
        client.sendall(half)
        replies = client.makefile("rb")
        assert any(line.startswith(b"354 ") for line in replies)
        began = time.monotonic()
        sink.stop()
        assert time.monotonic() - began < 4  # grace would be 5 seconds
        assert sink.messages == []


def test_a_place_that_is_taken_is_said_and_leaves_no_thread():
    threads = threading.active_count()
    with SmtpSink() as first, pytest.raises(ConfigError, match="in use"), SmtpSink(listen=f"127.0.0.1:{first.port}"):
        pass
    assert threading.active_count() == threads
    with pytest.raises(ConfigError, match="did you mean 'max_size'"):
        SmtpSink(maxsize=1)
    for option in ({"store": "box"}, {"mbox": "box"}, {"discard": True}):
        with pytest.raises(ConfigError, match="no option"):
            SmtpSink(**option)


def test_waiting_returns_as_soon_as_enough_have_come():
    with SmtpSink() as sink:
        assert sink.wait_for(0, timeout=0) == []
        client = threading.Thread(target=lambda: [send(sink) for _ in range(3)])
        client.start()
        assert len(sink.wait_for(2, timeout=60)) >= 2
        client.join()
        assert len(sink.wait_for(3, timeout=0)) == 3


def test_waiting_in_vain_tells_what_came_and_what_was_refused():
    class Hooks:
        def on_rcpt(self, session, address, parameters):
            if address.startswith("nobody"):
                raise Refuse(550, "No such user", "5.1.1")

    with SmtpSink(Hooks()) as sink:
        send(sink)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(sink, to=["nobody@example.com"])
        with pytest.raises(AssertionError) as caught:
            sink.wait_for(2, timeout=0.05)
    told = str(caught.value)
    assert "expected 2 messages within 0.05 s, got 1" in told
    assert "came: <a@example.com> to b@example.com: Grüße" in told
    assert "refused: 550 5.1.1 No such user" in told
    assert "await" not in told
    assert sink.refused == ["550 5.1.1 No such user"]


def test_a_message_that_no_parser_reads_is_told_all_the_same(monkeypatch):
    with SmtpSink() as sink:
        send(sink, b"Subject: x\r\n\r\n")
        monkeypatch.setattr(Message, "__getitem__", lambda *_: 1 / 0)
        with pytest.raises(AssertionError, match="cannot be read"):
            sink.wait_for(2, timeout=0)


def test_a_coroutine_waits_while_its_loop_goes_on(run):
    async def main(sink):
        sending = asyncio.create_task(asyncio.to_thread(send, sink))
        messages = await sink.wait_for_async(1, timeout=60)
        await sending
        with pytest.raises(AssertionError, match="expected 2 messages"):
            await sink.wait_for_async(2, timeout=0.05)
        with pytest.raises(AssertionError, match=r"write `await smtp_sink\.wait_for_async"):
            sink.wait_for(2, timeout=0.05)
        return messages

    with SmtpSink() as sink:
        assert run(main(sink)) == sink.messages
        send(sink)  # nobody wakes a loop that has gone
        assert sink._watchers == set()


def test_a_fault_is_asked_for_from_the_tests_thread():
    with SmtpSink() as sink, smtplib.SMTP(sink.host, sink.port, timeout=20) as client:
        sink.fail_next("rcpt", "451 4.7.1 Later", times=2)
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@example.com", "b@example.com", LETTER)
        assert client.sendmail("a@example.com", "b@example.com", LETTER) == {}
        assert sink.refused == ["451 4.7.1 Later"] * 2
        with pytest.raises(ConfigError):
            sink.fail_next("recipient", "451 4.7.1 Later")


def test_clear_forgets_what_came():
    with SmtpSink(max_size=1000) as sink:
        send(sink)
        with pytest.raises(smtplib.SMTPException):
            send(sink, b"x" * 2000)
        sink.clear()
        assert (sink.messages, sink.refused) == ([], [])
        send(sink, b"another\r\n")
        assert [message.content for message in sink.wait_for(1)] == [b"another\r\n"]
        assert sink.counts["messages"] == 2
    sink.clear()
    assert sink.messages == []


def test_what_was_cleared_takes_no_room(monkeypatch):
    monkeypatch.setattr("bulkmail.sink.store.MAX_KEPT_BYTES", 3 * len(LETTER) // 2)
    with SmtpSink() as sink:
        for _ in range(3):
            send(sink)
            sink.clear()


def test_a_hook_may_clear_the_sink_that_it_belongs_to():
    class Hooks:
        def on_connect(self, session):
            sink.clear()

    with SmtpSink(Hooks()) as sink:
        send(sink)
        send(sink)
        assert len(sink.messages) == 1


def test_a_sink_starts_and_ends_fast_enough_for_every_test():
    with SmtpSink():
        pass  # what is imported once
    runs = []
    for _ in range(20):
        began = time.process_time()
        with SmtpSink():
            pass
        runs.append(time.process_time() - began)
    assert min(runs) < 0.02  # of the processor's time: the machine may be busy with others


def message(content):
    return Message("1.1", "a@b.c", [], {}, "127.0.0.1", 1, None, None, None, None, None, content)


def test_a_message_shows_its_header_fields_and_texts():
    letter = message(LETTER)
    assert (letter["Subject"], letter["subject"], letter["X-Two"], letter["X-None"]) == ("Grüße", "Grüße", "1", None)
    assert "subject" in letter and "X-None" not in letter
    assert (letter.text, letter.html) == ("Hello\nthere\n", "")
    both = message(
        b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n'
        b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>Gr=C3=BC=C3=9Fe\r\n--b--\r\n"
    )
    assert (both.text, both.html) == ("plain", "<p>Grüße")
    assert both.email.is_multipart() and both.email is both.email


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"\x00\xff\r\n", "\x00\ufffd\n"),
        (b"Subject: caf\xc3\xa9\r\n\r\nx", "x"),
        (b"Content-Type: text/plain; charset=x-unknown\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n", "Grüße\n"),
        (b"Content-Type: image/png\r\n\r\nabc", ""),
        (b"Content-Type: multipart/mixed\r\n\r\nno boundary", ""),
    ],
)
def test_no_content_is_too_odd_for_text(content, text):
    odd = message(content)
    assert (odd.text, odd.html) == (text, "")
    assert odd["Subject"] in (None, "café")
