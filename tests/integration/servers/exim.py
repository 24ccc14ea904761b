"""A real Exim of the test's own: its own configuration, spool and mail in a temporary folder, on a high port.

Debian allows one mail server on a machine, so scripts/install-servers unpacks it into a folder, from where it is run.
It needs root to read a configuration that is not the system's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .aiosmtpd_server import PASSWORD, USER
from .certificates import Certificates
from .common import HOST, SERVERS, MaildirServer, free_port, missing, stop, wait_for_greeting

SIZE_LIMIT = 200_000
PROGRAM = SERVERS / "exim4-daemon-light/usr/sbin/exim4"

CONFIG = r"""
exim_path = {program}
primary_hostname = mx.example.test
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
daemon_smtp_ports = {port}
local_interfaces = {host}
tls_advertise_hosts = {tls_hosts}
{tls}
# Debian's gives up root for a configuration that is not the system's, and so cannot become anybody else to deliver.
deliver_drop_privilege = true
log_selector = +subject +received_recipients
message_size_limit = {size}
accept_8bitmime = true
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
dsn_advertise_hosts = *
pipelining_advertise_hosts = *
# A test sends faster than anybody may on the open net, and its network has no DNS.
smtp_accept_max = 0
smtp_accept_max_per_connection = 10000
smtp_accept_queue_per_connection = 0
smtp_max_unknown_commands = 100
host_lookup =
rfc1413_hosts =
helo_allow_chars = _
acl_smtp_mail = acl_mail
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data

begin acl
acl_mail:
  deny     senders = ^refused
           message = 5.7.1 no mail from this sender
  deny     condition = {login_needed}
           !authenticated = *
           message = 5.7.0 log in first
  accept
acl_rcpt:
  deny     local_parts = ^unknown
           message = 5.1.1 no such user
  defer    local_parts = ^later
           message = 4.2.1 come again
  deny     !domains = example.test
           message = 5.7.1 no relaying
  accept
acl_data:
  deny     condition = ${{if match{{$h_subject:}}{{refuse}}}}
           message = 5.6.0 content refused
  accept

begin routers
{router}

begin transports
onward:
  driver = smtp
  allow_localhost
{onward}
file:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{user}^{password}
  server_condition = ${{if and {{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
  server_prompts = :
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and {{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{password}}}fail}}
  server_set_id = $auth1
"""

DELIVER = """all:
  driver = accept
  domains = example.test
  transport = file"""
PASS_ON = """all:
  driver = manualroute
  domains = example.test
  transport = onward
  route_list = * localhost byname
  self = send"""


@dataclass(frozen=True)
class Exim(MaildirServer):
    """A running Exim. Mail for *@example.test arrives in `folder`/mail."""

    def settled(self) -> bool:
        """Whether nothing is on its way any more; what was taken is delivered then."""
        return not any((self.folder / "spool/input").glob("*"))

    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in (self.folder / "log").glob("*"))


def _lay_out(
    folder: Path, port: int, tls: str | None, certificates: Certificates | None, login: bool, onward: str | None
) -> Path:
    folder.chmod(0o755)
    for name in ("spool", "log", "mail"):
        (folder / name).mkdir()
        shutil.chown(folder / name, "Debian-exim", "Debian-exim")
    if certificates is not None:
        shutil.copy(certificates.ca_file, folder / "ca.pem")
    lines = ""
    if tls:
        assert certificates is not None, "TLS needs certificates"
        # Exim reads the key as its own user.
        shutil.copy(certificates.chain_file, folder / "server.pem")
        shutil.chown(folder / "server.pem", "Debian-exim")
        lines = f"tls_certificate = {folder}/server.pem\n" + (f"tls_on_connect_ports = {port}\n" * (tls == "implicit"))
    config = folder / "exim.conf"
    config.write_text(
        CONFIG.format(
            program=PROGRAM,
            folder=folder,
            port=port,
            host=HOST,
            tls_hosts="*" if tls else "",
            tls=lines,
            size=SIZE_LIMIT if onward is None else 0,
            router=DELIVER if onward is None else PASS_ON,
            onward=(onward or "").format(folder=folder),
            login_needed="true" if login else "false",
            user=USER,
            password=PASSWORD,
        )
    )
    return config


@contextmanager
def exim(
    *,
    tls: str | None = None,
    certificates: Certificates | None = None,
    login: bool = False,
    onward: str | None = None,
) -> Iterator[Exim]:
    """Run an Exim that delivers all mail for example.test into one Maildir.

    It refuses the senders refused…@, recipients unknown…@ (for good) and later…@ (for now), and after the data what has
    "refuse" in its subject.
    tls     None, "starttls" or "implicit" (then with `certificates`)
    login   take nothing without a login as USER with PASSWORD (which is offered always)
    onward  deliver to a server on localhost instead, by an smtp transport with these lines; messages of any size then.
            "{folder}/ca.pem" in them is whom to trust
    """
    if not PROGRAM.exists():
        missing(f"Exim is not in {SERVERS}")
    if os.geteuid() != 0:
        missing("an Exim of the test's own needs root")
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-exim-"))
    try:
        port = free_port()
        config = _lay_out(folder, port, tls, certificates, login, onward)
        output = folder / "exim.out"
        with output.open("wb") as out:
            process = subprocess.Popen(
                [str(PROGRAM), "-C", str(config), "-bdf"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            wait_for_greeting(process, port, output, implicit_tls=tls == "implicit")
            yield Exim(port, tls, folder=folder, pid=process.pid)
        finally:
            stop(process)
            # A session that a client left open, or a delivery, outlives it and writes on; they are all of its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
