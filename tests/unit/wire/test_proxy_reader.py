"""The PROXY header as it is read: what the specification allows, what it does not, and any cutting of the stream."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.wire import proxy_reader
from bulkmail.wire.proxy_header import MAX_V1, v1, v2
from bulkmail.wire.proxy_info import ProxyInfo, ProxyTls
from bulkmail.wire.proxy_reader import MAX_V2, ProxyReader
from unit.wire.proxy_blocks import IPV4, IPV6, SIGNATURE, addresses, block, checked, crc32c, tlv

INSIDE = addresses(*IPV4)
INSIDE6 = addresses(*IPV6)
FOUR: dict[str, Any] = {"source": IPV4[:2], "destination": IPV4[2:]}
SIX: dict[str, Any] = {"source": IPV6[:2], "destination": IPV6[2:]}
WIDE = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

VALID = {
    "the specification's example": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        ProxyInfo(1, ("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ),
    "ports at their ends": (
        b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
        ProxyInfo(1, ("0.0.0.0", 0), ("255.255.255.255", 65535)),
    ),
    "IPv6 written long and in capitals": (
        b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 ::1 1 25\r\n",
        ProxyInfo(1, ("2001:db8::7", 1), ("::1", 25)),
    ),
    "IPv4 mapped into IPv6, as inet_ntop writes it": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n",
        ProxyInfo(1, ("::ffff:192.0.2.1", 1), ("::1", 25)),
    ),
    "the longest of TCP6": (
        f"PROXY TCP6 {WIDE} {WIDE} 65535 65535\r\n".encode(),
        ProxyInfo(1, (WIDE, 65535), (WIDE, 65535)),
    ),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", ProxyInfo(1)),
    "UNKNOWN with the longest rest": (f"PROXY UNKNOWN {WIDE} {WIDE} 65535 65535\r\n".encode(), ProxyInfo(1)),
    "a line of 107 bytes": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ProxyInfo(1)),
    "UNKNOWN with anything": (b"PROXY UNKNOWN \0\xff PROXY \r \n TCP4\r\r\n", ProxyInfo(1)),
    "version 2, IPv4": (block(INSIDE), ProxyInfo(2, **FOUR)),
    "version 2, IPv6": (block(INSIDE6, family=0x21), ProxyInfo(2, **SIX)),
    "LOCAL": (block(b"", command=0x20, family=0), ProxyInfo(2, local=True)),
    "LOCAL with anything behind": (block(b"\xff" * 50, command=0x20, family=0xFF), ProxyInfo(2, local=True)),
    "unspecified": (block(b"", family=0), ProxyInfo(2)),
    "unspecified with addresses of some form": (block(INSIDE, family=0), ProxyInfo(2)),
    "unspecified with TLVs": (checked(tlv(2, b"a.test"), family=0), ProxyInfo(2, tlvs=((2, b"a.test"),))),
    "unspecified protocol over IPv4": (block(INSIDE, family=0x10), ProxyInfo(2)),
    "unspecified family, a stream": (block(b"", family=0x01), ProxyInfo(2)),
    "UDP over IPv4": (block(INSIDE, family=0x12), ProxyInfo(2)),
    "UDP over IPv6": (block(INSIDE6, family=0x22), ProxyInfo(2)),
    "UNIX, a stream": (block(bytes(216) + tlv(0xE0, b"x"), family=0x31), ProxyInfo(2, tlvs=((0xE0, b"x"),))),
    "UNIX, datagrams": (block(bytes(216), family=0x32), ProxyInfo(2)),
    "a TLV of a type that we do not know": (
        block(INSIDE + tlv(0xEE, b"\0")),
        ProxyInfo(2, **FOUR, tlvs=((0xEE, b"\0"),)),
    ),
    "padding": (block(INSIDE + tlv(4, b"") + tlv(4, bytes(9))), ProxyInfo(2, **FOUR)),
    "a checksum": (checked(INSIDE), ProxyInfo(2, **FOUR)),
    "a checksum of IPv6": (checked(INSIDE6, family=0x21), ProxyInfo(2, **SIX)),
    "a checksum in the middle": (checked(INSIDE, tlv(1, b"smtp")), ProxyInfo(2, **FOUR, tlvs=((1, b"smtp"),))),
    "a unique id of 128 bytes": (block(INSIDE + tlv(5, b"i" * 128)), ProxyInfo(2, **FOUR, tlvs=((5, b"i" * 128),))),
    "SSL information without any": (
        block(INSIDE + tlv(0x20, bytes(5))),
        ProxyInfo(2, **FOUR, tlvs=((0x20, bytes(5)),)),
    ),
    "as much as is taken": (
        block(INSIDE + tlv(0xE0, b"x" * (MAX_V2 - 31))),
        ProxyInfo(2, **FOUR, tlvs=((0xE0, b"x" * (MAX_V2 - 31)),)),
    ),
}

# The bytes, what is wrong, and how many of them it takes to see that.
LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 7 25\r\n"
WRONG_CRC = bytearray(checked(INSIDE, tlv(1, b"smtp")))
WRONG_CRC[-1] ^= 1
INVALID = [
    (b"EHLO client.test\r\n", "NO_HEADER", 1),
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "NO_HEADER", 1),
    (b"proxy TCP4 192.0.2.1 192.0.2.2 7 25\r\n", "NO_HEADER", 1),
    (b"PRoXY TCP4 192.0.2.1 192.0.2.2 7 25\r\n", "NO_HEADER", 3),
    (b"PROXY\tTCP4 192.0.2.1 192.0.2.2 7 25\r\n", "NO_HEADER", 6),
    (b"PROXY  TCP4 192.0.2.1 192.0.2.2 7 25\r\n", "BAD_PROTOCOL", 7),
    (b"PROXY tcp4 192.0.2.1 192.0.2.2 7 25\r\n", "BAD_PROTOCOL", 7),
    (b"PROXY UDP4 192.0.2.1 192.0.2.2 7 25\r\n", "BAD_PROTOCOL", 8),
    (b"PROXY TCP5 192.0.2.1 192.0.2.2 7 25\r\n", "BAD_PROTOCOL", 10),
    (b"PROXY TCP46 192.0.2.1 192.0.2.2 7 25\r\n", "BAD_PROTOCOL", 11),
    (b"PROXY TCP4\r\n", "BAD_PROTOCOL", 11),
    (b"PROXY \r\n", "BAD_PROTOCOL", 7),
    (b"PROXY UNKNOWNS\r\n", "BAD_PROTOCOL", 14),
    (b"PROXY UNKNOWN\n", "BAD_PROTOCOL", 14),
    (b"PROXY UNKNOWN\r \r\n", "BAD_LINE_END", 15),
    (b"PROXY unknown\r\n", "BAD_PROTOCOL", 7),
    (LINE.replace(b"\r\n", b"\n"), "BAD_CHARACTER", len(LINE) - 1),
    (LINE.replace(b"\r\n", b"\rX"), "BAD_LINE_END", len(LINE)),
    (LINE.replace(b" 7", b"\r7"), "BAD_LINE_END", len(LINE) - 5),
    (LINE.replace(b" 7", b"\t7"), "BAD_CHARACTER", len(LINE) - 6),
    (LINE.replace(b" 7", b" +7"), "BAD_CHARACTER", len(LINE) - 5),
    (LINE.replace(b" 7", b" -7"), "BAD_CHARACTER", len(LINE) - 5),
    (LINE.replace(b" 7", b" \xd9\xa7"), "BAD_CHARACTER", len(LINE) - 5),
    (LINE.replace(b"192.0.2.1", b"relay.example"), "BAD_CHARACTER", 12),
    (LINE.replace(b" 7", b"  7"), "BAD_FIELDS", None),
    (LINE.replace(b"TCP4 ", b"TCP4  "), "BAD_FIELDS", None),
    (LINE.replace(b"\r\n", b" \r\n"), "BAD_FIELDS", None),
    (LINE.replace(b"\r\n", b" 1\r\n"), "BAD_FIELDS", None),
    (LINE.replace(b" 25", b""), "BAD_FIELDS", None),
    (b"PROXY TCP4 \r\n", "BAD_FIELDS", None),
    (LINE.replace(b" 25", b" 65536"), "BAD_PORT", None),
    (LINE.replace(b" 25", b" 025"), "BAD_PORT", None),
    (LINE.replace(b" 25", b" 00"), "BAD_PORT", None),
    (LINE.replace(b" 7", b" 000007"), "BAD_PORT", None),
    (LINE.replace(b" 7", b" 4294967303"), "BAD_PORT", None),
    (LINE.replace(b" 7", b" f"), "BAD_PORT", None),
    (LINE.replace(b" 7", b" 7."), "BAD_PORT", None),
    (LINE.replace(b" 7", b" :"), "BAD_PORT", None),
    (LINE.replace(b"192.0.2.1", b"192.0.2.01"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"192.0.2.256"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"192.0.2"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"192.0.2.1."), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"1.192.0.2.1"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"192..2.1"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"3221225985"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.1", b"::ffff:192.0.2.1"), "BAD_ADDRESS", None),
    (LINE.replace(b"192.0.2.2", b"::1"), "BAD_ADDRESS", None),
    (LINE.replace(b"TCP4", b"TCP6"), "BAD_ADDRESS", None),
    (b"PROXY TCP6 ::1 192.0.2.2 7 25\r\n", "BAD_ADDRESS", None),
    (b"PROXY TCP6 1::2::3 ::1 7 25\r\n", "BAD_ADDRESS", None),
    (b"PROXY TCP6 1:2:3:4:5:6:7 ::1 7 25\r\n", "BAD_ADDRESS", None),
    (b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 7 25\r\n", "BAD_ADDRESS", None),
    (b"PROXY TCP6 12345::1 ::1 7 25\r\n", "BAD_ADDRESS", None),
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "TOO_LONG", MAX_V1),
    (b"PROXY TCP4 " + b"1" * 200, "TOO_LONG", MAX_V1),
    (SIGNATURE[:-1] + b"\r", "NO_HEADER", 12),
    (b"\r\n\r\nEHLO client.test\r\n", "NO_HEADER", 5),
    (block(INSIDE, command=0x11), "BAD_VERSION", 13),
    (block(INSIDE, command=0x31), "BAD_VERSION", 13),
    (block(INSIDE, command=0x01), "BAD_VERSION", 13),
    (block(INSIDE, command=0x22), "BAD_VERSION", 13),
    (block(INSIDE, command=0x2F), "BAD_VERSION", 13),
    (block(bytes(216), family=0x41), "BAD_FAMILY", 14),
    (block(INSIDE, family=0x13), "BAD_FAMILY", 14),
    (block(INSIDE, family=0xFF), "BAD_FAMILY", 14),
    (block(INSIDE[:-1]), "TOO_SHORT", 16),
    (block(b""), "TOO_SHORT", 16),
    (block(INSIDE, family=0x21), "TOO_SHORT", 16),
    (block(INSIDE6[:-1], family=0x22), "TOO_SHORT", 16),
    (block(bytes(215), family=0x31), "TOO_SHORT", 16),
    (block(bytes(0xFFFF)), "TOO_LARGE", 16),
    (block(bytes(MAX_V2 - 15), command=0x20), "TOO_LARGE", 16),
    (block(INSIDE + b"\0"), "BAD_TLV", None),
    (block(INSIDE + b"\0\0"), "BAD_TLV", None),
    (block(INSIDE + tlv(2, b"a.test") + b"\x04\0"), "BAD_TLV", None),
    (block(INSIDE + b"\x02\0\x07a.test"), "BAD_TLV", None),
    (block(INSIDE + b"\x02\xff\xffa.test"), "BAD_TLV", None),
    (checked(INSIDE, b"\0"), "BAD_TLV", None),
    (block(INSIDE6), "BAD_TLV", None),  # IPv6 under IPv4's name
    (bytes(WRONG_CRC), "BAD_CRC", None),
    (block(INSIDE + tlv(3, bytes(4))), "BAD_CRC", None),
    (block(tlv(3, bytes(4)), family=0), "BAD_CRC", None),
    (block(INSIDE + tlv(3, b"")), "BAD_CRC", None),
    (block(INSIDE + tlv(3, bytes(5))), "BAD_CRC", None),
    (checked(INSIDE, tlv(3, bytes(4))), "BAD_CRC", None),
    (block(INSIDE + tlv(5, b"i" * 129)), "BAD_UNIQUE_ID", None),
    (block(INSIDE + tlv(0x20, bytes(4))), "BAD_SSL", None),
    (block(INSIDE + tlv(0x20, bytes(6))), "BAD_SSL", None),
    (block(INSIDE + tlv(0x20, b"\x01" + bytes(4) + b"\x21\0\x08TLSv1.3")), "BAD_SSL", None),
]  # fmt: skip

STREAMS = [header + b"EHLO c\r\n" for header, _ in VALID.values()] + [header for header, _, _ in INVALID]
SHORT = [stream for stream in STREAMS if len(stream) < 600]


def read(pieces: list[bytes]) -> tuple[ProxyInfo | None, str | None, bytes]:
    """Info, error, and what was left to the client."""
    reader, left = ProxyReader(), b""
    for piece in pieces:
        left += piece[reader.feed(piece) :]
    return reader.info, reader.error, left


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    header, info = VALID[name]
    assert read([header]) == (info, None, b"")
    assert read([header + header]) == (info, None, header)
    reader = ProxyReader()
    assert reader.feed(header[:-1]) == len(header) - 1
    assert (reader.info, reader.error) == (None, None)


@pytest.mark.parametrize(("stream", "reason", "seen_at"), INVALID)
def test_invalid(stream: bytes, reason: str, seen_at: int | None) -> None:
    """`seen_at`: with so many bytes, no sooner and no later; None: at the last one."""
    at = seen_at or len(stream)
    error = getattr(proxy_reader, reason)
    assert read([stream])[:2] == (None, error)
    early = ProxyReader()
    early.feed(stream[: at - 1])
    assert early.error is None
    early.feed(stream[at - 1 : at])
    assert early.error == error


@pytest.mark.parametrize("stream", SHORT)
def test_two_pieces_byte_by_byte_and_whole_are_the_same(stream: bytes) -> None:
    whole = read([stream])
    for cut in range(len(stream) + 1):
        assert read([stream[:cut], b"", stream[cut:]]) == whole
    assert read([stream[at : at + 1] for at in range(len(stream))]) == whole


@given(st.data())
def test_any_bytes_cut_anywhere_are_the_same(data: st.DataObject) -> None:
    stream = bytearray(data.draw(st.sampled_from(SHORT)))
    for _ in range(data.draw(st.integers(0, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [bytes(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = read([bytes(stream)])
    assert read(pieces) == whole
    assert not (whole[0] and whole[1])


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_what_our_writer_writes_is_what_is_read(here: Any, there: Any, port: int, its_port: int, second: bool) -> None:
    source, destination = (str(here), port), (str(there), its_port)
    header = (v2 if second else v1)(source, destination)
    info, error, left = read([header, b"EHLO"])
    assert (error, left) == (None, b"EHLO")
    assert info is not None and info.version == (2 if second else 1)
    mapped = [getattr(address, "ipv4_mapped", None) or address for address in (here, there)]
    if mapped[0].version != mapped[1].version:
        assert info.source is info.destination is None and info.local == second
    else:
        from ipaddress import ip_address

        assert info.source is not None and info.destination is not None
        assert [ip_address(info.source[0]), ip_address(info.destination[0])] == mapped
        assert (info.source[1], info.destination[1]) == (port, its_port)


@given(st.binary(max_size=300))
def test_a_checksum_of_any_block(rest: bytes) -> None:
    assert read([checked(INSIDE + tlv(0xE1, rest))])[0] == ProxyInfo(2, **FOUR, tlvs=((0xE1, rest),))


def test_the_tests_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_what_the_tlvs_say() -> None:
    ssl = (
        b"\x03"
        + bytes(4)
        + tlv(0x21, b"TLSv1.3")
        + tlv(0x22, "Zoë".encode())
        + tlv(0x23, b"AES")
        + tlv(0x25, b"RSA2048")
    )
    header = checked(INSIDE + tlv(1, b"h2") + tlv(2, b"mx.test") + tlv(5, b"\0id") + tlv(0x20, ssl) + tlv(0x30, b"ns"))
    info = read([header])[0]
    assert info is not None
    assert (info.alpn, info.authority, info.unique_id, info.netns) == (b"h2", "mx.test", b"\0id", "ns")
    assert info.tls == ProxyTls(True, True, True, "TLSv1.3", "AES", "Zoë", None, "RSA2048")
    bare = read([block(INSIDE)])[0]
    assert bare is not None
    assert (bare.alpn, bare.authority, bare.unique_id, bare.netns, bare.tls) == (None,) * 5


@pytest.mark.parametrize(("flags", "verify", "certificate", "verified"), [
    (1, 0, False, False),  # without a certificate there is nothing to verify
    (1, 1, False, False),
    (3, 0, True, True),
    (5, 0, True, True),
    (3, 20, True, False),
    (3, 1 << 24, True, False),
])  # fmt: skip
def test_a_certificate_counts_only_where_it_was_shown_and_verified(
    flags: int, verify: int, certificate: bool, verified: bool
) -> None:
    info = read([block(INSIDE + tlv(0x20, bytes([flags]) + verify.to_bytes(4, "big")))])[0]
    assert info is not None and info.tls is not None
    assert (info.tls.encrypted, info.tls.certificate, info.tls.verified) == (True, certificate, verified)


def test_nothing_is_read_after_the_end() -> None:
    for header in (v2(("192.0.2.1", 7), ("192.0.2.2", 25)), b"EHLO"):
        reader = ProxyReader()
        reader.feed(header)
        assert (reader.feed(b"PROXY UNKNOWN\r\n"), reader.feed(b"")) == (0, 0)


@pytest.mark.parametrize("stream", SHORT)
def test_who_reads_what_is_needed_reads_no_byte_too_many(stream: bytes) -> None:
    reader, at = ProxyReader(), 0
    while reader.need and at < len(stream):
        piece = stream[at : at + reader.need]
        used = reader.feed(piece)
        assert used == len(piece) or reader.error is not None
        at += len(piece)
    assert (reader.info, reader.error) == read([stream])[:2]
    assert not reader.need or (reader.info is None and reader.error is None)
    if reader.info is not None:
        assert stream[at:] == b"EHLO c\r\n"


@pytest.mark.parametrize("header", [block(INSIDE), checked(INSIDE6, family=0x21), LINE, b"PROXY UNKNOWN\r\n"])
def test_what_is_needed_is_asked_for_in_few_pieces(header: bytes) -> None:
    reader, asked = ProxyReader(), 0
    while reader.need:
        start = reader.need
        reader.feed(header[:start])
        header, asked = header[start:], asked + 1
    assert reader.info is not None
    assert asked <= (3 if reader.info.version == 2 else 20)
