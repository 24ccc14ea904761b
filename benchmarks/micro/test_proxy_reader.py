"""Reading a PROXY header, from the bytes to the client's ends: microseconds each.

    python -m pytest benchmarks/micro/test_proxy_reader.py

`us_per_header` is in the extra info. "cut" is byte by byte, as nobody sends it who means well.
"""

from __future__ import annotations

import struct

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.wire.proxy_header import v1, v2
from bulkmail.wire.proxy_info import ProxyInfo
from bulkmail.wire.proxy_reader import ProxyReader

ROUND = 1000
FOUR = ("203.0.113.7", 56324), ("192.0.2.25", 2525)
SIX = ("2001:db8::7", 56324), ("2001:db8::25", 2525)
BARE = v2(*FOUR)


def with_tlvs(*tlvs: bytes) -> bytes:
    rest = BARE[16:] + b"".join(tlvs)
    return BARE[:14] + struct.pack("!H", len(rest)) + rest


HEADERS = {
    "v1, IPv4": v1(*FOUR),
    "v1, IPv6": v1(*SIX),
    "v1, UNKNOWN": v1(None, None),
    "v2, IPv4": BARE,
    "v2, IPv6": v2(*SIX),
    "v2, LOCAL": v2(None, None),
    # what HAProxy sends of a client that came over TLS; the checksum is that of these very bytes
    "v2, TLS": with_tlvs(b"\2\0\x07mx.test", b"\x20\0\x0f\1\0\0\0\1\x21\0\x07TLSv1.3"),
    "v2, checksum": with_tlvs(b"\3\0\4" + struct.pack("!I", 0x5355AB19)),
}


@pytest.mark.parametrize("how", ["whole", "cut"])
@pytest.mark.parametrize("kind", HEADERS)
def test_header(benchmark: BenchmarkFixture, kind: str, how: str) -> None:
    header = HEADERS[kind]
    pieces = [header] if how == "whole" else [header[at : at + 1] for at in range(len(header))]
    benchmark.group = f"{ROUND} headers, {how}"

    def read() -> ProxyInfo | None:
        for _ in range(ROUND):
            reader = ProxyReader()
            for piece in pieces:
                reader.feed(piece)
        return reader.info

    info = benchmark(read)
    assert info is not None and (info.source in (FOUR[0], SIX[0]) or kind == "v2, LOCAL" or "UNKNOWN" in kind)
    benchmark.extra_info["us_per_header"] = round(benchmark.stats.stats.min / ROUND * 1e6, 2)
