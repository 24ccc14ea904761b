"""Squid: CONNECT with rules and logins, in clear (http_port) and under TLS (https_port).

Squid gives up root's rights, so its folder is one that its user can read.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import HOST, free_port, missing, require
from .proxy import HOSTS, PASSWORD, USER, Proxy, running

CONFIG = """
{door}
hosts_file {folder}/hosts
pid_filename none
cache deny all
cache_log /dev/null
access_log none
netdb_filename none
coredump_dir {folder}
visible_hostname squid.example.test
shutdown_lifetime 0 seconds
connect_timeout 5 seconds
pinger_enable off
max_filedescriptors 1024
acl CONNECT method CONNECT
acl forbidden port {forbidden}
{login}
http_access deny forbidden
http_access allow CONNECT
http_access deny all
"""
LOGIN = """
auth_param basic program {helper} {folder}/users
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access deny !known
"""
HELPER = Path("/usr/lib/squid/basic_ncsa_auth")
# openssl passwd -1 -salt bulkmail, of PASSWORD
HASH = "$1$bulkmail$eliJXslJ199MGECEDaROj."


def _config(folder: Path, door: str, login: bool, forbidden: int) -> str:
    if login and not HELPER.exists():
        missing(f"{HELPER} is not installed")
    lines = LOGIN.format(helper=HELPER, folder=folder) if login else ""
    return CONFIG.format(door=door, folder=folder, login=lines, forbidden=forbidden)


@contextmanager
def squid(
    *, login: bool = False, certificate: Path | None = None, forbidden: int = 9, host: str = HOST
) -> Iterator[Proxy]:
    """certificate: key and certificate, then it speaks TLS only. forbidden: a target port that its rules refuse."""
    program = require("squid")
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-squid-"))
    try:
        folder.chmod(0o755)
        port, config, log = free_port(), folder / "squid.conf", folder / "squid.log"
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        door = f"https_port {place} tls-cert={certificate}" if certificate else f"http_port {place}"
        (folder / "hosts").write_text(HOSTS)
        (folder / "users").write_text(f"{USER}:{HASH}\n")
        config.write_text(_config(folder, door, login, forbidden))
        # Asked to end it takes two seconds, and it has nothing to put away.
        with running([program, "-N", "-d", "1", "-f", str(config)], port, log, host=host, by=signal.SIGKILL) as pid:
            yield Proxy(port, log, pid, host, PASSWORD if login else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
