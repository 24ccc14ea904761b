"""A real OpenSMTPD of the test's own. It offers no PIPELINING: one command at a time.

Debian allows one mail server on a machine, so scripts/install-servers unpacks it into a folder, from where it is run.
Its paths are compiled in: it sees empty folders of its own there (a mount namespace), and so needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .common import HOST, SERVERS, MaildirServer, free_port, missing, require, stop, wait_for_greeting

ROOT = SERVERS / "opensmtpd"
CONFIG = """
smtp max-message-size 200000
listen on {host} port {port} hostname mx.example.test
action "in" maildir "{folder}/mail" virtual {{ "@" => nobody }}
match from any mail-from regex "^refused" for any reject
match from any for domain "example.test" rcpt-to regex "^unknown" reject
match from any for domain "example.test" action "in"
"""
RUN = """
set -e
for place in /var/spool /var/lib /usr/libexec /run; do mount -t tmpfs none $place; done
mkdir -p /var/spool/smtpd /var/lib/opensmtpd/empty /usr/libexec
chmod 711 /var/spool/smtpd
cp -R "$1/usr/libexec/opensmtpd" /usr/libexec/
exec "$1/usr/sbin/smtpd" -d -f "$2"
"""


@dataclass(frozen=True)
class OpenSmtpd(MaildirServer):
    """A running OpenSMTPD. Mail for *@example.test arrives in `folder`/mail."""


@contextmanager
def opensmtpd() -> Iterator[OpenSmtpd]:
    """Run an OpenSMTPD that delivers all mail for example.test into one Maildir.

    It refuses the senders refused…@ and the recipients unknown…@, both at RCPT.
    """
    if not (ROOT / "usr/sbin/smtpd").exists():
        missing(f"OpenSMTPD is not in {SERVERS}")
    unshare = require("unshare")
    if os.geteuid() != 0 or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        missing("an OpenSMTPD of the test's own needs root, and leave to mount")
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-opensmtpd-"))
    try:
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", "nobody", "nogroup")
        port = free_port()
        config = folder / "smtpd.conf"
        config.write_text(CONFIG.format(host=HOST, port=port, folder=folder))
        log = folder / "opensmtpd.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [unshare, "-m", "sh", "-c", RUN, "sh", str(ROOT), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            wait_for_greeting(process, port, log)
            yield OpenSmtpd(port, folder=folder, pid=process.pid)
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
