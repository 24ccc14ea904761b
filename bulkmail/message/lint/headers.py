"""Rules for the header as a whole: what must be there, once, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from bulkmail.message import headers
from bulkmail.message.finding import Finding
from bulkmail.message.lint import fields
from bulkmail.message.lint.rule import ERROR, GMAIL_CODES, GMAIL_HEADERS, NOTE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

MAX_LINE = 998  # RFC 5322 section 2.1.1, without the newline
ADVISED_LINE = 78
MAX_HEADER = 500_000  # this and the next three: Gmail's page
MAX_FIELDS = 5000
MAX_VALUE = 32_000
MAX_NAME = 1000
UNLIMITED = frozenset(("to", "cc", "references"))
NEAR = 86_400.0  # seconds that a Date may be ahead; clocks and time zones are wrong by less
RECENT = 7 * NEAR  # and be past: a queue may hold a message for days

# RFC 5322 section 3.6, RFC 2045 section 4, RFC 2369 section 3, RFC 2919 section 3, RFC 8058 section 3.1.
# fmt: off
SINGLE = frozenset((
    "from", "sender", "reply-to", "to", "cc", "bcc", "message-id", "in-reply-to", "references", "subject", "date",
    "mime-version", "content-type", "content-transfer-encoding", "content-id", "content-disposition",
    "list-unsubscribe", "list-unsubscribe-post", "list-id",
))
# No text and no phrase: RFC 2047 section 5 has no encoded-words there.
NO_WORDS = frozenset((
    "message-id", "in-reply-to", "references", "date", "mime-version", "content-type", "content-transfer-encoding",
    "list-unsubscribe", "list-unsubscribe-post", "dkim-signature", "return-path",
))
# fmt: on

DATE_MISSING = Rule("date-missing", ERROR, "there is no Date", "add a Date field", "RFC 5322 section 3.6.1")
DATE_SYNTAX = Rule(
    "date",
    ERROR,
    "the Date {value!r} is no date",
    "write it as Mon, 02 Jan 2006 15:04:05 +0100",
    "RFC 5322 section 3.3",
)
DATE_FAR = Rule(
    "date-far",
    WARNING,
    "the Date {value!r} is {days} days from now: Yahoo refuses dates far off",
    "let the time of sending be the Date",
    "Yahoo, SMTP error codes",
)
ID_MISSING = Rule(
    "message-id-missing",
    WARNING,
    "there is no Message-ID: Gmail refuses the message",
    "add a Message-ID of its own to each message",
    "RFC 5322 section 3.6.4; " + GMAIL_CODES,
)
ID_SYNTAX = Rule(
    "message-id",
    ERROR,
    "the Message-ID {value!r} is none",
    "write it as <unique@example.com>",
    "RFC 5322 section 3.6.4; " + GMAIL_CODES,
)
ID_LONG = Rule(
    "message-id-long",
    WARNING,
    "the Message-ID has {length} characters, Gmail takes 500",
    "shorten it",
    GMAIL_HEADERS,
)
TWICE = Rule(
    "header-twice",
    ERROR,
    "{name} stands {count} times in the header, it may stand once",
    "leave one of them",
    "RFC 5322 section 3.6; " + GMAIL_CODES,
)
STRAY = Rule(
    "header-syntax",
    ERROR,
    "the header has a line that is no field: {line!r}",
    "begin each field with its name and a colon, and continuation lines with a blank",
    "RFC 5322 section 2.2",
)
MIME_VERSION = Rule(
    "mime-version",
    ERROR,
    "there is a Content-Type and no MIME-Version",
    "add MIME-Version: 1.0",
    "RFC 2045 section 4",
)
EIGHT_BIT = Rule(
    "header-8bit",
    ERROR,
    "{name} has bytes beyond ASCII, which need a server with SMTPUTF8",
    "write it as encoded-words (RFC 2047)",
    "RFC 5322 section 2.2; RFC 6532 section 3; " + GMAIL_CODES,
)
WORD = Rule(
    "encoded-word",
    ERROR,
    "{name} has an encoded-word that cannot be decoded: {word!r}",
    "use UTF-8 and valid base64 or Q encoding in it",
    "RFC 2047 sections 2 and 4",
)
WORD_LONG = Rule(
    "encoded-word-long",
    WARNING,
    "{name} has an encoded-word of {length} characters, 75 are allowed",
    "cut it into several",
    "RFC 2047 section 2",
)
WORD_PLACE = Rule(
    "encoded-word-place",
    ERROR,
    "{name} has an encoded-word, which may not stand there",
    "write it in ASCII",
    "RFC 2047 section 5; " + GMAIL_CODES,
)
LINE = Rule(
    "header-line",
    ERROR,
    "a line of {name} has {length} bytes, 998 are allowed",
    "fold it at blanks",
    "RFC 5322 section 2.1.1",
)
LINE_LONG = Rule(
    "header-line-long",
    NOTE,
    "a line of {name} has {length} bytes; 78 is what everybody takes",
    "fold it at blanks",
    "RFC 5322 section 2.1.1",
)
SIZE = Rule(
    "header-size",
    WARNING,
    "{what}: {size}, Gmail takes {most}",
    "make it smaller",
    GMAIL_HEADERS,
)
RETURN_PATH = Rule(
    "return-path",
    WARNING,
    "there is a Return-Path, which the receiving server writes",
    "take it out; the envelope has the sender",
    "RFC 5321 section 4.4",
)

RULES = (
    DATE_MISSING,
    DATE_SYNTAX,
    DATE_FAR,
    ID_MISSING,
    ID_SYNTAX,
    ID_LONG,
    TWICE,
    STRAY,
    MIME_VERSION,
    EIGHT_BIT,
    WORD,
    WORD_LONG,
    WORD_PLACE,
    LINE,
    LINE_LONG,
    SIZE,
    RETURN_PATH,
)

# day-of-week, day, month, year, time and zone, with comments only at the end; obsolete zones and years aside.
_date = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),\s*)?\d{1,2}\s+(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s+\d{4}\s+"
    r"\d{2}:\d{2}(?::\d{2})?\s+(?:[+-]\d{4}|GMT|UT)(?:\s*\(.*\))?",
    re.IGNORECASE,
).fullmatch


def date(sample: Sample) -> Iterator[Finding]:
    value = sample.value("date")
    if value is None:
        yield DATE_MISSING.at(sample.where("date"))
        return
    try:
        when = parsedate_to_datetime(value).timestamp() if _date(value) else None
    except (ValueError, TypeError, OverflowError, OSError):  # February 31, the year 0
        when = None
    if when is None:
        yield DATE_SYNTAX.at(sample.where("date"), value=value)
    elif not -NEAR <= sample.now - when <= RECENT:
        yield DATE_FAR.at(sample.where("date"), value=value, days=round(abs(sample.now - when) / NEAR))


def message_id(sample: Sample) -> Iterator[Finding]:
    value = sample.value("message-id")
    path = sample.where("message_id")
    if value is None:
        yield ID_MISSING.at(path)
    elif len(value) > 500:
        yield ID_LONG.at(path, length=len(value))
    elif not headers.is_message_id(value):
        yield ID_SYNTAX.at(path, value=value)


def once(sample: Sample) -> Iterator[Finding]:
    for key in SINGLE:
        found = sample.all(key)
        if len(found) > 1:
            yield TWICE.at(sample.place_of(found[0]), name=found[0].name, count=len(found))


def syntax(sample: Sample) -> Iterator[Finding]:
    if sample.strays:
        line = sample.strays[0].decode("utf-8", "replace").strip()
        yield STRAY.at(sample.where(""), line=line)
    if sample.value("content-type") is not None and sample.value("mime-version") is None:
        yield MIME_VERSION.at(sample.where(""))
    if sample.value("return-path") is not None:
        yield RETURN_PATH.at(sample.where("headers.Return-Path"))


def encoding(sample: Sample) -> Iterator[Finding]:
    for field in sample.fields:
        path = sample.place_of(field)
        if not field.raw.isascii() and not sample.smtputf8:
            yield EIGHT_BIT.at(path, name=field.name)
        if "=?" not in field.value:
            continue
        words = fields.words(field.value)
        if words and field.key in NO_WORDS:
            yield WORD_PLACE.at(path, name=field.name)
            continue
        broken = fields.decoded(field.value)[1]
        longest = max(map(len, words), default=0)
        if broken:
            yield WORD.at(path, name=field.name, word=broken[0])
        elif longest > fields.MAX_WORD:
            yield WORD_LONG.at(path, name=field.name, length=longest)


def lengths(sample: Sample) -> Iterator[Finding]:
    for field in sample.fields:
        longest = max(map(len, re.split(rb"\r?\n", field.raw)))
        if longest > MAX_LINE:
            yield LINE.at(sample.place_of(field), name=field.name, length=longest)
        elif longest > ADVISED_LINE and field.raw.count(b" ") > 1 and field.key not in UNFOLDABLE:
            yield LINE_LONG.at(sample.place_of(field), name=field.name, length=longest)


# One long URI or signature cannot be folded.
UNFOLDABLE = frozenset(("list-unsubscribe", "dkim-signature", "message-id", "references", "in-reply-to"))


def sizes(sample: Sample) -> Iterator[Finding]:
    head = sample.halves[0]
    if len(head) > MAX_HEADER:
        yield SIZE.at(sample.where(""), what="the whole header", size=f"{len(head)} bytes", most=MAX_HEADER)
    if len(sample.fields) >= MAX_FIELDS:
        yield SIZE.at(sample.where(""), what="the header", size=f"{len(sample.fields)} fields", most=MAX_FIELDS)
    for field in sample.fields:
        if len(field.name) > MAX_NAME:
            yield SIZE.at(sample.where(""), what="a header's name", size=f"{len(field.name)} bytes", most=MAX_NAME)
        value = len(field.raw) - len(field.name) - 1
        if value > MAX_VALUE and field.key not in UNLIMITED:
            yield SIZE.at(
                sample.place_of(field), what=f"the value of {field.name}", size=f"{value} bytes", most=MAX_VALUE
            )


CHECKS = (date, message_id, once, syntax, encoding, lengths, sizes)
