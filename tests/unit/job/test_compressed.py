"""Compressed recipients: Zstandard as gzip is, in bounded memory; what is damaged is refused."""

from __future__ import annotations

import gzip
import importlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job import compressed, recipients
from bulkmail.job.compressed import blocks, zstd_module
from bulkmail.job.recipients import Source, open_source
from bulkmail.job.specs import RecipientsSpec

zstd = zstd_module()
LINES = b'{"email":"a@x.org","name":"Ann"}\n{"email":"b@x.org","name":"Bob"}\n'
SKIPPED = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"  # RFC 8878 section 3.1.2


def opened(tmp_path: Path, name: str, data: bytes | None = None, *, reuse: bool = False) -> Source:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    return open_source(RecipientsSpec(path), spool_dir=tmp_path, stem="j.journal", reuse=reuse)


def addresses(source: Source) -> list[str]:
    with source:
        return [address for batch in source.scan(rows=False) for address in batch.addresses]


FRAMES = [zstd.compress(LINES), zstd.compress(LINES[:40]) + zstd.compress(b"") + SKIPPED + zstd.compress(LINES[40:])]


@pytest.mark.parametrize("data", [*FRAMES, SKIPPED + FRAMES[0]])
@pytest.mark.parametrize("name", ["r.jsonl.zst", "R.JSONL.ZST", "list"])
def test_zstd_is_unpacked_and_its_format_found(tmp_path: Path, name: str, data: bytes) -> None:
    source = opened(tmp_path, name, data)
    assert source.format == "jsonl"
    assert addresses(source) == ["a@x.org", "b@x.org"]


def test_an_address_a_line_is_found_by_its_name(tmp_path: Path) -> None:
    assert opened(tmp_path, "r.txt.zst", zstd.compress(b"a@x.org\n")).format == "text"
    assert opened(tmp_path, "r.csv.zst", zstd.compress(b"email\na@x.org\n")).format == "csv"


BROKEN = [
    (LINES, "is not a zstd file, as its name says"),
    (b"", "is not a zstd file"),
    (gzip.compress(LINES), "is not a zstd file"),
    (FRAMES[0][:-3], "is cut off"),
    (FRAMES[0][:6], "is cut off"),
    (FRAMES[0] + b"more", "is damaged"),
    (FRAMES[0][:5] + b"\xff" * 6 + FRAMES[0][11:], "is damaged"),
]


@pytest.mark.parametrize(("data", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_refused_and_nothing_is_left(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ManifestError) as refused:
        opened(tmp_path, "r.jsonl.zst", data)
    assert f"r.jsonl.zst {words}" in str(refused.value) and refused.value.path == "$.recipients"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl.zst"]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ManifestError, match=r"compressed by zstd, which needs .* pip install 'bulkmail\[zstd\]'"):
        opened(tmp_path, "r.jsonl.zst", FRAMES[0])


@pytest.mark.parametrize("packed", [gzip.compress, zstd.compress])
def test_what_is_packed_very_tightly_comes_out_block_by_block(packed: Callable[[bytes], bytes]) -> None:
    bomb, size = packed(bytes(1 << 26)), 0
    assert len(bomb) < 1 << 17
    given = iter([bomb, b""])
    tracemalloc.start()
    try:
        for block in blocks(lambda n: next(given), "bomb"):
            assert len(block) <= compressed.BLOCK
            size += len(block)
        assert tracemalloc.get_traced_memory()[1] < 8 * compressed.BLOCK
    finally:
        tracemalloc.stop()
    assert size == 1 << 26


def test_a_frame_that_wants_more_memory_than_zstd_gives_is_refused(tmp_path: Path) -> None:
    large = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=large)
    with pytest.raises(ManifestError, match=r"is damaged: .*[Mm]emory"):
        opened(tmp_path, "r.zst", compressor.compress(LINES) + compressor.flush())


@pytest.mark.parametrize(("ending", "packed"), [("gz", gzip.compress), ("zst", zstd.compress)])
def test_a_resumed_job_unpacks_again_only_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, packed: Callable[[bytes], bytes]
) -> None:
    name = f"r.jsonl.{ending}"
    opened(tmp_path, name, packed(LINES)).close()
    written: list[Path] = []
    write = recipients.write_spool

    def noted(content: Any, target: Path, **options: Any) -> Path:
        written.append(target)
        return write(content, target, **options)

    monkeypatch.setattr(recipients, "write_spool", noted)
    assert addresses(opened(tmp_path, name, reuse=True)) == ["a@x.org", "b@x.org"]
    assert written == []
    os.utime(tmp_path / name, ns=(1, 1))
    assert addresses(opened(tmp_path, name, reuse=True)) == ["a@x.org", "b@x.org"]
    assert len(written) == 1
    with pytest.raises(ManifestError, match="not those that the job began with"):
        opened(tmp_path, name, packed(LINES * 2), reuse=True)
