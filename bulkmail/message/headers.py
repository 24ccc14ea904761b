"""Header fields as bytes: names checked, values encoded (RFC 2047), lines folded (RFC 5322 section 2.2.3).

Every function that makes a field returns whole lines, CRLF included, all of them ASCII except for an address whose
local part is not (RFC 6532). No value can end its field: CR, LF and NUL are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bulkmail import urlparts
from bulkmail.address import check_address, parse_mailbox
from bulkmail.errors import MessageError
from bulkmail.message.compiled import encoded_words
from bulkmail.message.spec import HeaderValue

LINE = 78  # RFC 5322 section 2.1.1, without CRLF
MAX_TOKEN = 900  # a run without blanks is one line; RFC 5322 section 2.1.1 has 998 for lines, our own names need some
MAX_URI = 980
MAX_LINE = 998

# The fields that we make, in lower case, and where a user states what they hold.
OURS = {
    "from": "use 'from'",
    "sender": "use 'sender'",
    "to": "use 'to'",
    "reply-to": "use 'reply_to'",
    "subject": "use 'subject'",
    "list-unsubscribe": "use 'list_unsubscribe'",
    "list-unsubscribe-post": "use 'list_unsubscribe' with \"one_click\": true",
    "list-id": "use 'list_id'",
    "feedback-id": "use 'feedback_id'",
    "return-path": "use 'envelope_from'",
    "dkim-signature": "use 'dkim'",
    "cc": "every recipient would get every copy: add recipients",
    "bcc": "add recipients",
    "date": "it is the time of sending",
    "message-id": "it is made from job and recipient",
    "mime-version": "it is made from the content",
    "content-type": "it is made from the content",
    "content-transfer-encoding": "it is made from the content",
    "content-disposition": "it is made from the content",
    "content-id": "it is made from the content",
}

# Fields that users may make themselves, but not where a key of theirs already does.
KEYS = {
    "in-reply-to": "in_reply_to",
    "references": "references",
    "x-priority": "priority",
    "x-msmail-priority": "priority",
    "importance": "priority",
    "auto-submitted": "auto_submitted",
    "precedence": "precedence",
    **{f"list-{name}": f"list_{name}" for name in ("help", "subscribe", "post", "owner", "archive")},
}

# The three fields by which programs tell importance, as Outlook and Nodemailer write them.
PRIORITIES = {
    "high": (("X-Priority", "1 (Highest)"), ("X-MSMail-Priority", "High"), ("Importance", "High")),
    "normal": (("X-Priority", "3 (Normal)"), ("X-MSMail-Priority", "Normal"), ("Importance", "Normal")),
    "low": (("X-Priority", "5 (Lowest)"), ("X-MSMail-Priority", "Low"), ("Importance", "Low")),
}

_ID = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]{1,255}"

_name = re.compile(r"[!-9;-~]{1,60}").fullmatch  # ftext, RFC 5322 section 3.6.8
_break = re.compile(r"[\r\n\0]").search
_needs_words = re.compile(r"[^\t -~]|=\?").search
_token = re.compile(r"[ \t]*[^ \t]+").findall
_atoms = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?: [A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*").fullmatch
_field_end = re.compile(r"\0|\r(?!\n)|\n(?![ \t])|\r\n(?![ \t])").search
# A fold begins with a blank and is not all blanks: some would take that line for the end of the header.
_not_prepared = re.compile(r"[^\t\n -~]|\n(?![ \t]+[!-~])|\n\Z").search
_message_id = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>").fullmatch
_list_id = re.compile(rf"([^<>]*)<({_ID})>|({_ID})").fullmatch
_special = re.compile(r'(["\\])').sub
_in_comment = re.compile(r"([()\\])").sub


def check_name(name: str, ours: Mapping[str, str] = OURS) -> None:
    """raises  MessageError  for a custom header whose name is no field name, or that repeats one of ours"""
    if not _name(name):
        raise MessageError(
            f"headers: {urlparts.quoted(name)} is not a header name: up to 60 printable characters, no ':' or space"
        )
    remedy = ours.get(name.lower())
    if remedy is not None:
        raise MessageError(f"headers: {name!r} cannot be set here, {remedy}")


def check_value(value: str, what: str) -> str:
    """The value without the blanks around it. raises  MessageError  naming `what` for a line break or NUL in it"""
    if _break(value):
        raise MessageError(f"{what}: a line break or NUL cannot stand in a header or envelope")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MessageError(f"{what}: {value!a} is not valid Unicode (a lone surrogate)") from None
    return value.strip(" \t")


def custom(name: str, value: HeaderValue, what: str, ours: Mapping[str, str]) -> bytes:
    """A custom field. ours: names that it cannot have, in lower case, and why. raises  MessageError"""
    check_name(name, ours)
    if isinstance(value, str):
        return unstructured(name, check_value(value, what))
    return prepared(name, value.value, what)


def prepared(name: str, value: str, what: str) -> bytes:
    """A field whose value is encoded and folded already.

    raises  MessageError  naming `what` for a line break that does not fold, characters beyond ASCII, a line too long
    """
    value = value.replace("\r\n", "\n")
    if _not_prepared(value):
        raise MessageError(f"{what}: a prepared value is ASCII, its line breaks are followed by a blank and by text")
    lines = f"{name}: {value.strip(' ')}".split("\n")
    if max(map(len, lines)) > MAX_LINE:
        raise MessageError(f"{what}: a line of the prepared value has more than {MAX_LINE} bytes")
    return "\r\n".join(lines).encode() + b"\r\n"


def breaks_field(value: str) -> bool:
    """Whether a value, perhaps folded already, holds a NUL or a line break that would end its field."""
    return _field_end(value) is not None


def is_message_id(text: str) -> bool:
    """RFC 5322 section 3.6.4, and not beyond what Gmail takes."""
    return len(text) <= 500 and _message_id(text) is not None


def refused_names(made: Iterable[str], ours: Mapping[str, str] = OURS) -> dict[str, str]:
    """What no custom field may be called in a message that has the fields `made`: lower-case name -> why."""
    repeated = {name.lower() for name in made} & KEYS.keys()
    return {**ours, **{name: f"use {KEYS[name]!r}, which is given too" for name in repeated}}


def priority_fields(given: str, what: str) -> list[tuple[str, bytes]]:
    """(name, field). raises  MessageError  naming `what`"""
    if given not in PRIORITIES:
        raise MessageError(f"{what}: {urlparts.quoted(given)}, expected high, normal or low")
    return [(name, f"{name}: {value}\r\n".encode()) for name, value in PRIORITIES[given]]


def message_ids(name: str, text: str, what: str) -> bytes:
    """In-Reply-To and References: ids separated by blanks, with or without angle brackets; b"" for none.

    raises  MessageError  naming `what` for what is none
    """
    found = [word if word.startswith("<") else f"<{word}>" for word in check_value(text, what).split()]
    for word in found:
        if not is_message_id(word):
            raise MessageError(f"{what}: {urlparts.quoted(word)}, expected message ids such as <unique@example.com>")
    lines = _fold(f"{name}:", [f" {word}" for word in found])
    return "\r\n".join(lines).encode() + b"\r\n" if found else b""


def unstructured(name: str, value: str) -> bytes:
    """Subject and the like. `value` is checked."""
    if _needs_words(value):
        return f"{name}: ".encode() + encoded_words(value.encode(), len(name) + 2)[0] + b"\r\n"
    tokens = _token(value)
    if max(map(len, tokens), default=0) > MAX_TOKEN:
        return f"{name}: ".encode() + encoded_words(value.encode(), len(name) + 2)[0] + b"\r\n"
    lines = _fold(f"{name}: ", tokens)
    return "\r\n".join(lines).encode() + b"\r\n"


def _fold(line: str, tokens: Iterable[str]) -> Iterator[str]:
    """Lines of at most 78 characters where the blanks allow it; joining them gives the tokens back."""
    begun = False
    for token in tokens:
        if begun and len(line) + len(token) > LINE:
            yield line
            line = ""
        line += token
        begun = True
    yield line


def mailboxes(name: str, boxes: Iterable[tuple[str, str]], what: str, allow: str | bool = False) -> bytes:
    """From, To and the like, from (display name, address). Names are checked; addresses are checked here.

    allow   the address that may have a local part beyond ASCII, or True: a recipient's, who needs SMTPUTF8 anyway
    raises  MessageError  naming `what`
    """
    line, done = f"{name}: ".encode(), b""
    for number, (phrase, address) in enumerate(boxes):
        if number:
            done, line = done + line + b",\r\n", b" "
        address = checked_address(address, what, allow)
        added, col = _phrase(phrase, len(line))
        line += added
        if not phrase:
            line += address.encode()
        else:
            angle = f"<{address}>".encode()
            line += (b"\r\n " if col + 1 + len(angle) > LINE else b" ") + angle
    return done + line + b"\r\n"


def _phrase(text: str, col: int) -> tuple[bytes, int]:
    """A display name and the length of its last line: atoms, quoted, or encoded-words, also for the long ones."""
    if not text:
        return b"", col
    if _needs_words(text) or "\t" in text or len(text) > LINE - 18:
        return encoded_words(text.encode(), col)
    made = text if _atoms(text) else '"' + _special(r"\\\1", text) + '"'
    return made.encode(), col + len(made)


def checked_address(text: str, what: str, allow: str | bool = False) -> str:
    """raises  MessageError  naming `what`, with the reason"""
    try:
        address = check_address(text)
    except ValueError as error:
        raise MessageError(f"{what}: {error}") from None
    if not address.isascii() and allow is not True and allow != address:
        raise MessageError(
            f"{what}: {text!r} has a local part beyond ASCII, and no address of the envelope has, so that nothing asks "
            "for SMTPUTF8 (RFC 6531)"
        )
    return address


def parse_mailboxes(text: str, what: str) -> list[tuple[str, str]]:
    """(display name, address) of each mailbox in a list such as `Ann <a@example.com>, "Doe, Bob" <b@example.com>`.

    raises  MessageError  naming `what`
    """
    check_value(text, what)
    try:
        return [parse_mailbox(part) for part in split_list(text)]
    except ValueError as error:
        raise MessageError(f"{what}: {error}") from None


def split_list(text: str) -> list[str]:
    """A list of mailboxes at its commas, those in quotes and angle brackets aside."""
    parts, quoted, angle, escaped = [""], False, False, False
    for c in text:
        if c == "," and not quoted and not angle:
            parts.append("")
            continue
        parts[-1] += c
        if escaped or (c == "\\" and quoted):
            escaped = not escaped
        elif c == '"':
            quoted = not quoted
        elif c in "<>" and not quoted:
            angle = c == "<"
    return parts


def legal_uri(text: str) -> bytes:
    """As it stands in a header."""
    return urlparts.legal_uri(text).encode()


def uris(name: str, texts: Iterable[str], what: str, comments: Sequence[str] = ()) -> bytes:
    """List-Unsubscribe and the like (RFC 2369 section 2). Texts and comments (one for each, or none) are checked.

    raises  MessageError  naming `what` for an impossible length
    """
    line, done = f"{name}: ".encode(), b""
    for number, text in enumerate(texts):
        uri = legal_uri(text)
        if not 0 < len(uri) <= MAX_URI:
            raise MessageError(f"{what}: a URI of {len(uri)} bytes, 1 to {MAX_URI} fit a header")
        if number and len(line) + len(uri) + 4 > LINE:
            done, line = done + line + b",\r\n", b" "
        elif number:
            line += b", "
        line += b"<" + uri + b">"
        if comments:
            added = comment(comments[number], len(line))
            before, newline, line = (line + added).rpartition(b"\r\n")
            done += before + newline
    return done + line + b"\r\n"


def comment(text: str, col: int) -> bytes:
    """A blank and a comment (RFC 5322 section 3.2.2), folded where a line that has `col` bytes would grow too long."""
    if not text:
        return b""
    if _needs_words(text) or max(map(len, text.split(" "))) > MAX_TOKEN:
        return b"\r\n (" + encoded_words(text.encode(), 2)[0] + b")"
    made = " (" + _in_comment(r"\\\1", text) + ")"
    lines = _fold(" " * col, _token(made))
    return "\r\n".join(lines)[col:].encode()


def list_id(text: str, what: str = "list_id") -> bytes:
    """List-Id: "news.example.com" or "Example News <news.example.com>" (RFC 2919 section 2)."""
    text = check_value(text, what)
    found = _list_id(text)
    if found is None:
        raise MessageError(f"{what}: {urlparts.quoted(text)}, expected news.example.com or: Name <news.example.com>")
    phrase, identifier = found[1] or "", found[2] or found[3]
    added, col = _phrase(phrase.strip().strip('"'), len("List-Id: "))
    gap = b"" if not added else b"\r\n " if col + 3 + len(identifier) > LINE else b" "
    return b"List-Id: " + added + gap + f"<{identifier}>\r\n".encode()


def parse_one(text: str, what: str) -> tuple[str, str]:
    """raises  MessageError  naming `what`"""
    try:
        return parse_mailbox(text)
    except ValueError as error:
        raise MessageError(f"{what}: {error}") from None
