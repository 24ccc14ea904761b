"""Messages of every kind, and what a reader must find in each: for readers that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bulkmail import Attachment, Calendar, Message, MessageError
from bulkmail.message import AttachmentSpec, MessageSpec, compile_message
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import AlternativeSpec, CalendarSpec, PreparedValue

EVENT = "BEGIN:VCALENDAR\nVERSION:2.0\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Käse\nEND:VEVENT\nEND:VCALENDAR\n"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
FAMILY = "👩‍👩‍👧‍👦"
NAMES = (
    "report.pdf",
    "Übersicht (neu).pdf",
    "отчёт за ноябрь.xlsx",
    "2026年11月の報告書についての長い名前のファイル、最終版の写し.docx",
    "تقرير نوفمبر.pdf",
    'a "quoted" \\ name; x=y.txt',
    "=?utf-8?q?x?=.txt",
    f"{FAMILY}.png",
    "x" * 150 + ".bin",
)


@dataclass
class Expected:
    """Texts without the newline at their end; parts: (name, type, content id, bytes) in order."""

    subject: str
    text: str | None = None
    html: str | None = None
    to: list[tuple[str, str]] = field(default_factory=lambda: [("", "ann@example.net")])
    sender: tuple[str, str] = ("News", "news@example.com")
    parts: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)


@dataclass
class Sample:
    name: str
    content: bytes
    expected: Expected


def samples() -> list[Sample]:
    return [*_by_library(), *_by_manifest()]


def _by_library() -> Iterator[Sample]:
    def sample(name: str, expected: Expected, **fields: Any) -> Sample:
        given = {"from_": "News <news@example.com>", "to": "ann@example.net", "subject": expected.subject, **fields}
        return Sample(name, Message(**given).as_bytes(), expected)

    yield sample("plain", Expected("Hello", "Hi\n.\n..two\nend"), text="Hi\n.\n..two\nend")
    yield sample("html only", Expected("Hello", html="<p>Grüße"), html="<p>Grüße")
    for encoding in ("7bit", "quoted-printable", "base64", "8bit"):
        text = "trailing blank \nFrom here\n\n=3D" + ("" if encoding == "7bit" else " é田🙂")
        yield sample(f"forced {encoding}", Expected("x", text, text), text=text, html=text, encoding=encoding)
    right_to_left = "שלום עולם — مرحبا بالعالم"
    yield sample("right to left", Expected(right_to_left, right_to_left), text=right_to_left)
    emoji = f"Grüße {FAMILY} 🇩🇪👍🏽 " * 6 + "!"
    yield sample("emoji", Expected(emoji, emoji), text=emoji)
    long = "word " * 80 + "end"
    yield sample("long lines", Expected(long, "x" * 3000), text="x" * 3000)
    boxes = [
        ('Doe, "Ann"', "ann@example.net"),
        ("Jürgen Müller", "j@example.net"),
        ("田中さん", "t@xn--bcher-kva.example"),
    ]
    to = ['"Doe, \\"Ann\\"" <ann@example.net>', "Jürgen Müller <j@example.net>", "田中さん <t@bücher.example>"]
    yield sample("names", Expected("x", "t", to=boxes, sender=("Käse & Söhne", "n@example.com")), text="t", to=to,
                 from_="Käse & Söhne <n@example.com>")  # fmt: skip
    files = [(name, "application/x-own", None, name.encode() + PNG) for name in NAMES]
    yield sample(
        "file names", Expected("x", "t", parts=files), text="t",
        attachments=[Attachment(data, name=name, type=kind) for name, kind, _, data in files],
    )  # fmt: skip
    yield sample(
        "everything",
        Expected(
            "Everything", "text", "<p><img src='cid:logo@x'>",
            parts=[
                ("logo.png", "image/png", "logo@x", PNG),
                ("invite.ics", "application/ics", None, EVENT.replace("\n", "\r\n").encode()),
                ("empty.txt", "text/plain", None, b""),
                ("m.eml", "message/rfc822", None, b"From: a@example.com\r\n\r\n.dot\r\n"),
                ("part.bin", "application/x-ready", None, b"ready"),
            ],
        ),
        text="text", html="<p><img src='cid:logo@x'>", amp="<html amp4email>", watch="<b>w</b>",
        calendar=Calendar(EVENT, name="invite.ics"),
        attachments=[
            Attachment(PNG, name="logo.png", cid="logo@x"),
            Attachment(b"", name="empty.txt"),
            Attachment(b"From: a@example.com\n\n.dot\n", name="m.eml"),
            Attachment(part=b"Content-Type: application/x-ready\nContent-Disposition: attachment; filename=part.bin\n"
                            b"Content-Transfer-Encoding: base64\n\ncmVhZHk=\n"),
        ],
        priority="high", in_reply_to="<1@example.com>", references="<0@example.com> <1@example.com>",
        headers={"X-A": ["1", "ü"], "X-B": PreparedValue("a\r\n b")},
    )  # fmt: skip


def _by_manifest() -> Iterator[Sample]:
    spec = MessageSpec(
        from_="News <news@example.com>", to="{{ name }} <{{ email }}>", subject="Hallo {{ name }} " + FAMILY,
        text="Hi {{ name }}\n.\n", html="<p>{{ name }} <img src='cid:logo'>", amp="<html amp4email>{{ name }}",
        calendar=CalendarSpec(EVENT, name="invite.ics"),
        attachments=(
            AttachmentSpec(content=PNG, name="logo.png", cid="logo"),
            AttachmentSpec(content="näh", name="n.txt"),
        ),
    )  # fmt: skip
    russian = MessageSpec(
        from_="News <news@example.com>", to="{{ email }}", subject="Привет, {{ name }}",
        text="Здравствуйте, {{ name }}!", alternatives=(AlternativeSpec("text/markdown", "# Привет"),),
    )  # fmt: skip
    for name in ("Ann", "Änn & <Söhne>", "田中", 'O"Hara, Jr.'):
        escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
        parts = [
            ("logo.png", "image/png", "logo", PNG),
            ("invite.ics", "application/ics", None, EVENT.replace("\n", "\r\n").encode()),
            ("n.txt", "text/plain", None, "näh".encode()),
        ]
        expected = Expected(
            f"Hallo {name} {FAMILY}", f"Hi {name}\n.", f"<p>{escaped} <img src='cid:logo'>",
            to=[(name, "ann@example.net")], parts=parts,
        )  # fmt: skip
        yield Sample(f"manifest, {name}", _composed(spec, name), expected)
        yield Sample(
            f"Cyrillic, {name}", _composed(russian, name), Expected(f"Привет, {name}", f"Здравствуйте, {name}!")
        )


def _composed(spec: MessageSpec, name: str) -> bytes:
    (made,) = compile_message(spec, job=f"{name}, {spec.subject}").compose(
        [{"email": "ann@example.net", "name": name}], [1], DATE
    )
    assert not isinstance(made, MessageError), made
    return from_wire(made[2] if isinstance(made[2], bytes) else b"".join(made[2]))
