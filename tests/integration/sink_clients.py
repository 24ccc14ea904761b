"""Clients that are not ours, each told to deliver letters to one server.

A client is `deliver(letters, target)`. A relay, a mail server that passes them on, is
`deliver(letters, target, start, arrived)`: `start` is its fixture, `arrived` says how many letters the target has.
"""

from __future__ import annotations

import asyncio
import base64
import json
import smtplib
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from integration.servers.aiosmtpd_server import PASSWORD, USER
from integration.servers.common import SERVERS, missing, require, wait_until
from integration.sink_corpus import SENDER, Letter

SECONDS = 60
NODE_CLIENT = Path(__file__).with_name("nodemailer_client.mjs")


@dataclass(frozen=True)
class Target:
    """A sink. mode: "plain"; "tls", which is STARTTLS and the login USER with PASSWORD; or "lmtp"."""

    port: int
    mode: str
    ca_file: Path
    folder: Path  # for what a client needs

    @property
    def tls(self) -> bool:
        return self.mode == "tls"

    @property
    def lmtp(self) -> bool:
        return self.mode == "lmtp"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def file(self, content: bytes) -> str:
        path = self.folder / "letter"
        path.write_bytes(content)
        return str(path)


def run(*command: str, stdin: bytes = b"") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
    return done.stdout.decode(errors="replace")


def by_bulkmail(letters: Sequence[Letter], target: Target) -> None:
    """Ours, for comparison: in chunks where they are offered."""
    from bulkmail import Envelope, send

    scheme, login = (
        ("lmtp" if target.lmtp else "smtp"),
        (f"{quote(USER)}:{quote(PASSWORD, safe='')}@" if target.tls else ""),
    )
    url = f"{scheme}://{login}localhost:{target.port}" + (
        f"?tls=require&ca_file={target.ca_file}" if target.tls else ""
    )
    for letter in letters:
        send(letter.content, envelope=Envelope(SENDER, letter.recipients), via=url)


def by_smtplib(letters: Sequence[Letter], target: Target) -> None:
    kind = smtplib.LMTP if target.lmtp else smtplib.SMTP
    with kind("localhost", target.port, timeout=SECONDS) as client:
        if target.tls:
            client.starttls(context=target.context())
            client.login(USER, PASSWORD)
        for letter in letters:
            options = ["BODY=8BITMIME"] * letter.eight_bit + ["SMTPUTF8"] * letter.needs_utf8
            assert client.sendmail(SENDER, letter.recipients, letter.content, options) == {}


def by_aiosmtplib(letters: Sequence[Letter], target: Target) -> None:
    import aiosmtplib

    async def main() -> None:
        login = {"username": USER, "password": PASSWORD} if target.tls else {}
        client = aiosmtplib.SMTP(
            hostname="localhost", port=target.port, timeout=SECONDS, start_tls=target.tls,
            tls_context=target.context(), **login,
        )  # fmt: skip
        async with client:
            for letter in letters:
                options = ["BODY=8BITMIME"] * letter.eight_bit + ["SMTPUTF8"] * letter.needs_utf8
                refused, _ = await client.sendmail(SENDER, letter.recipients, letter.content, mail_options=options)
                assert refused == {}

    asyncio.run(main())


