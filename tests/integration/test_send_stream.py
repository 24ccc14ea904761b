"""A long stream by `Connection.send`: what arrives is what was sent, and memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
STREAM = PEERS / "stream.py"
SIZE, ROUGH = 100 << 20, 2 << 20
MOST_GROWTH_MB = 20  # a stream that was held, or ran ahead of the receiver, would make it grow by 100


@pytest.fixture(scope="module")
def stream():
    """The script as a module."""
    sys.path.insert(0, str(PEERS))
    try:
        import stream

        yield stream
    finally:
        sys.path.remove(str(PEERS))


def streamed(manner, size, *flags):
    """What the sending and the receiving process say of a stream of `size` bytes."""
    command = [sys.executable, str(STREAM), "--manner", manner, "--bytes", str(size), *flags]
    with subprocess.Popen([*command, "--receive"], stdout=subprocess.PIPE, text=True) as receiver:
        try:
            port = receiver.stdout.readline().strip()
            sender = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=120)
            assert sender.returncode == 0, sender.stderr
            return json.loads(sender.stdout), json.loads(receiver.stdout.read())
        finally:
            receiver.kill()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize("manner", ["DATA", "BDAT"])
def test_the_memory_of_a_stream_is_bounded(manner):
    sent, arrived = streamed(manner, SIZE)
    assert arrived["bytes"] - SIZE in range(6)
    assert sent["grown_mb"] < MOST_GROWTH_MB


@pytest.mark.parametrize("manner", ["DATA", "BDAT"])
def test_dots_and_newlines_are_mended_across_blocks(stream, manner):
    _, arrived = streamed(manner, ROUGH, "--keep")
    assert arrived["sha256"] == stream.digest(ROUGH)
