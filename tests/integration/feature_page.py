"""docs/features.md as data, and what its examples run against."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import math
import re
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bulkmail.job.job import Job
from bulkmail.job.report import iter_report
from bulkmail.job.results import Report

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`[^|]+) \| ([^|]+) \| `(\{.*\})` \|$", re.M)
PERSON = '{{"email":"person{0}@example.com","name":"P{0}"}}\n'
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f0300050201"
    "27ab1e2d0000000049454e44ae426082"
)


def rows() -> dict[str, dict[str, Any]]:
    """Name of a row -> its example: the text of the first column without the marks of code."""
    found: dict[str, dict[str, Any]] = {}
    for key, _, example in ROW.findall(PAGE):
        name = key.replace("`", "")
        assert name not in found, f"two rows are called {name!r}"
        found[name] = json.loads(example.replace(r"\|", "|"))
    return found


def table_rows() -> int:
    """All rows of the page's tables but their heads: those that `rows` must have."""
    return len(re.findall(r"^\| `", PAGE, re.M))


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    return found[1]


def laid_over(base: Any, example: Any) -> Any:
    """As the page says it."""
    if not isinstance(base, dict) or not isinstance(example, dict):
        return example
    merged = {name: value for name, value in base.items() if example.get(name, value) is not None}
    return merged | {name: laid_over(base.get(name), value) for name, value in example.items() if value is not None}


@dataclass
class Ran:
    """An example that was sent.

    mails  recipient -> what they got (the last, if it was more than one); lines: the report by recipient
    log    the dialogue; error: what Job.load raised
    """

    job: Job
    report: Report
    sink: Any
    folder: Path
    log: str
    events: list[dict[str, Any]]
    around: Around
    mails: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        return self.report.summary

    @property
    def ann(self) -> Any:
        return self.mails["ann@example.com"]

    def header(self, name: str, of: str = "ann@example.com") -> str:
        value = self.mails[of].email[name]
        assert value is not None, f"there is no {name}"
        return str(value)

    def part(self, type: str) -> Any:
        """The first part of this content type in Ann's message."""
        return next(part for part in self.ann.email.walk() if part.get_content_type() == type)

    def text(self, type: str = "text/plain") -> str:
        return str(self.part(type).get_content()).replace("\r\n", "\n").strip()


