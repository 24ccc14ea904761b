"""What the proxies of the tests have in common: one process each, where it listens, its log, the names it knows.

The hosts in HOSTS exist for the proxies only (by nss_wrapper, or the proxy's own setting), so a target of such a name
is reached only if the proxy, and not the client, looks it up.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from .common import HOST, STOP_SECONDS, missing, wait_until

HOSTS = f"{HOST} localhost\n{HOST} mx.example.test\n::1 mx6.example.test\n"
NSS_WRAPPER = "libnss_wrapper.so"
USER = "ann"
PASSWORD = "s3cret%40:/@+w"  # what is a mark in a URL is part of it
PLAIN_PASSWORD = "s3cret"  # for what takes letters and digits only


@dataclass(frozen=True)
class Proxy:
    """A running proxy. password: of USER where it wants a login."""

    port: int
    log: Path
    pid: int
    host: str = HOST
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, scheme: str, *, password: str | None = None) -> str:
        """Its URL; with its login if it wants one, or with another password."""
        password = password if password is not None else self.password
        login = f"{USER}:{quote(password, safe='')}@" if password is not None else ""
        return f"{scheme}://{login}{self.place}"


def accepts(port: int, host: str = HOST) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def tail(log: Path) -> str:
    """The end of a log, for a failure's text."""
    return log.read_text(errors="replace")[-2000:]


def wrapped(folder: Path, **files: str) -> dict[str, str]:
    """The environment of a program that finds HOSTS, and `files` (passwd, group, shadow) in place of the machine's."""
    library = next((str(path) for path in Path("/usr/lib").glob(f"*/{NSS_WRAPPER}")), None)
    if library is None:
        missing(f"{NSS_WRAPPER} is not installed")
    assert library is not None
    found = {}
    for name, text in {"hosts": HOSTS, **files}.items():
        (folder / name).write_text(text)
        found[f"NSS_WRAPPER_{name.upper()}"] = str(folder / name)
    return {**os.environ, "LD_PRELOAD": library, **found}


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    host: str = HOST,
    environment: Mapping[str, str] | None = None,
    by: signal.Signals = signal.SIGTERM,
) -> Iterator[int]:
    """A proxy as a child process in a group of its own (some fork); yields its pid once it listens.

    by   what ends it
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )

    def died() -> str | None:
        return None if process.poll() is None else f"status {process.returncode}: {tail(log)}"

    try:
        wait_until(lambda: accepts(port, host), command[0], died)
        yield process.pid
    except BaseException as problem:
        problem.add_note(f"{command[0]} said: {tail(log)}")
        raise
    finally:
        end(process, by)


def end(process: subprocess.Popen[bytes], by: signal.Signals) -> None:
    """Asked first, made to after STOP_SECONDS; then whatever of its group is left."""
    if process.poll() is None:
        process.send_signal(by)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
