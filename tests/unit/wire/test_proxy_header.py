"""PROXY headers: the bytes of the specification, and any two addresses read back by a parser of the test's own."""

from __future__ import annotations

import re
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.wire.proxy_header import MAX_V1, v1, v2

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
WIDEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"

LINES = [
    # the specification's example, section 2.1
    (("192.168.0.1", 56324), ("192.168.0.11", 443), b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
    (("255.255.255.255", 65535), ("255.255.255.255", 65535),
     b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
    (("2001:DB8:0:0:0:0:0:1", 1), ("::1", 25), b"PROXY TCP6 2001:db8::1 ::1 1 25\r\n"),
    ((WIDEST, 65535), (WIDEST, 65535), f"PROXY TCP6 {WIDEST} {WIDEST} 65535 65535\r\n".encode()),
    (("::ffff:192.0.2.1", 7), ("::ffff:192.0.2.2", 25), b"PROXY TCP4 192.0.2.1 192.0.2.2 7 25\r\n"),
    (("::ffff:192.0.2.1", 7), ("192.0.2.2", 25), b"PROXY TCP4 192.0.2.1 192.0.2.2 7 25\r\n"),
    (("fe80::1%eth0", 7), ("fe80::2%3", 25), b"PROXY TCP6 fe80::1 fe80::2 7 25\r\n"),
    (("127.0.0.1", 0), ("127.0.0.1", 0), b"PROXY TCP4 127.0.0.1 127.0.0.1 0 0\r\n"),
    (None, None, b"PROXY UNKNOWN\r\n"),
    (None, ("192.0.2.2", 25), b"PROXY UNKNOWN\r\n"),
    (("192.0.2.2", 25), None, b"PROXY UNKNOWN\r\n"),
    (("192.0.2.1", 7), ("2001:db8::1", 25), b"PROXY UNKNOWN\r\n"),
    (("2001:db8::1", 7), ("::ffff:192.0.2.1", 25), b"PROXY UNKNOWN\r\n"),
]  # fmt: skip

BLOCKS = [
    (("192.168.0.1", 56324), ("192.168.0.11", 443), "21 11 000C C0A80001 C0A8000B DC04 01BB"),
    (("2001:db8::1", 1), ("::1", 25),
     "21 21 0024 20010DB8000000000000000000000001 00000000000000000000000000000001 0001 0019"),
    (("::ffff:192.0.2.1", 7), ("::ffff:192.0.2.2", 25), "21 11 000C C0000201 C0000202 0007 0019"),
    (("fe80::1%eth0", 7), ("fe80::2%eth0", 65535),
     "21 21 0024 FE800000000000000000000000000001 FE800000000000000000000000000002 0007 FFFF"),
    (None, None, "20 00 0000"),
    (("192.0.2.1", 7), None, "20 00 0000"),
    (("192.0.2.1", 7), ("2001:db8::1", 25), "20 00 0000"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "destination", "line"), LINES)
def test_the_line_of_version_1(source, destination, line):
    assert v1(source, destination) == line


@pytest.mark.parametrize(("source", "destination", "block"), BLOCKS)
def test_the_block_of_version_2(source, destination, block):
    assert v2(source, destination) == SIGNATURE + bytes.fromhex(block)


@pytest.mark.parametrize("write", [v1, v2])
@pytest.mark.parametrize(
    "end", [("mx.example", 25), ("", 25), ("127.1", 25), ("010.0.0.1", 25), ("1.2.3.4\r\n", 25), ("::1", -1),
            ("::1", 65536)],
)  # fmt: skip
def test_what_is_no_address_is_never_written(write, end):
    other = ("::1", 25) if ":" in end[0] else ("192.0.2.1", 25)
    for ends in [(end, other), (other, end)]:
        with pytest.raises(ValueError, match=r"address|port|expected"):
            write(*ends)


# ---- read back: a parser that shares nothing with the writer


def read_v1(line):
    found = re.fullmatch(rb"PROXY (TCP4|TCP6) ([0-9a-f.:]+) ([0-9a-f.:]+) (0|[1-9]\d*) (0|[1-9]\d*)\r\n", line)
    assert found and len(line) <= 107
    family = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}[found[1]]
    addresses = [socket.inet_pton(family, text.decode()) for text in found.groups()[1:3]]
    assert [socket.inet_ntop(family, address).encode() for address in addresses] == [found[2], found[3]]
    return family, *addresses, int(found[4]), int(found[5])


def read_v2(block):
    signature, command, family, size = struct.unpack_from("!12sBBH", block)
    assert (signature, command, len(block)) == (SIGNATURE, 0x21, 16 + size)
    family, width = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}[family]
    return family, *struct.unpack(f"!{width}s{width}sHH", block[16:])


PORTS = st.integers(0, 65535)
V4 = st.integers(0, 2**32 - 1).map(lambda number: socket.inet_ntop(socket.AF_INET, number.to_bytes(4, "big")))
V6 = (
    st.integers(0, 2**128 - 1)
    .filter(lambda number: number >> 32 not in (0, 0xFFFF))  # with those two, the libc writes the end as IPv4
    .map(lambda number: socket.inet_ntop(socket.AF_INET6, number.to_bytes(16, "big")))
)
PAIRS = st.one_of(st.tuples(st.just(socket.AF_INET), V4, V4), st.tuples(st.just(socket.AF_INET6), V6, V6))


@given(PAIRS, PORTS, PORTS)
def test_what_was_written_is_read_back(pair, port, its_port):
    family, here, there = pair
    expected = (family, socket.inet_pton(family, here), socket.inet_pton(family, there), port, its_port)
    assert read_v1(v1((here, port), (there, its_port))) == expected
    assert read_v2(v2((here, port), (there, its_port))) == expected


@given(V4, V4, PORTS, PORTS)
def test_a_dual_stack_socket_is_written_as_what_it_speaks(here, there, port, its_port):
    for write in (v1, v2):
        mapped = write((f"::ffff:{here}", port), (f"::FFFF:{there}", its_port))
        assert mapped == write((here, port), (there, its_port))


def test_the_longest_line_fits():
    assert len(v1((WIDEST, 65535), (WIDEST, 65535))) == 104 <= MAX_V1