def by_swaks(letters: Sequence[Letter], target: Target) -> None:
    program = require("swaks")
    options = ["--protocol", "LMTP"] if target.lmtp else []
    if target.tls:
        options = ["--tls", "--tls-verify", "--tls-ca-path", str(target.ca_file)]
        options += ["--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD]
    for letter in letters:
        # What it sends ends with a line that is a dot; it adds that where it is not there.
        file = target.file(letter.line_ends_as_in_files.removesuffix(b"\n") + b"\n.\n")
        to = ["--server", f"localhost:{target.port}", "--from", SENDER, "--to", ",".join(letter.recipients)]
        run(program, *to, *options, "--pipeline", "--data", f"@{file}")


def by_nodemailer(letters: Sequence[Letter], target: Target) -> None:
    node, modules = require("node"), SERVERS / "nodemailer/node_modules"
    if not (modules / "nodemailer").is_dir():
        missing(f"npm's nodemailer is not in {modules}")
    options: dict[str, Any] = {"host": "localhost", "port": target.port, "lmtp": target.lmtp}
    if target.tls:
        options |= {
            "requireTLS": True,
            "tls": {"ca": target.ca_file.read_text()},
            "auth": {"user": USER, "pass": PASSWORD},
        }
    else:
        options |= {"ignoreTLS": True}
    mails = [
        {
            "envelope": {"from": SENDER, "to": letter.recipients, "use8BitMime": letter.eight_bit},
            "raw": base64.b64encode(letter.content).decode(),
        }
        for letter in letters
    ]
    given = json.dumps({"options": options, "mails": mails})
    run(node, str(NODE_CLIENT), f"{modules}/", stdin=given.encode())


def by_smtp_source(letters: Sequence[Letter], target: Target) -> None:
    program = require("smtp-source")
    options = ["-L"] if target.lmtp else []
    for letter in letters:
        file = target.file(letter.line_ends_as_in_files)
        run(program, *options, "-f", SENDER, "-t", letter.recipients[0], "-F", file, f"127.0.0.1:{target.port}")


def by_curl(letters: Sequence[Letter], target: Target) -> None:
    program = require("curl")
    options = ["--silent", "--show-error", "--mail-from", SENDER]
    if target.tls:
        options += ["--ssl-reqd", "--cacert", str(target.ca_file), "--user", f"{USER}:{PASSWORD}"]
    for letter in letters:
        to = [word for recipient in letter.recipients for word in ("--mail-rcpt", recipient)]
        file = target.file(letter.content)
        run(program, *options, *to, "--upload-file", file, f"smtp://localhost:{target.port}/client.test")


def by_msmtp(letters: Sequence[Letter], target: Target) -> None:
    program = require("msmtp")
    lines = ["account default", "host localhost", f"port {target.port}", f"from {SENDER}"]
    lines += [f"protocol {'lmtp' if target.lmtp else 'smtp'}", "set_from_header off", "set_date_header off"]
    if target.tls:
        lines += ["tls on", f"tls_trust_file {target.ca_file}", "auth plain", f"user {USER}", f"password {PASSWORD}"]
    config = target.folder / "msmtprc"
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    for letter in letters:
        run(program, "-C", str(config), "--", *letter.recipients, stdin=letter.line_ends_as_in_files)


def feed(letters: Sequence[Letter], port: int) -> None:
    """Hand them to a relay."""
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
        for letter in letters:
            options = ["BODY=8BITMIME"] * letter.eight_bit + ["SMTPUTF8"] * letter.needs_utf8
            assert client.sendmail(SENDER, letter.recipients, letter.content, options) == {}


def by_postfix(
    letters: Sequence[Letter], target: Target, start: Callable[..., Any], arrived: Callable[[], int]
) -> None:
    """Postfix's smtp(8) or lmtp(8), for which this sink is the next hop of everything."""
    protocol = "lmtp" if target.lmtp else "smtp"
    settings = {
        "virtual_mailbox_domains": "",
        "relay_domains": "example.test",
        "relay_transport": f"{protocol}:{'inet:' * target.lmtp}[localhost]:{target.port}",
        f"{protocol}_host_lookup": "native",
        f"{protocol}_tls_security_level": "none",
    }
    if target.tls:
        settings |= {
            "smtp_tls_security_level": "secure",
            "smtp_tls_CAfile": str(target.ca_file),
            "smtp_tls_secure_cert_match": "hostname",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"static:{{{USER}:{PASSWORD}}}",
            "smtp_sasl_tls_security_options": "noanonymous",
        }
    relay = start(settings=settings)
    feed(letters, relay.port)
    wait_until(lambda: arrived() == len(letters), "Postfix delivers to the sink", lambda: trouble(relay.log()))


def by_exim(letters: Sequence[Letter], target: Target, start: Callable[..., Any], arrived: Callable[[], int]) -> None:
    """Exim, for which this sink is the smarthost. It sends chunks (BDAT) where they are offered."""
    relay = start(onward=onward(target))
    feed(letters, relay.port)
    wait_until(lambda: arrived() == len(letters), "Exim delivers to the sink", lambda: trouble(relay.log()))


def onward(target: Target) -> str:
    """The lines of Exim's smtp transport."""
    lines = [f"port = {target.port}", f"protocol = {'lmtp' if target.lmtp else 'smtp'}"]
    if target.tls:
        lines += ["hosts_require_tls = *", "tls_verify_certificates = {folder}/ca.pem", "tls_verify_hosts = *"]
        lines += ["hosts_require_auth = *"]
    else:
        lines += ["hosts_avoid_tls = *"]
    return "".join(f"  {line}\n" for line in lines)


def trouble(log: str) -> str | None:
    words = ("status=deferred", "status=bounced", "defer (", " ** ", "fatal:")
    lines = [line for line in log.splitlines() if any(word in line for word in words)]
    return "\n".join(lines) or None
