"""What the servers of the tests have in common: where one listens, that it is up, that it is gone again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"
LOOPBACK = ((socket.AF_INET, HOST), (socket.AF_INET6, "::1"))
SERVER_PORTS = 20_000, 32_768
SERVERS = Path(os.environ.get("BULKMAIL_SERVERS", "/opt/bulkmail-servers"))  # where install-servers unpacks some
START_SECONDS = 20.0  # a loaded machine with two cores; a server that has died is noticed at once
STOP_SECONDS = 10.0
# Debian keeps servers out of an ordinary user's PATH.
PROGRAM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def missing(what: str) -> None:
    """Skip the test for want of `what`, or fail it where the servers must be there (CI)."""
    if os.environ.get("BULKMAIL_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{what}, and BULKMAIL_REQUIRE_SERVERS=1; scripts/install-servers installs what the tests use")
    pytest.skip(f"{what}; scripts/install-servers installs what the tests use")


def require(program: str) -> str:
    """The path of `program`; where it is missing, the test is skipped or (BULKMAIL_REQUIRE_SERVERS=1) fails."""
    path = shutil.which(program, path=PROGRAM_PATH)
    if path is None:
        missing(f"{program} is not installed")
    assert path is not None
    return path


def free_port() -> int:
    """A port that was free a moment ago, by IPv4 and IPv6, for servers that cannot be told port 0.

    It is none that the system gives to clients (32768 and above on Linux, 49152 elsewhere): one of those may be taken
    again before the server has it.
    """
    while True:
        port = random.randrange(*SERVER_PORTS)
        if all(_is_free(*way, port) for way in LOOPBACK):
            return port


def _is_free(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL  # a machine without IPv6
    return True


@dataclass(frozen=True)
class Server:
    """Where a running server is found.

    tls   None, "starttls" (offered after EHLO) or "implicit" (from the first byte)
    """

    port: int
    tls: str | None = None
    host: str = HOST

    @property
    def url(self) -> str:
        scheme = "smtps" if self.tls == "implicit" else "smtp"
        return f"{scheme}://{self.host}:{self.port}"


@dataclass(frozen=True)
class MaildirServer(Server):
    """A server that delivers all its mail into the Maildir `folder`/mail."""

    folder: Path = Path()
    pid: int = 0

    def contents(self) -> list[bytes]:
        """The delivered messages as files: LF line ends, the server's own header fields on top."""
        return [file.read_bytes() for file in sorted((self.folder / "mail/new").glob("*"))]

    def wait_for(self, count: int) -> list[bytes]:
        """The delivered messages, once there are `count` of them."""
        wait_until(lambda: len(list((self.folder / "mail/new").glob("*"))) >= count, f"{count} messages in the inbox")
        return self.contents()


def wait_until(ready: Callable[[], bool], what: str, problem: Callable[[], str | None] = lambda: None) -> None:
    """Poll until `ready()`; fails after START_SECONDS, or as soon as `problem()` says why it will never be."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        trouble = problem()
        if trouble is not None:
            raise RuntimeError(f"{what}: {trouble}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not ready after {START_SECONDS:g} s")
        time.sleep(0.01)


def greets(port: int, *, implicit_tls: bool = False) -> bool:
    """Whether an SMTP server on `port` sends its greeting (with implicit TLS: whether it takes a connection)."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as peer:
            return implicit_tls or peer.recv(3) == b"220"
    except OSError:
        return False


def wait_for_greeting(process: subprocess.Popen[bytes], port: int, log: Path, *, implicit_tls: bool = False) -> None:
    """Return once the server greets; RuntimeError with the end of its log if it died or never did."""

    def died() -> str | None:
        if process.poll() is None:
            return None
        return f"ended with status {process.returncode}: {log.read_text(errors='replace')[-2000:]}"

    wait_until(lambda: greets(port, implicit_tls=implicit_tls), str(process.args), died)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that a test started: asked first, made to after STOP_SECONDS."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


def read_log(file: Path) -> str:
    """All of it; nothing while its writer, a process of its own, has not begun it."""
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
