"""Blobs of the journal: compressed where that is shorter, and the detail records of one commit in one of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

# Below this zlib's own frame outweighs what it saves.
WORTH_SQUEEZING = 64
# A blob is a few KB. To clear a window of zlib's usual 32 KB took longer than to compress it.
WINDOW_BITS = 12
# A commit's records are some 10 KB. More than this out of one blob means damage, or an attempt to fill the memory.
MAX_BLOB = 64 << 20

PLAIN, SQUEEZED = b"\0", b"\1"
SECTION = struct.Struct("<QI")  # chunk number, length


def squeeze(data: bytes) -> bytes:
    """`data` with a first byte that says whether it is compressed."""
    if len(data) >= WORTH_SQUEEZING:
        small = zlib.compress(data, 1, WINDOW_BITS)
        if len(small) < len(data):
            return SQUEEZED + small
    return PLAIN + data


def unsqueeze(blob: bytes) -> bytes:
    """What squeeze was given. ValueError where the blob is damaged."""
    if blob[:1] == PLAIN:
        return blob[1:]
    if blob[:1] != SQUEEZED:
        raise ValueError("a damaged blob: it does not say whether it is compressed")
    engine = zlib.decompressobj()
    try:
        data = engine.decompress(blob[1:], MAX_BLOB)
    except zlib.error as exc:
        raise ValueError(f"a damaged blob: {exc}") from exc
    if not engine.eof:
        raise ValueError("a damaged blob: it ends early or is too long")
    return data


def pack_details(sections: Iterable[tuple[int, bytes]]) -> bytes:
    """(chunk number, records) of one commit as one blob."""
    return squeeze(b"".join(SECTION.pack(no, len(records)) + records for no, records in sections))


def unpack_details(blob: bytes) -> dict[int, list[bytes]]:
    """Each chunk's sections of records, in order. ValueError where the blob is damaged."""
    data, at = unsqueeze(blob), 0
    found: dict[int, list[bytes]] = {}
    while at < len(data):
        if len(data) - at < SECTION.size:
            raise ValueError("a damaged blob: a section ends early")
        no, length = SECTION.unpack_from(data, at)
        at += SECTION.size + length
        if at > len(data):
            raise ValueError("a damaged blob: a section ends early")
        found.setdefault(no, []).append(data[at - length : at])
    return found
