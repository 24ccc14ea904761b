"""A real Postfix of the test's own: its own configuration, queue and mail in a temporary folder, on a high port.

It needs root, as Postfix does (the queue belongs to the user postfix, deliveries to nobody). The system's own
configuration in /etc/postfix is neither read nor written.
"""

from __future__ import annotations

import mailbox
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .certificates import Certificates
from .common import HOST, Server, free_port, missing, read_log, require, stop, wait_for_greeting, wait_until

DOMAIN = "example.test"

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": f"mx.{DOMAIN}",
    "mydestination": "",
    "inet_interfaces": HOST,
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "smtpd_recipient_restrictions": "permit_mynetworks, reject",
    "disable_dns_lookups": "yes",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "smtputf8_enable": "yes",
    # Everything for DOMAIN goes into one Maildir, whoever it is for; Delivered-To tells them apart.
    "virtual_mailbox_domains": DOMAIN,
    "virtual_mailbox_maps": "static:inbox/",
    "virtual_minimum_uid": "1",
    "virtual_mailbox_limit": "0",
    # A test sends faster than anybody may on the open net.
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "smtpd_client_recipient_rate_limit": "0",
    "in_flow_delay": "0",
    "message_size_limit": "52428800",
}

# Settings that keep what is taken in the queue, where `queued` reads its envelope.
HOLD = {"smtpd_end_of_data_restrictions": "check_client_access static:HOLD"}

# name, type, private, unprivileged, chroot, wake-up, process limit, program
SERVICES = """
pickup     unix  n  -  n  60    1  pickup
cleanup    unix  n  -  n  -     0  cleanup
qmgr       unix  n  -  n  300   1  qmgr
tlsmgr     unix  -  -  n  1000? 1  tlsmgr
rewrite    unix  -  -  n  -     -  trivial-rewrite
bounce     unix  -  -  n  -     0  bounce
defer      unix  -  -  n  -     0  bounce
trace      unix  -  -  n  -     0  bounce
verify     unix  -  -  n  -     1  verify
flush      unix  n  -  n  1000? 0  flush
proxymap   unix  -  -  n  -     -  proxymap
showq      unix  n  -  n  -     -  showq
error      unix  -  -  n  -     -  error
retry      unix  -  -  n  -     -  error
discard    unix  -  -  n  -     -  discard
virtual    unix  -  n  n  -     -  virtual
smtp       unix  -  -  n  -     -  smtp
lmtp       unix  -  -  n  -     -  lmtp
anvil      unix  -  -  n  -     1  anvil
postlog    unix-dgram n - n  -  1  postlogd
"""

# path under the folder, owner, group (None: the same as the owner's), mode: Postfix's own table, postfix-files
QUEUE = [("queue", "root", None, 0o755), ("queue/pid", "root", None, 0o755), ("data", "postfix", None, 0o700)]
PRIVATE = ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"]
QUEUE += [(f"queue/{name}", "postfix", None, 0o700) for name in PRIVATE]
QUEUE += [("queue/maildrop", "postfix", "postdrop", 0o730), ("queue/public", "postfix", "postdrop", 0o710)]


@dataclass(frozen=True)
class Postfix(Server):
    """A running Postfix. Mail for *@example.test arrives in `inbox`; for any other domain it is refused or bounced."""

    folder: Path = Path()
    pid: int = 0
    header_port: int = 0  # where every connection begins with a PROXY header, if that was asked for

    @property
    def inbox(self) -> mailbox.Maildir:
        """What has been delivered so far."""
        return mailbox.Maildir(self.folder / "mail" / "inbox", create=False)

    def contents(self) -> list[bytes]:
        """The delivered messages as files: LF line ends, Return-Path, Delivered-To and Received on top."""
        return [file.read_bytes() for file in sorted((self.folder / "mail" / "inbox" / "new").glob("*"))]

    def wait_for(self, count: int) -> list[bytes]:
        """The delivered messages, once there are `count` of them."""
        new = self.folder / "mail" / "inbox" / "new"
        wait_until(lambda: new.is_dir() and len(os.listdir(new)) >= count, f"{count} messages in the inbox")
        return self.contents()

    def settled(self) -> bool:
        """Whether nothing is on its way any more; what was taken is delivered then."""
        # In the order in which a message passes through, so that none is overlooked.
        queues = (self.folder / "queue" / name for name in ("maildrop", "incoming", "active", "deferred"))
        return not any(file.is_file() for queue in queues for file in queue.rglob("*"))

    def queued(self) -> list[str]:
        """The records (postcat(1)) of the envelope of each message on hold: addresses and what DSN asks for."""
        command = [require("postcat"), "-c", str(self.folder / "etc"), "-e"]
        return [
            subprocess.run([*command, str(file)], capture_output=True, text=True, check=True, timeout=20).stdout
            for file in sorted((self.folder / "queue/hold").iterdir())
        ]

    def log(self) -> str:
        return read_log(self.folder / "postfix.log")


