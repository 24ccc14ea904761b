"""Messages that a careless client or server changes on the way."""

from __future__ import annotations

import base64
from dataclasses import dataclass

SENDER = "a@example.test"
RECIPIENTS = ["b@example.test", "c@example.test"]
# All that an MTA adds where it is missing.
HEAD = (
    b"Date: Sun, 01 Nov 2026 08:00:00 +0000\r\n"
    b"From: A <a@example.test>\r\n"
    b"To: b@example.test\r\n"
    b"Message-ID: <%s@example.test>\r\n"
    b"Subject: %s\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: %s\r\n"
    b"\r\n"
)


@dataclass(frozen=True)
class Letter:
    name: str
    content: bytes
    recipients: list[str]

    @property
    def eight_bit(self) -> bool:
        return not self.content.isascii()

    @property
    def needs_utf8(self) -> bool:
        return not "".join(self.recipients).isascii()

    @property
    def line_ends_as_in_files(self) -> bytes:
        return self.content.replace(b"\r\n", b"\n")


def letter(name: str, body: bytes, encoding: bytes = b"8bit", recipients: list[str] = RECIPIENTS) -> Letter:
    word = name.replace(" ", "-").encode()
    return Letter(name, HEAD % (word, name.encode(), encoding) + body, recipients)


def long_body() -> bytes:
    """A megabyte of lines of every length, each third of them with a dot in front."""
    lines = (b"." * (number % 3 == 0) + b"%d " % number + b"x" * (number % 900) for number in range(2300))
    return b"\r\n".join(lines) + b"\r\n"


CORPUS = [
    letter("dots at line starts", b".\r\n..\r\n.leading\r\n...\r\nin the . middle\r\nat the end.\r\n.\r\n"),
    letter("only dots", b".\r\n.\r\n.\r\n"),
    letter("empty body", b""),
    letter("blank lines at the end", b"\r\n\r\ntext\r\n\r\n\r\n\r\n"),
    letter("longest lines", b"x" * 998 + b"\r\n" + b"." + b"y" * 997 + b"\r\n" + b"." * 998 + b"\r\n"),
    letter("eight bits", "Grüße, 你好, \N{PARTY POPPER}\r\n.é\r\n".encode()),
    letter("trailing spaces", b"one \r\ntwo\t\r\n \r\n\t\r\n   three   \r\n \r\n"),
    letter("what other formats quote", b"From me\r\n>From you\r\n-- \r\nRSET\r\nQUIT\r\n. \r\n =2E\r\n%s %%\r\n"),
    letter("a binary in base64", base64.encodebytes(bytes(range(256)) * 300).replace(b"\n", b"\r\n"), b"base64"),
    letter("a megabyte", long_body()),
    letter("an address beyond ASCII", b"x\r\n", recipients=["jürgen@example.test"]),
    letter("no line end at the end", b"one\r\n.two"),
]
