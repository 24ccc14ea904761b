"""SOCKS4 and 4a: the bytes of the request, an answer cut anywhere, every code in words, an end at every byte."""

from __future__ import annotations

import socket

import pytest

from bulkmail.errors import ProxyError, TimedOut
from bulkmail.net.proxies import TargetRefused
from dialling import dial
from unit.net.fake_proxies import GREETING, at, listening, options, read_to_end, shake

BY_NAME = "socks4a://proxy.example"
LOGIN = "socks4a://ann@proxy.example"
ASK = b"\4\1\0\x19\0\0\0\1\0mx.example\0"
GRANTED = b"\0\x5a\x1f\x90\x7f\0\0\1"


def answering(*pieces, ask=ASK):
    async def script(peer):
        await peer.expect(ask)
        await peer.send_pieces(pieces)

    return script


def refused(run, script, url=BY_NAME, **options):
    with pytest.raises(ProxyError) as caught:
        run(shake(url, script, **options))
    assert str(caught.value).isprintable() and caught.value.proxy
    return caught.value


def test_a_greeting_in_the_segment_of_the_reply_is_kept(run):
    assert run(shake(BY_NAME, answering(GRANTED + GREETING))) == GREETING


def test_an_answer_byte_by_byte_and_cut_in_two_anywhere(run):
    stream = GRANTED + GREETING

    async def all_cuts():
        assert await shake(BY_NAME, answering(*[bytes([byte]) for byte in stream])) == GREETING
        for cut in range(1, len(stream)):
            assert await shake(BY_NAME, answering(stream[:cut], stream[cut:])) == GREETING, cut

    run(all_cuts())


@pytest.mark.parametrize(
    ("url", "host", "ask"),
    [
        ("socks4://p", "192.0.2.1", b"\4\1\0\x19\xc0\0\2\1\0"),
        ("socks4a://p", "192.0.2.1", b"\4\1\0\x19\xc0\0\2\1\0"),
        ("socks4://a%40b%3A%25@p", "192.0.2.1", b"\4\1\0\x19\xc0\0\2\1a@b:%\0"),
        ("socks4a://%C3%BC@p", "mx.example", b"\4\1\0\x19\0\0\0\1\xc3\xbc\0mx.example\0"),
        ("socks4a://" + "u" * 255 + "@p", "a", b"\4\1\0\x19\0\0\0\1" + b"u" * 255 + b"\0a\0"),
        ("socks4a://p", "2001:db8::1", b"\4\1\0\x19\0\0\0\1\x002001:db8::1\0"),
        ("socks4a://p", "bücher.example", b"\4\1\0\x19\0\0\0\1\0xn--bcher-kva.example\0"),
        ("socks4a://p", "a_b.example.", b"\4\1\0\x19\0\0\0\1\0a_b.example.\0"),
    ],
)
def test_the_request(run, url, host, ask):
    assert run(shake(url, answering(GRANTED + GREETING, ask=ask), host=host)) == GREETING


@pytest.mark.parametrize("host", ["a\0b", "a\r\nb", "x" * 256, "", "fe80::1%eth0"])
def test_a_target_that_could_break_the_request_is_never_asked_for(run, host):
    async def script(peer):
        await peer.hear_nothing()

    refused(run, script, host=host)


def test_socks4_carries_no_ipv6_address(run):
    async def script(peer):
        await peer.hear_nothing()

    assert "use socks4a:// or socks5://" in str(refused(run, script, "socks4://p", host="2001:db8::1"))


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (91, "rejected or failed", TargetRefused),
        (92, "cannot connect to identd", ProxyError),
        (93, "different user-ids", ProxyError),
        (255, "a code that SOCKS4 does not know", ProxyError),
    ],
)
@pytest.mark.parametrize("rest", [b"", bytes(6)], ids=["cut short", "whole"])
def test_every_refusal_names_proxy_step_and_code(run, code, words, kind, rest):
    error = refused(run, answering(bytes([0, code]) + rest))
    assert type(error) is kind and error.reply_code == code and words in str(error)
    assert str(error).startswith(f"proxy {BY_NAME}:1080: asking for mx.example:25: it answered {code}: ")


@pytest.mark.parametrize(("answer", "hint"), [(b"HTTP/1.1 400", "HTTP"), (b"\5\xff", "SOCKS5"), (b"\4\x5a", "04 5a")])
def test_nonsense_is_refused_at_once(run, answer, hint):
    async def script(peer):
        await peer.expect(ASK)
        await peer.send(answer)
        await peer.hang()

    assert "is not SOCKS4" in str(error := refused(run, script)) and hint in str(error)


@pytest.mark.parametrize("sent", range(len(GRANTED)))
def test_an_end_at_every_byte(run, sent):
    assert "it closed the connection" in str(refused(run, answering(GRANTED[:sent])))


@pytest.mark.parametrize("sent", range(len(GRANTED)))
def test_silence_at_every_byte(run, sent):
    async def script(peer):
        await peer.send(GRANTED[:sent])
        await peer.hang()

    with pytest.raises(
        TimedOut, match=r"proxy socks4a://ann@proxy\.example:1080: no answer while asking for"
    ) as caught:
        run(shake(LOGIN, script, seconds=0.02))
    assert caught.value.phase == "proxy"


def test_only_ipv4_addresses_of_a_name_are_tried(run, names):
    asked = []

    async def script(peer):
        await peer.expect(b"\4\1\0\x19")
        asked.append((await peer.exactly(5))[:4])
        await peer.send(GRANTED + GREETING if len(asked) == 2 else b"\0\x5b")

    async def main():
        names({"mx.example": ["2001:db8::1", "192.0.2.1", "198.51.100.2"]})
        async with listening(script) as port:
            with await dial("mx.example", 25, options=options(proxy=f"socks4://127.0.0.1:{port}")) as sock:
                assert await read_to_end(sock) == GREETING

    run(main())
    assert [socket.inet_ntoa(address) for address in asked] == ["192.0.2.1", "198.51.100.2"]


def test_a_name_with_ipv6_addresses_only(run, names):
    names({"mx.example": [at("2001:db8::1", 25)]})
    with pytest.raises(ProxyError, match=r"mx\.example has IPv6 addresses only") as caught:
        run(dial("mx.example", 25, options=options(proxy="socks4://127.0.0.1:1")))
    assert caught.value.permanent
