"""Messages that are hard to sign right, keys, and a foreign verifier: dkimpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_record import record_name, record_text


def pem(key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@lru_cache
def rsa_key(bits: int = 2048) -> str:
    return pem(rsa.generate_private_key(65537, bits))


@lru_cache
def ed25519_key() -> str:
    return pem(ed25519.Ed25519PrivateKey.generate())


@lru_cache
def both(canonicalization: str = "relaxed/relaxed", **options) -> tuple[Dkim, Dkim]:
    """An RSA and an Ed25519 signature of example.com."""
    options["canonicalization"] = canonicalization
    return (
        Dkim("example.com", "rsa", key=rsa_key(1024), **options),
        Dkim("example.com", "ed", key=ed25519_key(), **options),
    )


def verdicts(message: bytes, specs: Sequence[Dkim]) -> list[bool]:
    """What dkimpy says of each signature of a message; one that it cannot read is no good one."""
    records = {record_name(spec): record_text(spec).encode() for spec in specs}

    def look_up(name: bytes, timeout: float = 5) -> bytes | None:
        return records.get(name.decode().rstrip("."))

    found = []
    for place in range(len(specs)):
        try:
            found.append(dkim.DKIM(message).verify(place, dnsfunc=look_up))
        except dkim.DKIMException:
            found.append(False)
    return found


TOP = b"From: Ann <ann@example.com>\r\nTo: bob@example.net\r\nSubject: Hello\r\n"
BODIES = {
    "no body": b"",
    "empty body": b"\r\n",
    "one empty line": b"\r\n\r\n",
    "only empty lines": b"\r\n" + b"\r\n" * 50,
    "only blanks": b"\r\n   \t \r\n \r\n",
    "blanks at the ends of lines": b"\r\na \r\nb\t\r\n c  \t \r\n",
    "runs of blanks": b"\r\n  a \t b    c\t\td\r\n\te\r\n",
    "blank lines at the end": b"\r\ntext\r\n\r\n \r\n\t\r\n\r\n",
    "blank lines within": b"\r\n\r\n\r\na\r\n\r\n\r\n\r\nb\r\n",
    "no newline at the end": b"\r\nthe end",
    "blank and no newline at the end": b"\r\nthe end \t",
    "dots at the starts of lines": b"\r\n.\r\n..\r\n.a\r\n...\r\na.b.\r\n.",
    "a dot line at the end": b"\r\na\r\n.\r\n",
    "8-bit": "\r\nGrüße, 你好\r\n\xa0\r\n".encode() + b"\xff\xfe\x80\r\n",
    "long lines": b"\r\n" + b"x" * 998 + b"\r\n" + b" y" * 450 + b"\r\n",
    "many pieces of work": b"\r\n" + b"  a line  of\ttext \r\n.\r\n\r\n" * 4000 + b"\r\n" * 20_000,
}
HEADERS = {
    "folded": TOP + b"X-Other: a\r\n b\r\n\tc\r\nSubject: folded\r\n  over \t\r\n\tthree lines \r\n",
    "repeated": TOP + b"To: second@example.net\r\nX-A: 1\r\nTo: third@example.net\r\nSubject: 2\r\n",
    "odd case": b"fRoM: ann@example.com\r\nTO: bob@example.net\r\nsubJECT: Hi\r\nmime-version: 1.0\r\n",
    "odd blanks": b"From:ann@example.com\r\nTo:\tbob@example.net  \r\nSubject:   \t a  \t b \t\r\n",
    "empty values": b"From: ann@example.com\r\nSubject:\r\nTo: \r\nReply-To: \t\r\n",
    "beyond ASCII": "From: Änn <änn@example.com>\r\nSubject: Grüße \r\n".encode(),
    "everything": TOP
    + b"Cc: c@example.com\r\nReply-To: r@example.com\r\nDate: Sun, 01 Nov 2026 08:00:00 +0000\r\n"
    + b"Message-ID: <1@example.com>\r\nList-Unsubscribe: <https://example.com/u/1>,\r\n <mailto:u@example.com>\r\n"
    + b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Id: <news.example.com>\r\nFeedback-ID: a:b\r\n"
    + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
}
CORPUS = {name: TOP + body for name, body in BODIES.items()} | {
    name: header + b"\r\nsome  text \r\n" for name, header in HEADERS.items()
}
