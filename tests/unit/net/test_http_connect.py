"""HTTP CONNECT: a greeting that comes with the answer survives; heads in every shape, refusals, an end anywhere."""

from __future__ import annotations

import pytest

from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.proxies import TargetRefused
from bulkmail.net.proxies.http_connect import MAX_HEAD
from unit.net.fake_proxies import GREETING, HTTP_CONNECTED, shake

PLAIN = "http://proxy.example:3128"
LOGIN = "http://ann:pw@proxy.example:3128"

HEADS = {
    "short": HTTP_CONNECTED,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "no reason phrase": b"HTTP/1.1 200\r\n\r\n",
    "empty reason phrase": b"HTTP/1.1 200 \r\n\r\n",
    "headers": b"HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\nProxy-Agent: x/1\r\n\r\n",
    # RFC 9110 section 9.3.6: neither header means anything in a 2xx answer to CONNECT
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "201": b"HTTP/1.1 201 Created\r\n\r\n",
    "lone LF": b"HTTP/1.1 200 OK\nVia: x\n\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
}


def answering(*pieces):
    async def script(peer):
        request = await peer.until(b"\r\n\r\n")
        assert request == b"CONNECT mx.example:25 HTTP/1.1\r\nHost: mx.example:25\r\n\r\n"
        await peer.send_pieces(pieces)

    return script


def refused(run, script, url=PLAIN, **options):
    with pytest.raises(ProxyError) as caught:
        run(shake(url, script, **options))
    assert "pw" not in str(caught.value) and str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("head", HEADS)
def test_a_greeting_in_the_segment_of_the_answer_is_kept(run, head):
    assert run(shake(PLAIN, answering(HEADS[head] + GREETING))) == GREETING


@pytest.mark.parametrize("head", HEADS)
def test_an_answer_byte_by_byte(run, head):
    pieces = [bytes((byte,)) for byte in HEADS[head] + GREETING]
    assert run(shake(PLAIN, answering(*pieces))) == GREETING


@pytest.mark.parametrize("head", ["headers", "lone LF", "interim"])
def test_an_answer_cut_in_two_anywhere(run, head):
    stream = HEADS[head] + GREETING

    async def all_cuts():
        for cut in range(1, len(stream)):
            assert await shake(PLAIN, answering(stream[:cut], stream[cut:])) == GREETING, cut

    run(all_cuts())


def test_headers_that_come_later_are_not_taken_for_the_greeting(run):
    pieces = [b"HTTP/1.1 200 OK\r\n", b"Via: proxy\r\nX-Id: 1\r\n", b"\r\n", GREETING]
    assert run(shake(PLAIN, answering(*pieces))) == GREETING


@pytest.mark.parametrize("greeting", [b"", b"\r\n\r\n", b"HTTP/1.1 500 no\r\n\r\n", b"\n\n220 x"])
def test_whatever_follows_the_head_is_the_targets(run, greeting):
    assert run(shake(PLAIN, answering(HTTP_CONNECTED + greeting))) == greeting


def test_the_login_is_sent_as_basic(run):
    async def script(peer):
        request = await peer.until(b"\r\n\r\n")
        assert b"\r\nProxy-Authorization: Basic w7w6cDp3JQ==\r\n" in request  # "ü:p:w%" in UTF-8
        await peer.send(HTTP_CONNECTED)

    run(shake("http://%C3%BC:p%3Aw%25@proxy.example", script))


def test_an_ipv6_target_is_in_brackets(run):
    async def script(peer):
        request = await peer.until(b"\r\n\r\n")
        assert request == b"CONNECT [2001:db8::1]:25 HTTP/1.1\r\nHost: [2001:db8::1]:25\r\n\r\n"
        await peer.send(HTTP_CONNECTED)

    run(shake(PLAIN, script, host="2001:db8::1"))


@pytest.mark.parametrize("host", ["a\r\nX-Evil: 1", "a\0b", "a b", "x" * 256, "", "fe80::1%eth0"])
def test_a_target_that_could_break_the_request_is_never_asked_for(run, host):
    async def script(peer):
        await peer.hear_nothing()

    refused(run, script, host=host)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", 403, "it answered 403 Forbidden: it does not allow this target or port"),
        (b"HTTP/1.1 405 No\r\n\r\n", 405, "it does not allow CONNECT"),
        (
            b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            407,
            "it wants a user and password: http://",
        ),
        (b"HTTP/1.1 407 Auth\r\n\r\n", 407, "it wants a user and password"),
        (
            b"HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Negotiate\r\n\r\n",
            407,
            "NTLM or Negotiate",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\nbody", 502, "it cannot reach the target"),
        (b"HTTP/1.0 503 x\r\n\r\n", 503, "it cannot reach the target"),
        (b"HTTP/1.1 504\r\n\r\n", 504, "the target did not answer it"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", 302, "it answered 302 Found"),
        (b"HTTP/1.1 500 \x1b[31m\xff\r\n\r\n", 500, "it answered 500 \\x1b[31m\\xff"),
    ],
)
def test_every_refusal_names_proxy_step_and_status(run, answer, code, words):
    error = refused(run, answering(answer))
    assert error.reply_code == code and error.proxy == PLAIN and not isinstance(error, TargetRefused)
    assert str(error).startswith(f"proxy {PLAIN}: asking for mx.example:25: ") and words in str(error)


@pytest.mark.parametrize("status", [b"401", b"407"])
def test_a_login_that_is_refused(run, status):
    async def script(peer):
        await peer.until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 " + status + b" Authentication required\r\n\r\n")

    error = refused(run, script, LOGIN)
    assert "it refused the user or password" in str(error) and error.proxy == "http://ann:***@proxy.example:3128"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"220 mx.example ESMTP\r\n", "it does not speak HTTP, it said b'220 mx.example"),
        (b"\5\xff", "it does not speak HTTP"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "it does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 10, "interim answers without end"),
    ],
)
def test_nonsense_is_refused_at_once(run, answer, words):
    async def script(peer):
        await peer.until(b"\r\n\r\n")
        await peer.send(answer)
        await peer.hang()

    assert words in str(refused(run, script))


def test_headers_without_end_are_bounded(run):
    sent = 0

    async def script(peer):
        nonlocal sent
        await peer.until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.send(b"X: " + b"y" * 1021 + b"\r\n")
            sent += 1026

    assert f"more than {MAX_HEAD} bytes" in str(refused(run, script))
    assert sent < 100 * MAX_HEAD


@pytest.mark.parametrize("sent", range(len(HTTP_CONNECTED)))
def test_an_end_at_every_byte(run, sent):
    error = refused(run, answering(HTTP_CONNECTED[:sent]))
    assert "asking for mx.example:25: it closed the connection" in str(error)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r"])
def test_a_silent_proxy_runs_out_of_time(run, start):
    async def script(peer):
        await peer.send(start)
        await peer.hang()

    with pytest.raises(TimedOut, match=r"no answer while asking for mx\.example:25") as caught:
        run(shake(LOGIN, script, seconds=0.05))
    assert caught.value.phase == "proxy" and "ann:***@" in str(caught.value)
