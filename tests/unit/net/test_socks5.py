"""SOCKS5: the bytes of each step, every way an answer can be cut, every refusal, and an end at every step."""

from __future__ import annotations

import pytest

from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.proxies import TargetRefused
from unit.net.fake_proxies import (
    GREETING,
    SOCKS_CONNECTED,
    SOCKS_NO_LOGIN,
    SOCKS_NONE_ACCEPTED,
    SOCKS_WITH_LOGIN,
    shake,
)

PLAIN = "socks5h://proxy.example"
LOGIN = "socks5h://ann:pw@proxy.example"
ASK = b"\5\1\0\3\x0amx.example\0\x19"

BOUND = {
    "IPv4": SOCKS_CONNECTED,
    "IPv6": b"\5\0\0\4" + bytes(15) + b"\1\x1f\x90",
    "name": b"\5\0\0\3\x09localhost\x1f\x90",
    "empty name": b"\5\0\0\3\0\x1f\x90",
    "name of 255 bytes": b"\5\0\0\3\xff" + b"n" * 255 + b"\x1f\x90",
}


def no_login(answer, *more):
    async def script(peer):
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(ASK)
        await peer.send_pieces([answer, *more])

    return script


def refused(run, script, url=PLAIN, **options):
    with pytest.raises(ProxyError) as caught:
        run(shake(url, script, **options))
    assert "pw" not in str(caught.value) and str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("bound", BOUND)
def test_a_greeting_in_the_segment_of_the_reply_is_kept(run, bound):
    assert run(shake(PLAIN, no_login(BOUND[bound] + GREETING))) == GREETING


@pytest.mark.parametrize("bound", BOUND)
def test_a_reply_byte_by_byte(run, bound):
    pieces = [bytes((byte,)) for byte in BOUND[bound] + GREETING]
    assert run(shake(PLAIN, no_login(*pieces))) == GREETING


@pytest.mark.parametrize("bound", ["IPv4", "IPv6", "name"])
def test_a_reply_cut_in_two_anywhere(run, bound):
    stream = BOUND[bound] + GREETING

    async def all_cuts():
        for cut in range(1, len(stream)):
            assert await shake(PLAIN, no_login(stream[:cut], stream[cut:])) == GREETING, cut

    run(all_cuts())


@pytest.mark.parametrize(
    ("url", "login"),
    [
        (LOGIN, b"\1\3ann\2pw"),
        ("socks5h://a%40b:p%3Aw%25@h", b"\1\3a@b\4p:w%"),
        ("socks5h://ann:@h", b"\1\3ann\0"),
        ("socks5h://ann@h", b"\1\3ann\0"),
        ("socks5h://%C3%BC:%E2%82%AC@h", b"\1\2\xc3\xbc\3\xe2\x82\xac"),
        ("socks5h://" + "u" * 255 + ":" + "p" * 255 + "@h", b"\1\xff" + b"u" * 255 + b"\xff" + b"p" * 255),
    ],
)
def test_a_login_is_sent_as_it_was_meant(run, url, login):
    async def script(peer):
        await peer.expect(b"\5\2\0\2")
        await peer.send(SOCKS_WITH_LOGIN)
        await peer.expect(login)
        await peer.send(b"\1\0")
        await peer.expect(ASK)
        await peer.send(SOCKS_CONNECTED + GREETING)

    assert run(shake(url, script)) == GREETING


def test_a_proxy_that_wants_no_login_gets_none(run):
    async def script(peer):
        await peer.expect(b"\5\2\0\2")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(ASK)
        await peer.send(SOCKS_CONNECTED)

    assert run(shake(LOGIN, script)) == b""


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("192.0.2.1", b"\1\xc0\0\2\1"),
        ("2001:db8::1", b"\4\x20\1\x0d\xb8" + bytes(11) + b"\1"),
        ("a_b.example.", b"\3\x0ca_b.example."),
        ("bücher.example", b"\3\x15xn--bcher-kva.example"),
    ],
)
def test_the_target_is_an_address_or_a_name(run, host, asked):
    async def script(peer):
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(b"\5\1\0" + asked + b"\0\x19")
        await peer.send(SOCKS_CONNECTED)

    assert run(shake(PLAIN, script, host=host)) == b""


@pytest.mark.parametrize("host", ["a\r\nb", "a\0b", "a b", "x" * 256, ".".join(["x" * 63] * 5), "", "fe80::1%eth0"])
def test_a_target_that_could_break_the_request_is_never_asked_for(run, host):
    async def script(peer):
        await peer.hear_nothing()

    error = refused(run, script, host=host)
    assert str(error).startswith("proxy socks5h://proxy.example:1080: ")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "General SOCKS server failure"),
        (2, "not allowed by ruleset"),
        (3, "Network unreachable"),
        (4, "Host unreachable"),
        (5, "refused"),
        (6, "TTL expired"),
        (7, "Command not supported"),
        (8, "Address type not supported"),
        (9, "a code that RFC 1928 does not know"),
        (255, "a code that RFC 1928 does not know"),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\0\1" + bytes(6)])