class Around:
    """What an example may name: files, a SOCKS proxy, a web server, the environment."""

    def __init__(self, folder: Path, sink: Any) -> None:
        self.folder, self.sink = folder, sink
        self.proxied: list[int] = []
        self.posted: list[tuple[str, dict[str, str], bytes]] = []  # path, header, body
        self.asked: list[tuple[str, str, str]] = []  # of the DNS: name, type, how
        self.start = math.ceil(time.time() + 0.2)

    def write_files(self) -> None:
        def write(name: str, content: str | bytes) -> None:
            (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

        people = "".join(PERSON.format(number) for number in range(200))
        write("subscribers.csv", block("csv"))
        write("people.jsonl", people)
        write("people.jsonl.gz", gzip.compress(people.encode()))
        write("addresses", "one@example.com\ntwo@example.com\n")
        write("broken.jsonl", PERSON.format(1) + "{\n" + PERSON.format(2))
        write("twice.jsonl", PERSON.format(1) + PERSON.format(2) + PERSON.format(1).replace("person", "PERSON"))
        write("unsubscribed.txt", "bob@example.org\n@example.net\n")
        write("hashes.txt", hashlib.sha256(b"ann@example.com").hexdigest() + "\n")
        write_shop(self.folder / "shop.db")
        write("news.txt", "From a file, {{ name }}\n")
        write("layout.html", "<html><body>{% block body %}{% endblock %}</body></html>")
        write("news.html", '{% extends "layout.html" %}{% block body %}<p>{{ name }}</p>{% endblock %}')
        write("terms.pdf", b"%PDF-1.4\n")
        write("logo.png", PIXEL)
        write("ready.eml", b"From: ready@example.com\nMessage-ID: <own@example.com>\nSubject: ready\n\nDone.\n")
        write("event.ics", EVENT)
        write("dkim.pem", ed25519_key())
        if self.sink.ca_file:
            write("ca.pem", Path(self.sink.ca_file).read_bytes())
            write("client.pem", Path(self.sink.ca_file).with_name("server.pem").read_bytes())

    def environment(self) -> dict[str, str]:
        at = self.sink.url.split("//")[1]
        return {
            "RELAY": self.sink.url,
            "RELAY_WITH_LOGIN": f"smtp://ann:s3cret@{at}",
            "RELAY_WITH_USER": f"smtp://ann@{at}",
            "TOKEN": "s3cret",
            "MONTH": "November",
            "UNSUBSCRIBE_KEY": "0123456789abcdef",
            "HOOK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "START": datetime.fromtimestamp(self.start, UTC).isoformat(),
        }


EVENT = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example.com//EN
METHOD:REQUEST
BEGIN:VEVENT
UID:1@example.com
DTSTAMP:20261101T080000Z
DTSTART:20261201T080000Z
SUMMARY:News
ORGANIZER:mailto:news@example.com
ATTENDEE:mailto:{{ email }}
END:VEVENT
END:VCALENDAR
"""


def write_shop(path: Path) -> None:
    with closing(sqlite3.connect(path)) as shop:
        shop.execute("CREATE TABLE customers (email TEXT, name TEXT, active INTEGER)")
        rows = [("erik@example.com", "Erik", 1), ("gone@example.com", "Gone", 0)]
        shop.executemany("INSERT INTO customers VALUES (?, ?, ?)", rows)
        shop.commit()


def ed25519_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(*form)


def send(example: dict[str, Any], folder: Path, sink: Any, monkeypatch: Any) -> Ran:
    around = Around(folder, sink)
    around.write_files()
    manifest = laid_over(json.loads(block("json")), example)
    text = json.dumps(manifest)
    (folder / "example.json").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((folder / "people.jsonl").read_bytes())))
    events: list[dict[str, Any]] = []
    with socks_proxy(around) as proxy, web_server(around) as web, dns_server(around, "${DNS}" in text) as dns:
        environ = around.environment() | {
            "PROXY": proxy,
            "TOKEN_URL": f"{web}/token",
            "HOOK": f"{web}/hook",
            "DNS": dns,
        }
        log = None if '"wire_log"' in text else str(folder / "wire.log")
        job = Job.load(folder / "example.json", environ=environ, wire_log=log)
        report = job.run(on_event=events.append)
    dialogue = folder / ("wire.log" if log else "dialogue.log")
    ran = Ran(job, report, sink, folder, dialogue.read_text() if dialogue.exists() else "", events, around)
    ran.mails = {to: mail for mail in sink.messages for to in mail.recipients}
    ran.lines = {line["recipient"]: line for line in iter_report(job.manifest.journal)}
    return ran


# ---- what examples go through ----------------------------------------------------------------------------------------


@contextmanager
def socks_proxy(around: Around) -> Iterator[str]:
    """A SOCKS5 proxy (RFC 1928) that knows no login; `around.proxied` has the ports that it was asked for."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(3)
            client.sendall(b"\x05\x00")
            _, _, _, kind = client.recv(4)
            host = client.recv(client.recv(1)[0]).decode() if kind == 3 else socket.inet_ntoa(client.recv(4))
            (port,) = struct.unpack("!H", client.recv(2))
            around.proxied.append(port)
            with socket.create_connection((host, port)) as target:
                client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                back = threading.Thread(target=copy, args=(target, client), daemon=True)
                back.start()
                copy(client, target)
                back.join(5)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with accepting(listener, serve):
        yield f"socks5h://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def accepting(listener: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # accept() would not notice that it is closed
        listener.close()
        thread.join(5)


@contextmanager
def dns_server(around: Around, wanted: bool) -> Iterator[str]:
    """Knows who takes the mail of the page's domains: of two of them a server of mail.example."""
    if not wanted:
        yield ""
        return
    from unit.message.dns_server import serving

    hosts = {"example.com": "a.mail.example.", "example.org": "b.mail.example.", "example.net": "mx.example.net."}
    with serving({domain: {"MX": [f"10 {host}"]} for domain, host in hosts.items()}) as server:
        yield server.address
        around.asked = server.asked


@contextmanager
def web_server(around: Around) -> Iterator[str]:
    """Notes what is posted, and answers as a server of tokens does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            around.posted.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
            body = b'{"access_token": "s3cret", "token_type": "Bearer", "expires_in": 3600}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
