"""Files that may be compressed, as blocks of what is in them: gzip (RFC 1952), Zstandard (RFC 8878), or neither."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bulkmail.errors import ManifestError

BLOCK = 1 << 20  # bytes held in memory at a time; larger ones copy no faster
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# What a frame may ask for as memory of what it has said: zstd's own tool refuses more unless it is told otherwise.
ZSTD_WINDOW_LOG = 27
ENDINGS = {".gz": "gzip", ".zst": "zstd"}
INSTALL = "needs the package backports.zstd: pip install 'bulkmail[zstd]'"


def blocks(read: Callable[[int], bytes], name: str, where: str = "$.recipients") -> Iterator[bytes]:
    """The content of a stream, decompressed if its first bytes are such, at most BLOCK bytes at a time.

    read    read(n) gives n bytes, less at the end
    where   the JSON path for errors
    raises  ManifestError  it is damaged, cut off or not what its name says, or the package for it is missing
    """
    first = read(BLOCK)
    found, expected = kind_of(first), ENDINGS.get(Path(name.lower()).suffix)
    if expected is not None and found != expected:
        raise ManifestError(f"{name} is not a {expected} file, as its name says", path=where)
    content = _chain(first, iter(lambda: read(BLOCK), b""))
    if found is None:
        yield from content
        return
    try:
        yield from _gunzip(content) if found == "gzip" else _unzstd(content)
    except ValueError as error:
        raise ManifestError(f"{name} {error}", path=where) from error


def kind_of(first: bytes) -> str | None:
    """ "gzip", "zstd" or None, by the first bytes of a file."""
    if first.startswith(GZIP_MAGIC):
        return "gzip"
    # A frame to be skipped (RFC 8878 section 3.1.2) may come first: pzstd writes one.
    skipped = first[1:4] == b"\x2a\x4d\x18" and 0x50 <= first[0] <= 0x5F
    return "zstd" if skipped or first.startswith(ZSTD_MAGIC) else None


def plain_name(name: str) -> str:
    """A file's name in lower case, without the ending that says how it is compressed."""
    name = name.lower()
    return name.removesuffix(Path(name).suffix) if Path(name).suffix in ENDINGS else name


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
        yield from rest


def _gunzip(content: Iterable[bytes]) -> Iterator[bytes]:
    """A file may have several members (RFC 1952)."""
    inflate = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for data in content:
            while data:
                begun = True
                yield inflate.decompress(data, BLOCK)
                data = inflate.unconsumed_tail
                if inflate.eof:
                    data = inflate.unused_data.lstrip(b"\0")  # tapes and some tools pad with zeros
                    inflate = zlib.decompressobj(wbits=31)
                    begun = False
    except zlib.error as error:
        raise ValueError(f"is damaged: {error}") from error
    if begun:
        raise ValueError("is cut off: its gzip data ends too early")


def _unzstd(content: Iterable[bytes]) -> Iterator[bytes]:
    """A file may have several frames (RFC 8878 section 3)."""
    zstd = zstd_module()
    options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    frame = zstd.ZstdDecompressor(options=options)
    begun = False
    try:
        for data in content:
            while data or not (frame.needs_input or frame.eof):
                begun = True
                yield frame.decompress(data, BLOCK)
                data = b""
                if frame.eof:
                    data = frame.unused_data
                    frame = zstd.ZstdDecompressor(options=options)
                    begun = False
    except zstd.ZstdError as error:
        raise ValueError(f"is damaged: {error}") from error
    if begun:
        raise ValueError("is cut off: its zstd data ends too early")


def zstd_module() -> Any:
    """The module, of the standard library since Python 3.14: its decompressor gives no more than it is asked for."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise ValueError(f"is compressed by zstd, which {INSTALL}")
