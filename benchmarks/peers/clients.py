"""The clients that are compared: how each is called, and about how fast it is (to choose how much it is given)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bulkmail_send
from children import on_core
from messages import MANIFEST, SENDER
from servers import HAPROXY, MICROSOCKS, find

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / ".bench"  # what scripts/bench-setup made


@dataclass(frozen=True)
class Load:
    """One run: `messages` personal copies of about `size` bytes over `connections` to port `port` of `host`."""

    host: str
    port: int
    connections: int
    messages: int
    size: int
    message: Path  # the ready-made message of exactly `size` bytes
    folder: Path  # empty, for whatever the client needs
    ca_file: Path | None = None  # of a server that offers STARTTLS
    front: int = 0  # port of what the client goes through, where it goes through something
    rate: int = 0  # messages a second; 0: as fast as it goes

    def flags(self) -> list[str]:
        return [
            *("--host", self.host, "--port", str(self.port), "--connections", str(self.connections)),
            *("--messages", str(self.messages), "--message", str(self.message)),
        ]


READY, COMPOSED, OWN = "ready", "composed", "own"


@dataclass(frozen=True)
class Client:
    """command    the load's command line; what it prepares is outside the measured time
    guess      messages/s on loopback at 2 KB and 20 KB
    round_trips   per message, to guess its pace over a long line
    sends      READY, the message it is given; COMPOSED, one of its own for each recipient; OWN: only recipients count
    window     messages on their way at a time over a long line where the server offers CHUNKING; 0: it cannot
    special    it takes part only in scenarios that name it
    front      what it goes through: one of `servers`
    secure     over TLS
    fast       where a scenario says how long a whole job is, it gets that"""

    name: str
    command: Callable[[Load], list[str]]
    guess: tuple[int, int]
    round_trips: int = 1
    sends: str = READY
    window: int = 0
    special: bool = False
    front: str = ""
    secure: bool = False
    fast: bool = False


def smtp_source(load: Load) -> list[str]:
    """Postfix's generator; -F sends a file whose lines end in LF, -N makes the recipients distinct."""
    plain = load.folder / "message.lf"
    plain.write_bytes(load.message.read_bytes().replace(b"\r\n", b"\n"))
    return [
        *(find("smtp-source") or "smtp-source", "-4", "-d", "-N", "-s", str(load.connections)),
        *("-m", str(load.messages), "-F", str(plain), "-M", "peer.example.test", "-f", SENDER),
        *("-t", "user@example.test", f"inet:{load.host}:{load.port}"),
    ]


def nodemailer(*options: str) -> Callable[[Load], list[str]]:
    modules = f"NODE_PATH={TOOLS / 'node' / 'node_modules'}"
    return lambda load: ["env", modules, "node", str(HERE / "nodemailer_send.js"), *load.flags(), *options]


def bulkmail(load: Load, *, tls: bool = False, port: int = 0, options: str = "") -> list[str]:
    return bulkmail_send.command(
        load.folder,
        host=load.host,
        port=port or load.port,
        connections=load.connections,
        messages=load.messages,
        size=load.size,
        ca_file=load.ca_file if tls else None,
        options=options + (f"&rate={load.rate}/s" if load.rate else ""),
    )


def bulkmail_by_socks(load: Load) -> list[str]:
    return bulkmail(load, options=f"&proxy=socks5h://{load.host}:{load.front}")


def bulkmail_by_haproxy(load: Load) -> list[str]:
    return bulkmail(load, port=load.front, options="&proxy_protocol=v2")


def bulkmail_shared(load: Load) -> list[str]:
    """One message for all, in transactions of BATCH recipients."""
    command = bulkmail(load)
    bulkmail_send.share(load.folder / MANIFEST, load.size)
    return command


def bulkmail_signed(load: Load, *, workers: int) -> list[str]:
    """Personalised, signed by RSA-2048, over TLS: a core has enough to do with it. One worker has one core, for its
    signatures too, which it would else have made on all of them."""
    command = bulkmail(load, tls=True)
    bulkmail_send.sign(load.folder / MANIFEST)
    command += ["--workers", str(workers)]
    return on_core(-1, command) if workers == 1 else command


def bench(load: Load) -> list[str]:
    url = f"smtp://{load.host}:{load.port}?tls=never"
    flags = ["--connections", str(load.connections), "--messages", str(load.messages), "--message", str(load.message)]
    return [sys.executable, "-m", "bulkmail", "bench", url, *flags, "--from", SENDER, "--json", "--no-progress"]


def floor(load: Load, *options: str, tls: bool = False) -> list[str]:
    trust = ["--ca-file", str(load.ca_file)] if tls else []
    return [str(TOOLS / ("floor-tls" if tls else "floor")), *load.flags(), *options, *trust]


def library(load: Load, *options: str, tls: bool = False) -> list[str]:
    trust = ["--ca-file", str(load.ca_file)] if tls and load.ca_file else []
    return [sys.executable, str(HERE / "bulkmail_library.py"), *load.flags(), *options, *trust]


def aiosmtplib(load: Load, *options: str) -> list[str]:
    return [sys.executable, str(HERE / "aiosmtplib_send.py"), *load.flags(), *options]


