"""One input for the reader of PROXY headers: a byte that says how it is cut, then the stream.

`run(data)` raises AssertionError where the reader differs from the model, or from itself, cut otherwise; and where what
the writer makes of the ends that were read is not read as the same. scripts/fuzz compiles this file; pytest runs it.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from bulkmail.wire import proxy_reader
from bulkmail.wire.proxy_header import WRITERS
from bulkmail.wire.proxy_info import ProxyInfo
from bulkmail.wire.proxy_reader import ProxyReader
from fuzz.proxy_model import Header, Incomplete, Invalid, read

try:
    from fuzz.guarded import feed  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # not in a sanitized build

    def feed(reader: ProxyReader, data: bytes) -> int:
        return reader.feed(data)


MAX_INPUT = 640


def pieces_of(stream: bytes, cut: int) -> list[bytes]:
    """Ten ways: in one piece, bytewise, in pieces of some bytes, in two."""
    if cut % 10 == 0:
        return [stream]
    if cut % 10 < 4:
        size = (1, 2, 7)[cut % 10 - 1]
        return [stream[i : i + size] for i in range(0, len(stream), size)]
    at = cut * len(stream) // 255
    return [stream[:at], b"", stream[at:]]


class Outcome:
    """What a reader says of a stream, and what was left to the client."""

    def __init__(self, stream: bytes, cut: int) -> None:
        self.reader = ProxyReader()
        self.used = 0
        for piece in pieces_of(stream, cut):
            ended = self.ended()
            used = feed(self.reader, piece)
            assert 0 <= used <= len(piece) and not (ended and used), (ended, used)
            assert used == len(piece) or self.ended(), "bytes are left, and the header has no end"
            self.used += used
        self.info: ProxyInfo | None = self.reader.info
        self.error: str | None = self.reader.error
        assert self.info is None or self.error is None
        assert self.used <= proxy_reader.MAX_V2

    def ended(self) -> bool:
        return self.reader.info is not None or self.reader.error is not None

    def settled(self) -> tuple[Any, ...]:
        return self.info, self.error, self.used


def by_need(stream: bytes) -> tuple[Any, ...]:
    """The outcome where no more is read than the reader asks for: none of it is the client's."""
    reader, at = ProxyReader(), 0
    while reader.need and at < len(stream):
        piece = stream[at : at + reader.need]
        used = feed(reader, piece)
        at += used
        assert used == len(piece) or reader.error is not None, "more is asked for than the header has"
    assert (reader.need == 0) == (reader.info is not None or reader.error is not None)
    return reader.info, reader.error, at


def against_model(stream: bytes, outcome: Outcome) -> None:
    try:
        header = read(stream, proxy_reader.MAX_V2, proxy_reader.MAX_UNIQUE_ID)
    except Invalid:
        assert outcome.error is not None, "an invalid header is taken"
    except Incomplete as why:
        assert outcome.info is None, "a header without its end is taken"
        assert outcome.error is None or not why.sound, f"refused before its time: {outcome.error}"
    else:
        assert outcome.info is not None, f"a valid header is refused: {outcome.error}"
        assert outcome.used == header.size
        compare(outcome.info, header)


def compare(info: ProxyInfo, header: Header) -> None:
    assert (info.version, info.local, info.tlvs) == (header.version, header.local, header.tlvs)
    for told, meant in ((info.source, header.source), (info.destination, header.destination)):
        assert (told is None) == (meant is None)
        if told is not None and meant is not None:
            assert told[0] == told[0].lower() and "%" not in told[0]
            assert (ip_address(told[0]), told[1]) == meant
    # None of them raises, whatever a header holds.
    _ = info.alpn, info.authority, info.unique_id, info.netns, info.tls


def round_trip(info: ProxyInfo) -> None:
    """What our own writer says of these ends."""
    for version, write in WRITERS.items():
        said = write(info.source, info.destination)
        reader = ProxyReader()
        assert feed(reader, said + b"EHLO") == len(said) and reader.info is not None, (said, reader.error)
        read_back: ProxyInfo = reader.info
        assert read_back.version == int(version[1:])
        ends = unmapped(info.source), unmapped(info.destination)
        if ends[0] is None or ends[1] is None or ends[0][0].version != ends[1][0].version:
            ends = None, None
        assert (unmapped(read_back.source), unmapped(read_back.destination)) == ends, said


def unmapped(end: tuple[str, int] | None) -> tuple[Any, int] | None:
    """An IPv4 address that an IPv6 socket showed is an IPv4 address."""
    if end is None:
        return None
    address = ip_address(end[0])
    return getattr(address, "ipv4_mapped", None) or address, end[1]


def run(data: bytes) -> None:
    if not 0 < len(data) <= MAX_INPUT:
        return
    cut, stream = data[0], data[1:]
    outcome = Outcome(stream, 0)
    against_model(stream, outcome)
    if outcome.info is not None:
        round_trip(outcome.info)
    # Behind the header nothing is looked at: the same with more of the client's, less, or none.
    expected = outcome.settled()
    assert Outcome(stream, cut).settled() == expected, (cut, expected)
    assert Outcome(stream, 1).settled() == expected, (1, expected)
    assert by_need(stream) == expected
    if outcome.ended():
        assert Outcome(stream[: outcome.used], cut).settled() == expected, "it depends on what follows"


def mutate(data: bytes, seed: int, room: int) -> bytes:
    from fuzz.proxy_mutator import mutate

    return mutate(data, seed, room)
