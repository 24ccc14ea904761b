"""Haraka, a mail server in node; its plugin haraka_inbox.js, of the tests', does logins, refusals and deliveries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .aiosmtpd_server import PASSWORD, USER
from .certificates import Certificates
from .common import HOST, SERVERS, Server, free_port, missing, read_log, require, stop, wait_for_greeting, wait_until

PLUGIN = Path(__file__).with_name("haraka_inbox.js")
PROGRAM = SERVERS / "Haraka/node_modules/Haraka/bin/haraka"
LEAST_NODE = 20  # what Haraka 3 runs on

# A file of ours stands in the place of the whole of Haraka's own.
CONNECTION = """
[main]
smtputf8=true
[haproxy]
hosts[] =
[headers]
max_lines=1000
max_received=100
[max]
bytes={size}
mime_parts=1000
line_length=512
data_line_length=4096
[message]
helo=hello
close=bye
[uuid]
banner_chars=0
deny_chars=0
"""

# ffdhe2048 of RFC 7919. Without it Haraka has openssl look for a group of its own, for minutes and after its end.
DH_PARAMETERS = """
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


@dataclass(frozen=True)
class Haraka(Server):
    """A running Haraka. Mail for *@example.test arrives in `folder`/mail before it is answered."""

    folder: Path = Path()
    pid: int = 0

    def contents(self) -> list[bytes]:
        """The delivered messages as files: LF line ends, Return-Path, Delivered-To and Received on top."""
        files = sorted((self.folder / "mail/new").glob("*"))
        return [file.read_bytes().replace(b"\r\n", b"\n") for file in files]

    def wait_for(self, count: int) -> list[bytes]:
        """The delivered messages, once there are `count` of them."""
        wait_until(lambda: len(self.contents()) >= count, f"{count} messages in the inbox")
        return self.contents()

    def log(self) -> str:
        return read_log(self.folder / "haraka.log")


def _require_node() -> str:
    node = require("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    if int(version.lstrip("v").partition(".")[0]) < LEAST_NODE:
        pytest.skip(f"Haraka needs node {LEAST_NODE} or later, this is {version.strip()}")
    if not PROGRAM.exists():
        missing(f"Haraka is not in {SERVERS}")
    return node


def _lay_out(
    folder: Path, port: int, tls: str | None, certificates: Certificates | None, login: bool, size: int
) -> None:
    config, plugins = folder / "config", folder / "plugins"
    for made in (config, plugins, *(folder / "mail" / part for part in ("tmp", "new", "cur"))):
        made.mkdir(parents=True)
    shutil.copyfile(PLUGIN, plugins / "inbox.js")
    smtps = f"smtps_port={port}\n" if tls == "implicit" else ""
    (config / "smtp.ini").write_text(f"listen={HOST}:{port}\nnodes=0\n{smtps}")
    (config / "connection.ini").write_text(CONNECTION.format(size=size))
    (config / "dhparams.pem").write_text(DH_PARAMETERS.lstrip())
    (config / "me").write_text("mx.example.test\n")
    (config / "plugins").write_text("tls\ninbox\n" if tls else "inbox\n")
    options = {"mail": str(folder / "mail"), "user": USER, "password": PASSWORD, "login": login, "tls": tls is not None}
    (config / "inbox.json").write_text(json.dumps(options))
    if tls:
        assert certificates is not None, "TLS needs certificates"
        (config / "tls.ini").write_text("key=server.pem\ncert=server.pem\n")
        shutil.copyfile(certificates.chain_file, config / "server.pem")


@contextmanager
def haraka(
    folder: Path,
    *,
    tls: str | None = None,
    certificates: Certificates | None = None,
    login: bool = False,
    size: int = 50 << 20,
) -> Iterator[Haraka]:
    """Run a Haraka that delivers all mail for example.test into one Maildir.

    It refuses the sender refused@…, recipients unknown…@ (for good) and later…@ (for now), and after the data what has
    "refuse" in its subject.
    folder  an empty or new one
    tls     None, "starttls" or "implicit" (then with `certificates`)
    login   take nothing without a login as USER with PASSWORD, by PLAIN, LOGIN or CRAM-MD5; after TLS only, if any
    size    the largest message, in bytes
    """
    node = _require_node()
    port, log = free_port(), folder / "haraka.log"
    _lay_out(folder, port, tls, certificates, login, size)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [node, str(PROGRAM), "-c", str(folder)],
            env=os.environ | {"NODE_PATH": str(PROGRAM.parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        wait_for_greeting(process, port, log, implicit_tls=tls == "implicit")
        yield Haraka(port, tls, folder=folder, pid=process.pid)
    finally:
        stop(process)