TASKS = 100
NAP_US = 50
WINDOW = 32  # a guess to begin with, of what ours has under way on a long line on average
FLOOR, FLOOR_NAPPING, FLOOR_TLS = "C floor", "C floor, napping", "C floor, TLS"
FLOOR_SHARED = f"{FLOOR}, shared message"
OURS, LIBRARY, BENCH = "bulkmail send", "bulkmail library", "bulkmail bench"
SMTP_SOURCE, AIOSMTPLIB = "smtp-source", "aiosmtplib on uvloop"
NODEMAILER, NODEMAILER_LOW = "Nodemailer pool", "Nodemailer SMTPConnection"
OURS_TLS, LIBRARY_TLS = f"{OURS}, TLS", f"{LIBRARY}, TLS"
OURS_SOCKS, OURS_HAPROXY = f"{OURS}, {MICROSOCKS}", f"{OURS}, {HAPROXY}"
SHARED, LIBRARY_SHARED = f"{OURS}, shared message", f"{LIBRARY}, shared message"
ONE_WORKER, TWO_WORKERS = f"{OURS}, signed, TLS, 1 worker on a core", f"{OURS}, signed, TLS, 2 workers"
SINGLES, AIO_SINGLES = f"{LIBRARY}, {TASKS} tasks", f"{AIOSMTPLIB}, {TASKS} tasks"
CLIENTS = [
    Client(FLOOR, floor, (30000, 14000), fast=True),
    Client(FLOOR_NAPPING, lambda load: floor(load, "--nap-us", str(NAP_US)), (40000, 14000), fast=True),
    Client(
        FLOOR_SHARED,
        lambda load: floor(load, "--recipients", str(bulkmail_send.BATCH)),
        (600000, 600000),
        sends=OWN,
        special=True,
        fast=True,
    ),
    Client(FLOOR_TLS, partial(floor, tls=True), (12000, 6000), special=True, secure=True, fast=True),
    Client(OURS, bulkmail, (25000, 12000), sends=COMPOSED, window=WINDOW, fast=True),
    Client(OURS_TLS, partial(bulkmail, tls=True), (20000, 9000), sends=COMPOSED, special=True, secure=True, fast=True),
    Client(OURS_SOCKS, bulkmail_by_socks, (20000, 9000), sends=COMPOSED, special=True, front=MICROSOCKS),
    Client(OURS_HAPROXY, bulkmail_by_haproxy, (20000, 9000), sends=COMPOSED, special=True, front=HAPROXY),
    Client(LIBRARY, library, (20000, 10000), window=WINDOW, fast=True),
    Client(LIBRARY_TLS, partial(library, tls=True), (16000, 8000), special=True, secure=True, fast=True),
    Client(BENCH, bench, (30000, 14000), sends=OWN, fast=True),
    Client(SINGLES, lambda load: library(load, "--tasks", str(TASKS)), (16000, 8000), special=True),
    Client(SHARED, bulkmail_shared, (300000, 300000), sends=OWN, special=True, fast=True),
    Client(
        LIBRARY_SHARED,
        lambda load: library(load, "--recipients", str(bulkmail_send.BATCH)),
        (300000, 300000),
        sends=OWN,
        special=True,
        fast=True,
    ),
    *(
        Client(
            name,
            partial(bulkmail_signed, workers=number),
            (2000, 2000),
            sends=OWN,
            special=True,
            secure=True,
            fast=True,
        )
        for number, name in enumerate((ONE_WORKER, TWO_WORKERS), 1)
    ),
    Client(SMTP_SOURCE, smtp_source, (15000, 6500), 4, fast=True),
    Client(AIOSMTPLIB, aiosmtplib, (5000, 2000), 4),
    Client(AIO_SINGLES, lambda load: aiosmtplib(load, "--tasks", str(TASKS)), (3800, 1600), 4, special=True),
    Client(NODEMAILER, nodemailer(), (2000, 1500), 2),
    Client(NODEMAILER_LOW, nodemailer("--low-level"), (8000, 4000), 2),
]


def unavailable(client: Client) -> str | None:
    """Why a client cannot run here; None when it can."""
    if client.name.startswith(FLOOR):
        program = TOOLS / ("floor-tls" if client.name == FLOOR_TLS else "floor")
        return None if program.exists() else f"{program.name} is not compiled: scripts/bench-setup"
    if client.front and find(client.front.lower()) is None:
        return f"{client.front} is not installed"
    if client.name == SMTP_SOURCE and not find("smtp-source"):
        return "Postfix is not installed"
    if client.name.startswith("Nodemailer") and not (TOOLS / "node" / "node_modules" / "nodemailer").exists():
        return "nodemailer is not installed"
    if client.name.startswith("aiosmtplib") and not _importable("aiosmtplib", "uvloop"):
        return "aiosmtplib or uvloop is not installed"
    if client.name.startswith("bulkmail") and not _importable("bulkmail.cli"):
        return "bulkmail is not installed"
    if client.name in (ONE_WORKER, TWO_WORKERS) and not has_workers():
        return "bulkmail send has no --workers"
    return None


def has_workers() -> bool:
    command = [sys.executable, "-m", "bulkmail", "send", "--help"]
    return "--workers" in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def _importable(*modules: str) -> bool:
    import importlib.util

    try:
        return all(importlib.util.find_spec(module) for module in modules)
    except ModuleNotFoundError:
        return False
