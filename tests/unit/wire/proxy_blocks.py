"""Headers of version 2 for tests, put together by the test's own means."""

from __future__ import annotations

import socket
import struct

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
IPV4 = ("203.0.113.7", 56324, "192.0.2.25", 2525)
IPV6 = ("2001:db8::7", 56324, "2001:db8::25", 2525)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def addresses(source: str, port: int, destination: str, its_port: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    return socket.inet_pton(family, source) + socket.inet_pton(family, destination) + struct.pack("!HH", port, its_port)


def block(rest: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def crc32c(data: bytes) -> int:
    """One bit at a time, from the most significant end, with the polynomial as RFC 9260 appendix A prints it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= int(f"{byte:08b}"[::-1], 2) << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x1EDC6F41 if crc >> 31 else 0)) & 0xFFFFFFFF
    return int(f"{crc ^ 0xFFFFFFFF:032b}"[::-1], 2)


def checked(rest: bytes, behind: bytes = b"", **head: int) -> bytes:
    """A block with a right checksum between `rest` and `behind`."""
    empty = block(rest + tlv(3, bytes(4)) + behind, **head)
    at = len(empty) - len(behind) - 4
    return empty[:at] + struct.pack("!I", crc32c(empty)) + empty[at + 4 :]
