"""Rules for what the message is made of: parts, text beside html, attachments."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint.names import names
from bulkmail.message.lint.rule import ERROR, GMAIL_TYPES, NOTE, PRACTICE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

STRUCTURE = Rule(
    "mime-structure",
    ERROR,
    "the parts of the message cannot be told apart: {problem}",
    "mend its MIME structure",
    "RFC 2046 section 5.1",
)
CHARSET = Rule(
    "charset",
    ERROR,
    "the {kind} part is in the charset {charset!r}, which is unknown or wrong for its bytes",
    "use utf-8",
    "RFC 2046 section 4.1.2",
)
ENCODING = Rule(
    "transfer-encoding",
    ERROR,
    "a {kind} part has the transfer encoding {encoding!r}",
    "use 7bit, 8bit, quoted-printable or base64",
    "RFC 2045 section 6",
)
NO_TEXT = Rule(
    "text-part",
    WARNING,
    "an HTML part without a text part counts against the message",
    "add text",
    "RFC 2046 section 5.1.4; " + PRACTICE,
)
EMPTY = Rule("text-empty", WARNING, "the text part is empty", "write what the html says", PRACTICE)
EMPTY_HTML = Rule("html-empty", WARNING, "the html shows neither text nor an image", "write something", PRACTICE)
STOCK = Rule(
    "text-placeholder",
    WARNING,
    "the text part only says that there is HTML: {text!r}",
    "write what the html says",
    PRACTICE,
)
SHORT = Rule(
    "text-short",
    NOTE,
    "the text part has {text} characters and the html shows {html}: filters compare them",
    "write what the html says",
    PRACTICE,
)
ORDER = Rule(
    "alternative-order",
    WARNING,
    "the text part comes after the html: readers show the last that they can",
    "put the plain one first",
    "RFC 2046 section 5.1.4",
)
BLOCKED = Rule(
    "attachment-type",
    WARNING,
    "Gmail refuses messages with the attachment {name!r}",
    "link to the file",
    GMAIL_TYPES,
)
VANISHED = Rule("attachment-empty", WARNING, "the attachment {name!r} is empty", "look at the file", PRACTICE)
NO_CID = Rule(
    "cid-missing",
    ERROR,
    "the html shows {uri!r} and no part has that content id",
    "attach it with its cid",
    "RFC 2392",
)
UNUSED_CID = Rule(
    "cid-unused",
    NOTE,
    "the inline part {name!r} (cid {cid!r}) is shown nowhere in the html",
    "refer to it, or leave it out",
    "RFC 2387",
)
NO_NAME = Rule(
    "attachment-name",
    NOTE,
    "an attachment of type {kind} has no file name",
    "give it one",
    "RFC 2183 section 2.3",
)

RULES = (
    STRUCTURE,
    CHARSET,
    ENCODING,
    NO_TEXT,
    EMPTY,
    EMPTY_HTML,
    STOCK,
    SHORT,
    ORDER,
    BLOCKED,
    VANISHED,
    NO_CID,
    UNUSED_CID,
    NO_NAME,
)

ENCODINGS = frozenset(("7bit", "8bit", "binary", "quoted-printable", "base64"))
LONG_PAGE = 1000  # characters seen of an html part from which on a short text is strange
FRACTION = 10  # and how many times shorter it is then

_stock = re.compile(
    r"(?:this|your|please|to view|if you|view this|diese|bitte).{0,200}\bhtml\b|\bhtml\b.{0,40}(?:version|e?-?mail)",
    re.IGNORECASE | re.DOTALL,
).match
_cid_use = re.compile(r"\bcid:([^\s\"'<>)]+)", re.IGNORECASE).findall


def structure(sample: Sample) -> Iterator[Finding]:
    for problem in sample.tree.problems[:1]:
        yield STRUCTURE.at(sample.where(""), problem=problem)
    for part in sample.tree.parts:
        if part.encoding not in ENCODINGS:
            yield ENCODING.at(sample.where(""), kind=part.type, encoding=part.encoding)
            break
    for place, shown in (("text", sample.text_part), ("html", sample.html_part)):
        if shown is not None and shown.text[1]:
            yield CHARSET.at(sample.where(place), kind=shown.type, charset=shown.charset or "us-ascii")


def texts(sample: Sample) -> Iterator[Finding]:
    html, text = sample.html_part, sample.text_part
    if html is None:
        if text is not None and not (sample.text or "").strip() and len(sample.tree.parts) == 1:
            yield EMPTY.at(sample.where("text"))
        return
    seen, path = len(sample.page.text), sample.where("text")
    if not seen and not sample.page.images:
        yield EMPTY_HTML.at(sample.where("html"))
    if text is None:
        yield NO_TEXT.at(path)
        return
    said = (sample.text or "").strip()
    if not said:
        yield EMPTY.at(path)
    elif len(said) < 300 and _stock(said):
        yield STOCK.at(path, text=said)
    elif seen > LONG_PAGE and len(said) * FRACTION < seen:
        yield SHORT.at(path, text=len(said), html=seen)
    parts = sample.tree.parts
    if parts.index(html) < parts.index(text):
        yield ORDER.at(path)


def attachments(sample: Sample) -> Iterator[Finding]:
    for part in (part for part in sample.tree.parts if part.disposition or part.cid is not None):
        path = sample.attachment(part.name)
        if part.name and part.name.rpartition(".")[2].strip().lower() in names("attachments") and "." in part.name:
            yield BLOCKED.at(path, name=part.name)
        if not part.body.strip() and part.type != "message/rfc822":
            yield VANISHED.at(path, name=part.name or part.type)
        if part.name is None and part.disposition == "attachment" and part.type != "message/rfc822":
            yield NO_NAME.at(path, kind=part.type)


def content_ids(sample: Sample) -> Iterator[Finding]:
    if sample.html is None:
        return
    used = {name.lower() for name in _cid_use(sample.html)}
    there = {part.cid.lower(): part for part in sample.tree.parts if part.cid}
    for name in sorted(used - there.keys())[:1]:
        yield NO_CID.at(sample.where("html"), uri=f"cid:{name}")
    for name in [
        name for name in there if name not in used and there[name].related and there[name] is not sample.html_part
    ][:1]:
        yield UNUSED_CID.at(sample.attachment(there[name].name), name=there[name].name or there[name].type, cid=name)


CHECKS = (structure, texts, attachments, content_ids)
