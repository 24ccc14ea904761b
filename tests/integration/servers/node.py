"""npm's smtp-server, the server of Nodemailer's authors: SMTP or LMTP, in a node of its own (smtp_server.mjs)."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .aiosmtpd_server import PASSWORD, USER
from .certificates import Certificates
from .common import SERVERS, Server, missing, require, stop, wait_for_greeting, wait_until

SCRIPT = Path(__file__).with_name("smtp_server.mjs")
MODULES = SERVERS / "smtp-server/node_modules"
TOKEN = "s3cret-token"
METHODS = "PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"


@dataclass(frozen=True)
class Mail:
    """One message as the server took it. `content`: CRLF, dots undone."""

    sender: str
    sender_args: Any
    recipients: list[str]
    content: bytes
    tls: bool
    user: str | None


@dataclass(frozen=True)
class SmtpServer(Server):
    """A running smtp-server."""

    folder: Path = Path()
    lmtp: bool = False
    pid: int = 0

    @property
    def url(self) -> str:
        return f"lmtp://{self.host}:{self.port}" if self.lmtp else super().url

    @property
    def mails(self) -> list[Mail]:
        found = (json.loads(file.read_bytes()) for file in sorted(self.folder.glob("*.json")))
        return [Mail(**mail | {"content": base64.b64decode(mail["content"])}) for mail in found]

    def contents(self) -> list[bytes]:
        return [mail.content for mail in self.mails]


def _port(process: subprocess.Popen[bytes], output: Path, log: Path) -> int:
    """The port that the script says it has taken."""

    def died() -> str | None:
        return None if process.poll() is None else log.read_text(errors="replace")[-2000:]

    wait_until(lambda: output.read_bytes().endswith(b"\n"), "smtp-server", died)
    return int(output.read_text())


@contextmanager
def smtp_server(
    folder: Path,
    *,
    tls: str | None = None,
    certificates: Certificates | None = None,
    lmtp: bool = False,
    login: bool = False,
    **options: Any,
) -> Iterator[SmtpServer]:
    """Run smtp-server.

    It refuses the senders refused…@, recipients unknown…@ (for good) and later…@ (for now), and after the data what has
    "refuse" in its subject; as LMTP also the recipients full…@.
    folder    an empty or new one, for the messages
    tls       None, "starttls" or "implicit" (then with `certificates`)
    login     take nothing without a login as USER with PASSWORD or TOKEN (METHODS are offered always)
    options   passed to its SMTPServer, such as size=100_000
    """
    node = require("node")
    if not (MODULES / "smtp-server").is_dir():
        missing(f"npm's smtp-server is not in {MODULES}")
    folder.mkdir(parents=True, exist_ok=True)
    # Ours, for the options; smtp-server's own defaults hide some of what it can do.
    told = {
        "lmtp": lmtp,
        "secure": tls == "implicit",
        "hideSTARTTLS": tls is None,
        "allowInsecureAuth": True,
        "authOptional": not login,
        "authMethods": METHODS,
        "hideENHANCEDSTATUSCODES": False,
        "hideDSN": False,
        "disableReverseLookup": True,
        "logger": False,
        "maxAllowedUnauthenticatedCommands": False,
    }
    setup = {
        "modules": f"{MODULES}/",
        "options": told | options,
        "user": USER,
        "password": PASSWORD,
        "token": TOKEN,
        "store": str(folder),
        "key_file": str(certificates.chain_file) if tls and certificates else None,
    }
    output, log = folder / "port", folder / "log"
    with output.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(
            [node, str(SCRIPT), json.dumps(setup)], stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
    try:
        port = _port(process, output, log)
        wait_for_greeting(process, port, log, implicit_tls=tls == "implicit")
        yield SmtpServer(port, tls, folder=folder, lmtp=lmtp, pid=process.pid)
    finally:
        stop(process)
