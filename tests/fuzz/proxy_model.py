"""What a PROXY header means, read a second time: of a stream that is there as a whole, by expressions and `ipaddress`.

Written from the specification (haproxy.org, doc/proxy-protocol.txt), not from the reader. Where that leaves a choice,
and the sink has made one, a comment says so.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
End = tuple[Address, int]

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
MAX_LINE = 107  # section 2.1
ADDRESS_SIZES = {1: 12, 2: 36, 3: 216}
CRC32C, NOOP, UNIQUE_ID, SSL = 3, 4, 5, 0x20

PORT = rb"(0|[1-9][0-9]{0,4})"
LINES = {
    4: re.compile(rb"PROXY TCP4 ([0-9.]+) ([0-9.]+) " + PORT + b" " + PORT),
    6: re.compile(rb"PROXY TCP6 ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) " + PORT + b" " + PORT),
}
# "UNKNOWN" is a word; what stands behind it, a space between, is ignored.
UNKNOWN = re.compile(rb"PROXY UNKNOWN( .*)?", re.DOTALL)
# A line that is not whole, and of which nothing is wrong yet: here the reader must wait.
BEGUN = re.compile(rb"PROXY (TCP4 [0-9. ]*|TCP6 [0-9a-fA-F:. ]*|UNKNOWN( .*)?)\r?", re.DOTALL)
WORDS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")


@dataclass
class Header:
    """A valid header: `size` bytes of the stream. No ends: those of the connection hold."""

    size: int
    version: int
    source: End | None = None
    destination: End | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()
    local: bool = False


class Invalid(Exception):
    pass


class Incomplete(Exception):
    """More is needed. `sound`: nothing is wrong so far that a reader would have to know of."""

    def __init__(self, sound: bool) -> None:
        self.sound = sound


def read(stream: bytes, max_size: int, max_id: int) -> Header:
    """raises  Invalid, Incomplete"""
    if stream[: len(SIGNATURE)] == SIGNATURE[: len(stream)]:
        return read_block(stream, max_size, max_id)
    if stream[:6] == b"PROXY "[: len(stream)]:
        return read_line(stream)
    raise Invalid


# --- version 1


def read_line(stream: bytes) -> Header:
    end = stream.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(stream) >= MAX_LINE:
            raise Invalid
        raise Incomplete(bool(BEGUN.fullmatch(stream)) or any(word.startswith(stream) for word in WORDS))
    line = stream[:end]
    if UNKNOWN.fullmatch(line):
        return Header(end + 2, 1)
    for version, form in LINES.items():
        match = form.fullmatch(line)
        if match:
            kind = IPv4Address if version == 4 else IPv6Address
            here, there, port, its_port = match.groups()
            return Header(end + 2, 1, end_of(kind, here, port), end_of(kind, there, its_port))
    raise Invalid


def end_of(kind: type[IPv4Address] | type[IPv6Address], address: bytes, port: bytes) -> End:
    if int(port) > 65535:
        raise Invalid
    try:
        # "::ffff:192.0.2.1", too, which the specification does not name: senders write addresses with inet_ntop.
        return kind(address.decode()), int(port)
    except ValueError:
        raise Invalid from None


# --- version 2


def read_block(stream: bytes, max_size: int, max_id: int) -> Header:
    if len(stream) > 12 and stream[12] not in (0x20, 0x21):
        raise Invalid
    local = stream[12:13] == b"\x20"
    if len(stream) > 13 and not local and (stream[13] >> 4 > 3 or stream[13] & 15 > 2):
        raise Invalid
    if len(stream) < 16:
        raise Incomplete(True)
    size = 16 + struct.unpack("!H", stream[14:16])[0]
    family, protocol = stream[13] >> 4, stream[13] & 15
    unspecified = family == 0 or protocol == 0
    begin = 16 if unspecified or local else 16 + ADDRESS_SIZES[family]
    if size > max_size or size < begin:
        raise Invalid
    if len(stream) < size:
        raise Incomplete(True)
    if local:
        return Header(size, 2, local=True)
    tlvs = tlvs_of(stream[:size], begin, unspecified, max_id)
    if protocol != 1 or family not in (1, 2):
        return Header(size, 2, tlvs=tlvs)
    return Header(size, 2, *ends_of(stream[16:size], family), tlvs)


def ends_of(block: bytes, family: int) -> tuple[End, End]:
    width = 4 if family == 1 else 16
    kind = IPv4Address if family == 1 else IPv6Address
    port, its_port = struct.unpack_from("!HH", block, 2 * width)
    return (kind(block[:width]), port), (kind(block[width : 2 * width]), its_port)


def tlvs_of(header: bytes, begin: int, unspecified: bool, max_id: int) -> tuple[tuple[int, bytes], ...]:
    """Those that are handed on. Where what is there cannot be known (UNSPEC), it need not be TLVs."""
    try:
        found = split(header, begin)
    except Invalid:
        if unspecified:
            return ()
        raise
    told = [(at, value) for at, kind, value in found if kind == CRC32C]
    if len(told) > 1:  # it is said once, or what it covers would be open
        raise Invalid
    for at, value in told:
        if len(value) != 4 or crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
            raise Invalid
    for _, kind, value in found:
        if kind == UNIQUE_ID and len(value) > max_id:
            raise Invalid
        if kind == SSL:
            if len(value) < 5:
                raise Invalid
            split(value, 5)
    return tuple((kind, value) for _, kind, value in found if kind not in (CRC32C, NOOP))


def split(block: bytes, at: int) -> list[tuple[int, int, bytes]]:
    """(place of the value, type, value) of each TLV from `at` to the end."""
    found = []
    while at < len(block):
        head = block[at : at + 3]
        if len(head) < 3:
            raise Invalid
        value = block[at + 3 : at + 3 + head[1] * 256 + head[2]]
        if len(value) < head[1] * 256 + head[2]:
            raise Invalid
        found.append((at + 3, head[0], value))
        at += 3 + len(value)
    return found


def crc32c(data: bytes) -> int:
    """RFC 9260 appendix A, a bit at a time: the polynomial 0x1EDC6F41 with its bits reversed."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
