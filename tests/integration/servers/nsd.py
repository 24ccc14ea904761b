"""NSD, an authoritative DNS server: it serves a whole little DNS, from its root on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from .common import HOST, free_port, require, stop, wait_until

CONFIG = """
server:
  ip-address: {host}@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  logfile: "{folder}/nsd.log"
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
"""
ROOT = ". 60 IN SOA ns.root. admin.root. 1 60 60 60 60\n. 60 IN NS ns.root.\nns.root. 60 IN A 127.0.0.1\n"


@contextmanager
def nsd(folder: Path, records: str) -> Iterator[str]:
    """records: lines of a zone file, whole names. Yields where it answers, "127.0.0.1:PORT"."""
    program = require("nsd")
    folder.mkdir()
    port = free_port()
    (folder / "root.zone").write_text(ROOT + records)
    (folder / "nsd.conf").write_text(CONFIG.format(host=HOST, port=port, folder=folder))
    process = subprocess.Popen([program, "-d", "-c", str(folder / "nsd.conf")], stderr=subprocess.DEVNULL)
    log = folder / "nsd.log"

    def died() -> str | None:
        return None if process.poll() is None else log.read_text() if log.exists() else "no log"

    try:
        wait_until(lambda: _answers(port), "nsd", died)
        yield f"{HOST}:{port}"
    finally:
        stop(process)


def _answers(port: int) -> bool:
    try:
        return bool(dns.query.tcp(dns.message.make_query(".", "NS"), HOST, timeout=2, port=port).answer)
    except (OSError, EOFError, dns.exception.DNSException):
        return False
