"""A real Dovecot of the test's own: LMTP over TCP and over a Unix socket, and the logins of Postfix's SASL.

It needs root, as Dovecot does. The system's own configuration in /etc/dovecot is neither read nor written.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .aiosmtpd_server import PASSWORD, USER
from .certificates import Certificates
from .common import HOST, Server, free_port, missing, read_log, require, stop, wait_for_greeting, wait_until

PASSWORDS = "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"
TOKENS = "XOAUTH2", "OAUTHBEARER"
MECHANISMS = PASSWORDS + TOKENS
TOKEN_KEY = b"what the tokens of this test's Dovecot are signed with"
QUOTA = 4000  # bytes, of those who have one
PEOPLE = ("ann@example.test", "bob@example.test", "cy@example.test")
FULL = "full@example.test"  # has room for a message of less than QUOTA

CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = lmtp
listen = {host}
hostname = dovecot.example.test
postmaster_address = postmaster@example.test
mail_location = maildir:~/Maildir
mail_plugins = quota
first_valid_uid = 1
first_valid_gid = 1
auth_mechanisms = {mechanisms}
disable_plaintext_auth = no
# It would make whoever types a wrong password wait.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = oauth2
  mechanisms = {tokens}
  args = {folder}/oauth2.conf
}}
passdb {{
  driver = passwd-file
  mechanisms = {passwords}
  args = username_format=%u {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
plugin {{
  quota = maildir:User quota
  quota_grace = 0
}}
protocol lmtp {{
  mail_plugins = quota
}}
service auth {{
  unix_listener {folder}/sasl {{
    mode = 0666
  }}
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = {host}
    port = {port}
  }}
}}
"""

# Tokens are JWTs, which need nobody else to be checked; the key lies at AZP/ALGORITHM/ID.
OAUTH2 = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""


@dataclass(frozen=True)
class Dovecot(Server):
    """A running Dovecot.

    Its LMTP knows PEOPLE and FULL and refuses everybody else; FULL is refused after the data if that is too much.
    lmtp   the Unix socket of the same service
    sasl   the Unix socket for `smtpd_sasl_path`; it knows USER with PASSWORD or with token()
    """

    folder: Path = Path()
    pid: int = 0

    @property
    def url(self) -> str:
        return f"lmtp://{self.host}:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"lmtp+unix://{self.lmtp}"

    @property
    def lmtp(self) -> Path:
        return self.folder / "lmtp"

    @property
    def sasl(self) -> Path:
        return self.folder / "sasl"

    def token(self, *, seconds: float = 3600) -> str:
        """An OAuth2 access token of USER that runs out in `seconds`."""
        now = int(time.time())
        claims = {"sub": USER, "iat": now - 3600, "nbf": now - 3600, "exp": now + int(seconds)}
        parts = [_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signature = hmac.digest(TOKEN_KEY, b".".join(parts), "sha256")
        return b".".join([*parts, _base64url(signature)]).decode()

    def contents(self, address: str) -> list[bytes]:
        """What `address` has got: LF line ends, Return-Path, Delivered-To and Received on top."""
        return [file.read_bytes() for file in sorted((self.folder / "mail" / address / "Maildir/new").glob("*"))]

    def log(self) -> str:
        return read_log(self.folder / "dovecot.log")


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _lay_out(folder: Path, port: int, certificates: Certificates | None, settings: Mapping[str, str]) -> Path:
    """Write Dovecot's files and make the folder for the mail; returns the configuration's path."""
    folder.chmod(0o755)
    (folder / "mail").mkdir()
    shutil.chown(folder / "mail", "nobody", "nogroup")
    nobody = os.stat(folder / "mail")
    lines = [f"{USER}:{{PLAIN}}{PASSWORD}:{nobody.st_uid}:{nobody.st_gid}::{folder}/mail/{USER}::"]
    for person in (*PEOPLE, FULL):
        rule = f"userdb_quota_rule=*:bytes={QUOTA}" if person == FULL else ""
        lines.append(f"{person}::{nobody.st_uid}:{nobody.st_gid}::{folder}/mail/{person}::{rule}")
    (folder / "users").write_text("\n".join(lines) + "\n")
    key = folder / "keys/default/HS256/default"
    key.parent.mkdir(parents=True)
    key.write_bytes(base64.b64encode(TOKEN_KEY))
    (folder / "oauth2.conf").write_text(OAUTH2.format(folder=folder))
    lists = {"mechanisms": MECHANISMS, "passwords": PASSWORDS, "tokens": TOKENS}
    names = {name: " ".join(some).lower() for name, some in lists.items()}
    text = CONFIG.format(folder=folder, host=HOST, port=port, **names)
    pairs = {"ssl": "no"} if certificates is None else {"ssl": "yes"}
    if certificates is not None:
        pairs |= {"ssl_cert": f"<{certificates.chain_file}", "ssl_key": f"<{certificates.chain_file}"}
    pairs |= settings
    config = folder / "dovecot.conf"
    config.write_text(text + "".join(f"{name} = {value}\n" for name, value in pairs.items()))
    return config


@contextmanager
def dovecot(
    *, tls: str | None = None, certificates: Certificates | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Dovecot]:
    """Run Dovecot.

    tls        None or "starttls" (then with `certificates`)
    settings   further lines of dovecot.conf, which win over ours

    Its folder is not pytest's: that one is closed to the users of Dovecot, and its path too long for a socket's name.
    """
    program = require("dovecot")
    if not Path("/usr/lib/dovecot/lmtp").exists():
        missing("Dovecot's LMTP (dovecot-lmtpd) is not installed")
    if os.geteuid() != 0:
        missing("a Dovecot of the test's own needs root")
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-dovecot-"))
    try:
        port = free_port()
        config = _lay_out(folder, port, certificates if tls else None, settings or {})
        output = folder / "dovecot.out"
        with output.open("wb") as out:
            process = subprocess.Popen(
                [program, "-F", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            log = folder / "dovecot.log"
            wait_for_greeting(process, port, log if log.exists() else output)
            wait_until((folder / "sasl").exists, "Dovecot's socket for logins")
            yield Dovecot(port, tls, folder=folder, pid=process.pid)
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
