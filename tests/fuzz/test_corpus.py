"""What the guided fuzzers found worth keeping is run again, and each harness finds what is wrong, if something is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bulkmail.wire.proxy_reader import ProxyReader
from bulkmail.wire.server import ServerCodec
from fuzz import proxy_harness, proxy_model, proxy_mutator, server_harness, server_mutator

CORPUS = Path(__file__).parent / "corpus"
HARNESSES: dict[str, Callable[[bytes], None]] = {"server": server_harness.run, "proxy": proxy_harness.run}
MUTATORS = {"server": server_mutator.mutate, "proxy": proxy_mutator.mutate}


def inputs(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", HARNESSES)
def test_every_input_that_was_kept_holds(name: str) -> None:
    assert len(inputs(name)) > 30
    for path in inputs(name):
        try:
            HARNESSES[name](path.read_bytes())
        except AssertionError as why:
            raise AssertionError(path.name) from why


@pytest.mark.parametrize("name", HARNESSES)
def test_what_the_mutator_makes_of_them_holds(name: str) -> None:
    for seed, path in enumerate(inputs(name)):
        data = path.read_bytes()
        for turn in range(3):
            data = MUTATORS[name](data, seed * 3 + turn, 512)
            assert len(data) <= 512
            HARNESSES[name](data)


def only_lf(codec: ServerCodec, data: bytes) -> Sequence[Any]:
    """Takes LF.LF for the end of a message."""
    return codec.feed(data.replace(b"\n.\n", b"\r\n.\r\n"))


def forgets_lf(codec: ServerCodec, data: bytes) -> Sequence[Any]:
    return codec.feed(data[1:] if data[:1] == b"\n" else data)


def twice(codec: ServerCodec, data: bytes) -> Sequence[Any]:
    """Hands on each content once more."""
    return [event for event in codec.feed(data) for _ in range(1 + (event[0] == "content"))]


def no_end(codec: ServerCodec, data: bytes) -> Sequence[Any]:
    return [event for event in codec.feed(data) if event[0] not in ("end", "abort")]


def reads_on(reader: ProxyReader, data: bytes) -> int:
    """Takes what follows the header for its own."""
    return len(data) if reader.feed(data) else 0


def a_line_only(reader: ProxyReader, data: bytes) -> int:
    return reader.feed(data.replace(b"\r\n\r\n\0", b"\r\n"))


def any_case(reader: ProxyReader, data: bytes) -> int:
    return reader.feed(data.replace(b"proxy", b"PROXY"))


def lone_lf(reader: ProxyReader, data: bytes) -> int:
    taken = data.replace(b" 25\n", b" 25\r\n")
    return min(len(data), reader.feed(taken))


MISTAKES: dict[str, list[Callable[..., Any]]] = {
    "server": [only_lf, forgets_lf, twice, no_end],
    "proxy": [reads_on, a_line_only, any_case, lone_lf],
}


@pytest.mark.parametrize("name, mistake", [(name, mistake) for name in MISTAKES for mistake in MISTAKES[name]])
def test_a_mistake_is_found(name: str, mistake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    harness = {"server": server_harness, "proxy": proxy_harness}[name]
    monkeypatch.setattr(harness, "feed", mistake)
    with pytest.raises(AssertionError):
        for path in inputs(name):
            HARNESSES[name](path.read_bytes())


def test_the_model_of_headers_has_the_right_checksum() -> None:
    assert proxy_model.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32/ISCSI


def test_the_model_knows_the_headers_of_the_specification() -> None:
    line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    header = proxy_model.read(line + b"GET / HTTP/1.1\r\n", 1000, 128)
    assert header.size == len(line) and str(header.source and header.source[0]) == "192.168.0.1"
    wide = b" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    longest = b"PROXY UNKNOWN" + wide + wide + b" 65535 65535\r\n"
    assert proxy_model.read(longest, 1000, 128).size == 107
    with pytest.raises(proxy_model.Invalid):
        proxy_model.read(longest.replace(b" 65535\r", b" 655350\r"), 1000, 128)
    with pytest.raises(proxy_model.Incomplete):
        proxy_model.read(line[:-1], 1000, 128)
