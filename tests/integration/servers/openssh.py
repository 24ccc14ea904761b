"""`ssh -D`: SOCKS 4, 4a and 5 out of an sshd of the test's own, which lets in the current user by a throw-away key.

Where the target cannot be reached ssh says nothing: it closes the connection.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import HOST, free_port, require
from .proxy import Proxy, running, wrapped

SSHD = """
ListenAddress {host}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
"""
SSH_OPTIONS = {
    "BatchMode": "yes",
    "ExitOnForwardFailure": "yes",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "StrictHostKeyChecking": "yes",
}


def _make_key(folder: Path, name: str) -> str:
    """A new key pair without a passphrase; the public half's text."""
    command = [require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "bulkmail-test", "-f", str(folder / name)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=20)
    return (folder / f"{name}.pub").read_text()


@contextmanager
def sshd(folder: Path) -> Iterator[int]:
    """Yields its port; lets in whoever has `folder`/user_key, whose known_hosts file is written beside it."""
    program = require("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # compiled in; Debian's service makes it, too
    port, config = free_port(), folder / "sshd_config"
    host_key = _make_key(folder, "host_key")
    _make_key(folder, "user_key")
    (folder / "known_hosts").write_text(f"[{HOST}]:{port} {host_key}")
    config.write_text(SSHD.format(host=HOST, port=port, folder=folder))
    command = [program, "-D", "-e", "-f", str(config)]
    with running(command, port, folder / "sshd.log", environment=wrapped(folder)):
        yield port


@contextmanager
def ssh_proxy(folder: Path, *, host: str = HOST) -> Iterator[Proxy]:
    """folder: an empty or new one."""
    program = require("ssh")
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "ssh.log"
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = SSH_OPTIONS | {"UserKnownHostsFile": f"{folder}/known_hosts"}
    with sshd(folder) as server:
        command = [program, "-F", "none", "-N", "-D", place, "-i", f"{folder}/user_key", "-p", str(server)]
        command += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        command += ["-l", pwd.getpwuid(os.geteuid()).pw_name, HOST]
        with running(command, port, log, host=host) as pid:
            yield Proxy(port, log, pid, host)
