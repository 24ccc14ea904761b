"""Headers of the PROXY protocol, drawn, and damaged: the reader agrees with a plain model, however they are cut."""

from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.proxy_harness import Outcome, run
from fuzz.proxy_mutator import ADDRESSES, FAMILIES, PARTS, PORTS, mended, tlv_of

EXAMPLES = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "100"))  # of each test; more for a long run
SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")

v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)
ports = st.integers(0, 65535)
any_address = st.one_of(v4.map(str), v6.map(str)).map(str.encode) | st.sampled_from(ADDRESSES)
any_port = st.one_of(ports.map(lambda port: b"%d" % port), st.sampled_from(PORTS))
lines = st.builds(
    lambda word, *fields: b"PROXY " + b" ".join([word, *fields]) + b"\r\n",
    st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"TCP5"]), any_address, any_address, any_port, any_port,
)  # fmt: skip
inner = st.lists(st.builds(tlv_of, st.integers(0x20, 0x26), st.binary(max_size=9)), max_size=3).map(b"".join)
tlvs = st.lists(
    st.one_of(
        st.builds(tlv_of, st.sampled_from([1, 2, 4, 5, 0x20, 0x30, 0xE0]), st.binary(max_size=12)),
        st.just(tlv_of(3, bytes(4))),
        st.builds(lambda flags, rest: tlv_of(0x20, bytes([flags, 0, 0, 0, 0]) + rest), st.integers(0, 255), inner),
    ),
    max_size=4,
).map(b"".join)
blocks = st.builds(
    lambda command, family, ends, rest: mended(SIGNATURE + bytes([command, family, 0, 0]) + ends + rest),
    st.sampled_from([0x21, 0x21, 0x20, 0x11, 0x22]),
    st.sampled_from(FAMILIES),
    st.one_of(st.binary(min_size=12, max_size=12), st.binary(min_size=36, max_size=36), st.just(bytes(216))),
    tlvs,
)
headers = st.one_of(lines, blocks)
cuts = st.integers(0, 255)


@settings(max_examples=EXAMPLES)
@given(header=headers, behind=st.sampled_from([b"", b"EHLO me\r\n", b"\r\n"]), cut=cuts)
def test_a_header_means_what_the_model_says(header: bytes, behind: bytes, cut: int) -> None:
    run(bytes([cut]) + header + behind)


@settings(max_examples=EXAMPLES)
@given(header=headers, at=st.integers(0, 300), gone=st.integers(0, 4), put=st.sampled_from(PARTS), cut=cuts)
def test_so_does_a_damaged_one(header: bytes, at: int, gone: int, put: bytes, cut: int) -> None:
    run(bytes([cut]) + header[:at] + put + header[at + gone :])


@settings(max_examples=EXAMPLES)
@given(here=v6, there=v6, port=ports, its_port=ports)
def test_ends_of_ipv6_are_read_as_they_are(here: object, there: object, port: int, its_port: int) -> None:
    said = f"PROXY TCP6 {here} {there} {port} {its_port}\r\n".encode()
    info = Outcome(said, 0).info
    assert info is not None and info.source is not None and info.destination is not None
    assert (info.source[1], info.destination[1]) == (port, its_port)
    block = SIGNATURE + struct.pack("!BBH", 0x21, 0x21, 36) + here.packed + there.packed  # type: ignore[attr-defined]
    assert Outcome(block + struct.pack("!HH", port, its_port), 0).info.source == info.source  # type: ignore[union-attr]
