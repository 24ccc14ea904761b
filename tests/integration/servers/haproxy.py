"""A real HAProxy of the test's own, in front of a server or a proxy: it reads PROXY headers, takes TLS off, or both."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .certificates import Certificates
from .common import HOST, Server, free_port, read_log, require, stop, wait_until

CONFIG = """
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    log-format "client %ci:%cp for %fi:%fp state %ts"
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind {listen}{header}{tls}
    default_backend back
backend back
    server mail {host}:{backend_port}{passes_on}
"""


@dataclass(frozen=True)
class HaProxy(Server):
    """A running HAProxy. Its log has a line for each connection that has ended."""

    log_file: Path = Path()
    pid: int = 0

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.tls else 'smtp'}://{host}:{self.port}"

    def log(self) -> str:
        return read_log(self.log_file)


@contextmanager
def haproxy(
    folder: Path,
    backend_port: int,
    *,
    certificates: Certificates,
    tls: bool = False,
    host: str = HOST,
    passes_on: str | None = None,
    accept_proxy: bool = True,
) -> Iterator[HaProxy]:
    """Run a HAProxy that hands its connections on to the backend.

    tls           it ends TLS, which begins behind the header
    host          where it listens: 127.0.0.1 or ::1
    passes_on     "send-proxy" or "send-proxy-v2": the backend gets a header of its own, with the ends received
    accept_proxy  it takes only connections that begin with a PROXY header
    """
    program, port = require("haproxy"), free_port()
    folder.mkdir()
    config, log = folder / "haproxy.cfg", folder / "haproxy.log"
    config.write_text(
        CONFIG.format(
            listen=f"{host}:{port}",
            header=" accept-proxy" if accept_proxy else "",
            tls=f" ssl crt {certificates.chain_file}" if tls else "",
            host=HOST,
            backend_port=backend_port,
            passes_on=f" {passes_on}" if passes_on else "",
        )
    )
    with log.open("wb") as out:
        # -db: in the foreground, one process
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: _listens(host, port), str(process.args), lambda: _ended(process, log))
        yield HaProxy(port, "implicit" if tls else None, host=host, log_file=log, pid=process.pid)
    finally:
        stop(process)


def _listens(host: str, port: int) -> bool:
    """Whether it takes connections. What it would greet with waits for a header."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _ended(process: subprocess.Popen[bytes], log: Path) -> str | None:
    if process.poll() is None:
        return None
    return f"ended with status {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
