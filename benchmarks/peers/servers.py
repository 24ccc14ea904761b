"""The servers that the clients send to: smtp-sink of Postfix, our own, which offers CHUNKING; long lines to them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from children import running
from recorder import HOST, free_port, sink_command, wait_for

PEER, SINK, SINK_TLS = "smtp-sink", "bulkmail sink", "bulkmail sink with STARTTLS"
SINK_TLS_PLAIN = f"{SINK_TLS}, without CHUNKING"
MICROSOCKS, HAPROXY = "microsocks", "HAProxy"
SERVER_PATH = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin"
HERE = Path(__file__).resolve().parent


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=SERVER_PATH)


def until_open(port: int) -> None:
    """Wait until something listens there, which need not say anything."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing listens on port {port} after 10 s") from None
            time.sleep(0.01)


def microsocks(port: int, host: str = HOST) -> list[str]:
    return [find("microsocks") or "microsocks", "-i", host, "-p", str(port)]


# One thread, as the sink has; it takes PROXY headers, and passes bytes on.
HAPROXY_CONFIGURATION = """
global
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
frontend in
    bind {host}:{port} accept-proxy
    default_backend out
backend out
    server sink {host}:{to}
"""


@dataclass(frozen=True)
class RunningServer:
    port: int
    pid: int
    ca_file: Path | None = None


def certificate(folder: Path) -> tuple[Path, Path]:
    """A throw-away certificate for HOST that is its own authority, and its key, as PEM files."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=sink.example.test", "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


class Servers:
    """Started when they are first asked for, and ended with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = ExitStack()
        self.running: dict[str, RunningServer] = {}
        self.lines: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def get(self, name: str) -> RunningServer:
        if name not in self.running:
            self.running[name] = self._peer() if name == PEER else self._ours(name)
        return self.running[name]

    def port(self, name: str, rtt_ms: int) -> int:
        """The server's port, or that of a relay with this round trip to it."""
        port = self.get(name).port
        if not rtt_ms:
            return port
        if (name, rtt_ms) not in self.lines:
            relay = [sys.executable, str(HERE / "delay.py"), "--to", f"{HOST}:{port}", "--rtt-ms", str(rtt_ms)]
            _, ready = self._start(relay, f"delay-{port}-{rtt_ms}")
            self.lines[name, rtt_ms] = int(ready.split()[1])
        return self.lines[name, rtt_ms]

    def front(self, name: str, to: int) -> int:
        """The port of what clients go through on their way to the server at port `to`; 0 where there is nothing."""
        key = (name, to)
        if name and key not in self.lines:
            port = free_port()
            command = microsocks(port)
            if name == HAPROXY:
                configuration = self.folder / f"haproxy-{to}.cfg"
                configuration.write_text(HAPROXY_CONFIGURATION.format(host=HOST, port=port, to=to))
                command = [find("haproxy") or "haproxy", "-db", "-f", str(configuration)]
            self.stack.enter_context(running(command, log=self.folder / f"{name}.log"))
            until_open(port)
            self.lines[key] = port
        return self.lines.get(key, 0)

    def _peer(self) -> RunningServer:
        port = free_port()
        child = self.stack.enter_context(running(sink_command(port), log=self.folder / "smtp-sink.log"))
        wait_for(port)
        return RunningServer(port, child.pid)

    def _ours(self, name: str) -> RunningServer:
        command = [sys.executable, "-m", "bulkmail", "sink", "--listen", f"{HOST}:0", "--discard"]
        cert = None
        if name != SINK:
            own = self.folder / name.replace(" ", "-")
            own.mkdir()
            cert, key = certificate(own)
            command += ["--tls-cert", str(cert), "--tls-key", str(key)]
        if name == SINK_TLS_PLAIN:
            command += ["--without", "CHUNKING"]
        child, ready = self._start(command, name.replace(" ", "-"))
        return RunningServer(int(ready.rpartition(":")[2]), child.pid, cert)

    def _start(self, command: list[str], name: str) -> tuple[subprocess.Popen[bytes], str]:
        """The child, and the line that it says when it is ready."""
        log = self.folder / f"{name}.log"
        child = self.stack.enter_context(running(command, log=log))
        while not (ready := log.read_text()).endswith("\n"):
            if child.poll() is not None:
                raise SystemExit(f"{name} ended: {ready}")
        return child, ready
