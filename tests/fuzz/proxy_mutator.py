"""Inputs of the proxy harness as what they are made of: fields of a line, addresses and TLVs of a block.

Lengths and the checksum of a block that was changed are put right as often as not; chance would hardly ever hit them.
"""

from __future__ import annotations

from fuzz.proxy_model import SIGNATURE, crc32c

ADDRESSES = [
    b"192.0.2.1", b"255.255.255.255", b"0.0.0.0", b"01.2.3.4", b"1.2.3", b"1.2.3.4.5", b"256.1.1.1", b"1..2.3",
    b".1.2.3", b"1.2.3.", b"1000.1.1.1", b"1.2.3.00", b"::1", b"::", b"2001:DB8::7", b"::ffff:192.0.2.1",
    b"1:2:3:4:5:6:7:8", b"1:2:3:4:5:6:7::", b"::8:7:6:5:4:3:2:1", b"1::2::3", b":::", b":1", b"1:", b"12345::",
    b"::1.2.3", b"::1.2.3.4:5", b"1:2:3:4:5:6:1.2.3.4", b"1:2:3:4:5:6:7:1.2.3.4", b"::01.2.3.4",
    b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", b"", b"a", b"fe80::1%eth0", b"::ffff:0102:0304", b"0:0:0:0:0:0:0:0",
]  # fmt: skip
PORTS = [
    b"0", b"25", b"65535", b"65536", b"99999", b"100000", b"00", b"025", b"", b"-1", b"+1", b"2a", b"1:",
    b"4294967296",
]  # fmt: skip
PARTS = [
    b"PROXY ", b"TCP4 ", b"TCP6 ", b"TCP5 ", b"UNKNOWN", b"UNKNOWN ", b"UNKNOWN\r\n", b" ", b"  ", b"\r\n", b"\r",
    b"\n", b"\r\r\n", b"\0", b"\xff", b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN\rX\r\n", b"proxy ", b"PROXY\t",
    b"EHLO me\r\n", b"x" * 91, SIGNATURE,
]  # fmt: skip
KINDS = [0, 1, 2, 3, 4, 5, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x30, 0xE0, 0xFF]
LENGTHS = [0, 1, 3, 4, 5, 12, 36, 107, 127, 128, 129, 216, 255]
FAMILIES = [0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0x00, 0x01, 0x10, 0x13, 0x41, 0xFF, 0x20, 0x02]
FIXED = 16


class Dice:
    """Numbers that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self.state = (seed * 2654435761 + 1013904223) & 0xFFFFFFFF

    def below(self, n: int) -> int:
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n

    def bytes(self, n: int) -> bytes:
        return bytes([self.below(256) for _ in range(n)])


def line(dice: Dice) -> bytes:
    kind = dice.below(3)
    if kind == 2:
        rest = b" " + dice.bytes(dice.below(30)) if dice.below(2) else b""
        return b"PROXY UNKNOWN" + rest + (b"\r\n" if dice.below(8) else b"\r")
    fit = ADDRESSES[:3] if kind == 0 else ADDRESSES[12:17]
    fields = []
    for _ in range(2):
        choices = fit if dice.below(4) else ADDRESSES
        fields.append(choices[dice.below(len(choices))])
    for _ in range(2):
        fields.append(PORTS[dice.below(3 if dice.below(4) else len(PORTS))])
    if dice.below(16) == 0:
        del fields[dice.below(4)]
    return (b"PROXY TCP4 " if kind == 0 else b"PROXY TCP6 ") + b" ".join(fields) + b"\r\n"


def tlv(dice: Dice) -> bytes:
    kind = KINDS[dice.below(len(KINDS))]
    size = 4 if kind == 3 else LENGTHS[dice.below(len(LENGTHS))] if dice.below(4) == 0 else dice.below(12)
    value = dice.bytes(size) if size < 20 else bytes(size)
    if kind == 0x20 and dice.below(8):
        inner = b"".join([tlv_of(0x21 + dice.below(5), b"TLSv1.3"[: dice.below(8)]) for _ in range(dice.below(4))])
        value = bytes([dice.below(8)]) + bytes(3) + bytes([dice.below(2)]) + inner
    return tlv_of(kind, value)


def tlv_of(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def block(dice: Dice) -> bytes:
    family = FAMILIES[dice.below(6 if dice.below(4) else len(FAMILIES))]
    size = (0, 12, 36, 216)[family >> 4 & 3]
    rest = dice.bytes(size) if size < 100 else bytes(size)
    if dice.below(6) == 0:
        rest = bytes(10) + b"\xff\xff" + rest[12:]
    rest += b"".join([tlv(dice) for _ in range(dice.below(4))])
    return mended(SIGNATURE + bytes([0x20 + (dice.below(8) > 0), family, 0, 0]) + rest)


def mended(stream: bytes) -> bytes:
    """A block whose length is that of all that is there, and whose first checksum fits."""
    if len(stream) < FIXED:
        return stream
    header = bytearray(stream)
    header[14:16] = (len(stream) - FIXED).to_bytes(2, "big")
    at = FIXED + (0, 12, 36, 216)[header[13] >> 4 & 3 if header[13] & 15 else 0]
    while at + 7 <= len(header):
        size = header[at + 1] * 256 + header[at + 2]
        if header[at] == 3 and size == 4:
            header[at + 3 : at + 7] = bytes(4)
            header[at + 3 : at + 7] = crc32c(bytes(header)).to_bytes(4, "big")
            break
        at += 3 + size
    return bytes(header)


def changed(dice: Dice, stream: bytes) -> bytes:
    """Something put in, taken out or said twice."""
    at = dice.below(len(stream) + 1)
    kind = dice.below(8)
    if kind == 0:
        return stream[:at] + stream[at + 1 + dice.below(4) :]
    if kind == 1:
        return stream[:at] + PARTS[dice.below(len(PARTS))] + stream[at:]
    if kind == 2:
        return stream[:at] + tlv(dice) + stream[at:]
    if kind == 3:
        return stream + tlv(dice)
    if kind == 4:
        return stream[:at] + bytes([dice.below(256)]) + stream[at + 1 :]
    if kind == 5:
        fields = stream.split(b" ")
        choices = ADDRESSES if dice.below(2) else PORTS
        fields[dice.below(len(fields))] = choices[dice.below(len(choices))]
        return b" ".join(fields)
    if kind == 6:
        return stream[:at] + b"x" * dice.below(110) + stream[at:]
    return stream[:at]


def mutate(data: bytes, seed: int, room: int) -> bytes:
    dice = Dice(seed)
    cut, stream = data[:1] or b"\0", data[1:]
    if dice.below(4) == 0:
        cut = bytes([dice.below(256)])
    kind = dice.below(6)
    if kind == 0:
        stream = line(dice)
    elif kind == 1:
        stream = block(dice)
    else:
        for _ in range(1 + dice.below(2)):
            stream = changed(dice, stream)
        if dice.below(2) and stream.startswith(SIGNATURE):
            stream = mended(stream)
    if dice.below(8) == 0:
        stream += b"EHLO me\r\n"
    return (cut + stream)[:room]