def _settings(folder: Path, tls: str | None, certificates: Certificates | None, sasl: Path | None) -> dict[str, str]:
    nobody = pwd.getpwnam("nobody")
    settings = MAIN | {
        "queue_directory": str(folder / "queue"),
        "data_directory": str(folder / "data"),
        "maillog_file": str(folder / "postfix.log"),
        "maillog_file_prefixes": str(folder),
        "virtual_mailbox_base": str(folder / "mail"),
        "virtual_uid_maps": f"static:{nobody.pw_uid}",
        "virtual_gid_maps": f"static:{nobody.pw_gid}",
    }
    if tls:
        assert certificates is not None, "TLS needs certificates"
        settings |= {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_wrappermode": "yes" if tls == "implicit" else "no",
            "smtpd_tls_chain_files": str(certificates.chain_file),
        }
    if sasl:
        settings |= {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(sasl),
            # Without TLS too, where the mechanism shows the password.
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
        }
    return settings


def _lay_out(folder: Path, settings: Mapping[str, str], port: int, header_port: int) -> Path:
    """Make the folders with Postfix's owners and modes and write its two files; returns the configuration's folder."""
    folder.chmod(0o755)
    for path, owner, group, mode in QUEUE:
        (folder / path).mkdir()
        (folder / path).chmod(mode)
        shutil.chown(folder / path, owner, group or pwd.getpwnam(owner).pw_gid)
    (folder / "mail").mkdir()
    shutil.chown(folder / "mail", "nobody")
    config = folder / "etc"
    config.mkdir()
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    listeners = f"{HOST}:{port} inet n - n - - smtpd\n"
    if header_port:
        listeners += f"{HOST}:{header_port} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy\n"
    (config / "master.cf").write_text(listeners + SERVICES.lstrip())
    for file in config.iterdir():
        # Postfix waits some seconds before it trusts a file that has just been written.
        os.utime(file, (0, 0))
    return config


def _master_program() -> str:
    postconf = require("postconf")
    if os.geteuid() != 0:
        missing("a Postfix of the test's own needs root")
    daemons = subprocess.run(
        [postconf, "-dh", "daemon_directory"], capture_output=True, text=True, check=True, timeout=20
    )
    return f"{daemons.stdout.strip()}/master"


@contextmanager
def postfix(
    *,
    tls: str | None = None,
    certificates: Certificates | None = None,
    sasl: Path | None = None,
    settings: Mapping[str, str] | None = None,
    proxy_header: bool = False,
) -> Iterator[Postfix]:
    """Run a Postfix that delivers all mail for example.test into one Maildir.

    tls           None, "starttls" or "implicit" (then with `certificates`)
    sasl          Dovecot's socket for logins: then nobody sends without one
    settings      further lines of main.cf, which win over ours
    proxy_header  listen on `header_port` too, for connections that begin with a PROXY header

    Its folder is not pytest's: that one is closed to the users postfix and nobody.
    """
    master = _master_program()
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-postfix-"))
    try:
        port, header_port = free_port(), free_port() if proxy_header else 0
        config = _lay_out(folder, _settings(folder, tls, certificates, sasl) | dict(settings or {}), port, header_port)
        output = folder / "master.out"
        with output.open("wb") as out:
            # A session of its own: at its end the master signals its whole process group.
            process = subprocess.Popen(
                [master, "-c", str(config), "-d"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            log = folder / "postfix.log"
            wait_for_greeting(process, port, log if log.exists() else output, implicit_tls=tls == "implicit")
            yield Postfix(port, tls, folder=folder, pid=process.pid, header_port=header_port)
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
