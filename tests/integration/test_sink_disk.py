"""`bulkmail sink` on a disk that fills, for real: refused while it is full, taken again when there is room."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.sink_program import Sink, sink

resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
MESSAGE = b"Subject: x\r\n\r\n" + b"word\r\n" * 2000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB at `tmp_path`/box."""
    folder, mount = tmp_path / "box", shutil.which("mount")
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=200k", "tmpfs"]
    done = mount and subprocess.run([mount, *options, folder], capture_output=True)
    if not done or done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def send(port: int, count: int, message: bytes = MESSAGE) -> list[int]:
    """The codes for so many messages over one connection."""
    codes = []
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("me")
        for _ in range(count):
            client.mail("a@example.com")
            client.rcpt("b@example.com")
            codes.append(client.data(message)[0])
    return codes


def assert_true(server: Sink, taken: int) -> None:
    assert server.contents() == [MESSAGE] * taken
    assert len(list((server.folder / "new").iterdir())) == taken
    assert list((server.folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--fsync"]], ids=["plain", "fsync"])
def test_a_file_system_that_fills(small_disk: Path, tmp_path: Path, options: list[str]) -> None:
    with sink(tmp_path, *options) as server:
        codes = send(server.port, 25)
        taken = codes.count(250)
        assert 0 < taken < 25 and codes == [250] * taken + [452] * (25 - taken)
        assert_true(server, taken)
        subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
        assert send(server.port, 3) == [250] * 3
        assert_true(server, taken + 3)
        counts = server.end()
        assert (counts["messages"], counts["refused"]) == (taken + 3, 25 - taken)
        assert "message not stored: [Errno 28] No space left on device" in server.stderr


def test_a_file_system_that_fills_below_an_mbox(small_disk: Path, tmp_path: Path) -> None:
    with sink(tmp_path, "--mbox", "box/mbox", store=False) as server:
        codes = send(server.port, 25)
        taken = codes.count(250)
        assert 0 < taken < 25 and 452 in codes
        stored = (small_disk / "mbox").read_bytes()
        assert stored.count(b"From a@example.com ") == taken == stored.count(MESSAGE.replace(b"\r\n", b"\n") + b"\n")
        subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
        assert send(server.port, 1) == [250]


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    with sink(tmp_path) as server:
        limit = (len(MESSAGE) + 10, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        assert send(server.port, 2, MESSAGE + b"more than that\r\n") == [452] * 2
        codes = send(server.port, 70)  # until envelopes.jsonl is as large
        taken = codes.count(250)
        assert 0 < taken < 70 and codes == [250] * taken + [452] * (70 - taken)
        assert_true(server, taken)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert send(server.port, 1) == [250]
        assert_true(server, taken + 1)


def test_no_file_can_be_opened(tmp_path: Path) -> None:
    with sink(tmp_path) as server, smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.ehlo("me")
        pid, unlimited = server.process.pid, resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), unlimited[1]))
        client.mail("a@example.com")
        client.rcpt("b@example.com")
        assert client.data(MESSAGE) == (451, b"4.3.0 The message cannot be stored")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, unlimited)
        client.mail("a@example.com")
        client.rcpt("b@example.com")
        assert client.data(MESSAGE)[0] == 250
        assert_true(server, 1)
