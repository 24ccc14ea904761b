"""The servers that whole runs talk to, and where what is counted is kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.servers.smtp_sink import smtp_sink
from integration.sink_program import sink


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's measurements leave their records."""
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def sinks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that wholes.py wants: one server without CHUNKING, one with it."""
    folder = tmp_path_factory.mktemp("sinks")
    with smtp_sink(folder / "smtp-sink") as plain, sink(folder, store=False) as chunking:
        yield {"SINK": str(plain.port), "CHUNKING_SINK": str(chunking.port)}


@pytest.fixture(scope="module")
def measured_python() -> None:
    """Skips where the figures of bounds.py do not hold."""
    if (sys.platform, sys.implementation.name, *sys.version_info[:2]) != ("linux", "cpython", 3, 11):
        pytest.skip("the figures are those of CPython 3.11 on Linux: another one allocates otherwise")