def test_every_refusal_names_proxy_step_and_code(run, code, words, rest):
    error = refused(run, no_login(bytes((5, code)) + rest))
    assert error.reply_code == code and error.proxy == "socks5h://proxy.example:1080"
    assert str(error).startswith(f"proxy {error.proxy}: asking for mx.example:25: it answered {code}: ")
    assert words in str(error)
    assert isinstance(error, TargetRefused) is (code != 2)


def test_a_login_that_is_wanted_and_not_given(run):
    async def script(peer):
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NONE_ACCEPTED)

    error = refused(run, script)
    assert "agreeing on a login method: it wants a user and password" in str(error) and error.reply_code == 255


def test_a_login_that_no_method_takes(run):
    async def script(peer):
        await peer.expect(b"\5\2\0\2")
        await peer.send(SOCKS_NONE_ACCEPTED)

    error = refused(run, script, LOGIN)
    assert "it accepts no user and password" in str(error) and error.proxy == "socks5h://ann:***@proxy.example:1080"


@pytest.mark.parametrize("status", [1, 255])
def test_a_login_that_is_refused(run, status):
    async def script(peer):
        await peer.expect(b"\5\2\0\2")
        await peer.send(SOCKS_WITH_LOGIN)
        await peer.expect(b"\1\3ann\2pw")
        await peer.send(bytes((1, status)))

    error = refused(run, script, LOGIN)
    assert f"logging in: it refused the user or password (answered {status})" in str(error)
    assert error.reply_code == status and not isinstance(error, TargetRefused)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b"\4\0"], "its answer 04 00 is not SOCKS5"),
        ([b"HTTP/1.1 400 Bad request\r\n"], "it looks like HTTP"),
        ([b"220 mx.example\r\n"], "is not SOCKS5"),
        ([b"\5\1"], "is not SOCKS5"),  # GSSAPI, which was not offered
        ([b"\5\2"], "is not SOCKS5"),  # a login, which was not offered
        ([b"\5\x80"], "is not SOCKS5"),
        ([SOCKS_NO_LOGIN, b"\4\0"], "is not SOCKS5"),
        ([SOCKS_NO_LOGIN, b"\5\0\1\1" + bytes(6)], "is not SOCKS5"),
        ([SOCKS_NO_LOGIN, b"\5\0\0\2" + bytes(6)], "unknown address type 2"),
        ([SOCKS_NO_LOGIN, b"\5\0\0\3\1\xff\0\0"], "is not SOCKS5"),
    ],
)
def test_nonsense_is_refused(run, answers, words):
    async def script(peer):
        await peer.expect(b"\5\1\0")
        for answer in answers:
            await peer.send(answer)

    assert words in str(refused(run, script))


@pytest.mark.parametrize("sent", range(len(SOCKS_WITH_LOGIN + b"\1\0" + SOCKS_CONNECTED)))
def test_an_end_at_every_byte(run, sent):
    """The first `sent` bytes of a good conversation, then the end of the stream."""
    steps = [(b"\5\2\0\2", SOCKS_WITH_LOGIN), (b"\1\3ann\2pw", b"\1\0"), (ASK, SOCKS_CONNECTED)]

    async def script(peer):
        left = sent
        for asked, answer in steps:
            await peer.expect(asked)
            await peer.send(answer[:left])
            left -= len(answer)
            if left <= 0:
                return peer.close()

    error = refused(run, script, LOGIN)
    step = "agreeing on a login method" if sent < 2 else "logging in" if sent < 4 else "asking for mx.example:25"
    assert f"{step}: " in str(error)
    assert "it closed the connection" in str(error) or "was lost" in str(error)


@pytest.mark.parametrize(
    ("answers", "step"),
    [
        ([], "agreeing on a login method"),
        ([b"\5"], "agreeing on a login method"),
        ([SOCKS_WITH_LOGIN], "logging in"),
        ([SOCKS_WITH_LOGIN, b"\1\0"], "asking for mx.example:25"),
        ([SOCKS_WITH_LOGIN, b"\1\0", b"\5\0\0\1"], "asking for mx.example:25"),
    ],
)
def test_a_silent_proxy_runs_out_of_time(run, answers, step):
    async def script(peer):
        await peer.send(b"".join(answers))
        await peer.hang()

    with pytest.raises(TimedOut, match=f"no answer while {step}") as caught:
        run(shake(LOGIN, script, seconds=0.05))
    assert caught.value.phase == "proxy" and "ann:***@" in str(caught.value)
