"""PROXY protocol headers: the two ends of a connection as the bytes that go before everything else on it.

"The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt). Sections cited here are that document's.
No sockets: whoever holds one says what its ends are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

End = tuple[str, int]  # address text, port

MAX_V1: Final = 107  # section 2.1: a receiver takes no longer line, CRLF included
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # section 2.2: an SMTP server that expects none hears empty lines and QUIT
PROXY: Final = 0x21  # version 2, command PROXY
LOCAL: Final = 0x20  # command LOCAL: the ends are those of the connection itself
UNSPEC: Final = 0x00
TCP: Final = {4: 0x11, 6: 0x21}  # by IP version: family and SOCK_STREAM


def v1(source: End | None, destination: End | None) -> bytes:
    """The line of version 1 (section 2.1), at most MAX_V1 bytes.

    None, or ends of two families: "UNKNOWN", for which the receiver goes by the connection that it sees.
    An IPv4-mapped IPv6 address is written as IPv4, an address with a zone (fe80::1%eth0) without it.

    raises  ValueError  no IP address, or no port
    """
    ends = _known(source, destination)
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (here, port), (there, its_port) = ends
    return f"PROXY TCP{here.version} {here} {there} {port} {its_port}\r\n".encode("ascii")


def v2(source: End | None, destination: End | None) -> bytes:
    """The block of version 2 (section 2.2) without extensions: 28 bytes for IPv4, 52 for IPv6, 16 for unknown ends.

    Arguments and errors are those of `v1`. "Unknown" is said by the command LOCAL, which every receiver must take;
    HAProxy 2.6 and Postfix 3.7 hang up on PROXY with the family AF_UNSPEC.
    """
    ends = _known(source, destination)
    if ends is None:
        return SIGNATURE + struct.pack("!BBH", LOCAL, UNSPEC, 0)
    (here, port), (there, its_port) = ends
    addresses = here.packed + there.packed + struct.pack("!HH", port, its_port)
    return SIGNATURE + struct.pack("!BBH", PROXY, TCP[here.version], len(addresses)) + addresses


WRITERS: Final[Mapping[str, Callable[[End | None, End | None], bytes]]] = {"v1": v1, "v2": v2}


def same_family(source: End, destination: End) -> bool:
    """Whether a header can say both."""
    return _known(source, destination) is not None


_Parsed = tuple[IPv4Address | IPv6Address, int]


def _known(source: End | None, destination: End | None) -> tuple[_Parsed, _Parsed] | None:
    """Both ends, or None where a header can only say that they are unknown."""
    if source is None or destination is None:
        return None
    here, there = _parsed(source), _parsed(destination)
    return (here, there) if here[0].version == there[0].version else None


def _parsed(end: End) -> _Parsed:
    text, port = end
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port is {port}, expected 0 to 65535")
    address = ip_address(text.partition("%")[0])
    # A dual-stack socket speaks IPv4 to such an address (RFC 4291 section 2.5.5.2), and that is what the server sees.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address, port
