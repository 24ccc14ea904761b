"""Rules for bytes: sizes, lines, what mail may not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint.rule import ERROR, NOTE, PRACTICE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

MAX_LINE = 998  # RFC 5322 section 2.1.1, without CRLF
CLIPPED = 102 * 1024  # bytes of html that Gmail shows; measured by many, written down by nobody
NEARLY = CLIPPED * 8 // 10
LARGE = 10_000_000  # bytes; many servers take no more

LINE = Rule(
    "line-long",
    ERROR,
    "a line of the body has {length} bytes, 998 are allowed",
    "encode the part as quoted-printable or base64",
    "RFC 5322 section 2.1.1; RFC 5321 section 4.5.3.1.6",
)
BARE = Rule(
    "line-bare",
    ERROR,
    "byte {place} is a {what} without its other half: servers refuse it or see other lines than others",
    "end every line with CRLF",
    "RFC 5322 section 2.3; RFC 5321 section 2.3.8",
)
NUL = Rule("nul", ERROR, "byte {place} is a NUL, which no mail may hold", "take it out", "RFC 5322 section 4")
EIGHT_BIT = Rule(
    "body-8bit",
    ERROR,
    "a {kind} part has bytes beyond ASCII and says it has none ({encoding})",
    "encode it as quoted-printable or base64, or declare 8bit",
    "RFC 2045 section 2.7",
)
CLIP = Rule(
    "html-clipped",
    WARNING,
    "the html has {kb} KB: Gmail clips it at 102 KB, with the unsubscribe link at its end",
    "make it smaller",
    PRACTICE + " (Gmail)",
)
NEAR = Rule(
    "html-large",
    NOTE,
    "the html has {kb} KB: Gmail clips it at 102 KB",
    "leave room for long values",
    PRACTICE + " (Gmail)",
)
SIZE = Rule(
    "size",
    WARNING,
    "the message has {mb} MB: many servers take no more than 10",
    "link to large files",
    "RFC 1870; " + PRACTICE,
)

RULES = (LINE, BARE, NUL, EIGHT_BIT, CLIP, NEAR, SIZE)

_bare = re.compile(rb"\r(?!\n)|(?<!\r)\n").search


def octets(sample: Sample) -> Iterator[Finding]:
    path = sample.where("")
    if b"\0" in sample.eml:
        yield NUL.at(path, place=sample.eml.index(0))
    found = None if _all_crlf(sample.eml) else _bare(sample.eml)
    if found is not None:
        yield BARE.at(path, place=found.start(), what="CR" if found[0] == b"\r" else "LF")
    length = _long_line(sample.halves[1])
    if length:
        yield LINE.at(path, length=length)
    if len(sample.eml) > LARGE:
        yield SIZE.at(path, mb=f"{len(sample.eml) / 1e6:.1f}")


def _all_crlf(data: bytes) -> bool:
    return data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")


def _long_line(data: bytes) -> int:
    """The length of the first line that is too long, or 0. Looks at few bytes: those where a line must have ended."""
    start = 0
    while len(data) - start > MAX_LINE:
        end = data.rfind(b"\n", start, start + MAX_LINE + 2)
        if end < 0:
            end = data.find(b"\n", start)
            line = data[start:] if end < 0 else data[start:end]
            if len(line.rstrip(b"\r")) > MAX_LINE:
                return len(line.rstrip(b"\r"))
            end = len(data) if end < 0 else end
        start = end + 1
    return 0


def eight_bit(sample: Sample) -> Iterator[Finding]:
    for part in sample.tree.parts:
        if part.encoding not in ("8bit", "binary") and not part.body.isascii():
            yield EIGHT_BIT.at(sample.where(""), kind=part.type, encoding=part.encoding)
            return


def clipping(sample: Sample) -> Iterator[Finding]:
    if sample.html_part is None:
        return
    size = len(sample.html_part.content())
    if size > NEARLY:
        yield (CLIP if size > CLIPPED else NEAR).at(sample.where("html"), kb=round(size / 1024))


CHECKS = (octets, eight_bit, clipping)
