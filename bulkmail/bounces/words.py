"""Bounces in words alone, from servers and gateways without RFC 3464.

qmail and Exim are read here: both say whom and why in a form of their own. For the many others there is flufl.bounce
(the extra bulkmail[bounces]), which knows whom, for the most part not why.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping

Said = list[tuple[str, str, bool]]  # (recipient, what is said, whether it is permanent)

# Of a text that is searched; the words stand before the returned message.
MAX_TEXT = 64 << 10
# Of a message given to the library and to the email package: it searches each line for some hundred patterns, so that
# a message of nothing but line breaks takes seconds.
MAX_FOR_LIBRARY = 128 << 10
MAX_LINES_FOR_LIBRARY = 4000
MAX_PARTS_FOR_LIBRARY = 20
MAX_RECIPIENTS = 200

_MAILER = re.compile(r"mailer-?daemon|postmaster|mail delivery|<>|^$", re.IGNORECASE)
_QMAIL = re.compile(r"\s*Hi\. This is the ", re.IGNORECASE)
_QMAIL_PARAGRAPH = re.compile(r"<([^<>\s]{3,320})>:[ \t]*\r?\n(.*)", re.DOTALL)
_EXIM = re.compile(r"^[ \t]{2,}<?([^\s<>]{1,250}@[^\s<>]{1,250}?)>?(?:\n|[ \t]*\(|$)", re.MULTILINE)
_BREAK = re.compile(r"^-{2,}", re.MULTILINE)
_MESSAGE_ID = re.compile(r"^message-id:[ \t]*(<[^<>\s]{1,500}>)", re.IGNORECASE | re.MULTILINE)


def read(header: Mapping[str, str], text: str, data: bytes, *, multiparts: int) -> Said | None:
    """Whom a bounce in words is about; None if it is none that anybody here knows."""
    text = text[:MAX_TEXT].replace("\r\n", "\n")
    if _QMAIL.match(text):
        return list(_qmail(text)) or None
    if "x-failed-recipients" in header:
        return _exim(header["x-failed-recipients"], text) or None
    if not _MAILER.search(header.get("return-path", "x")) and not _MAILER.search(header.get("from", "")):
        return None
    return _by_library(data, text) if multiparts <= MAX_PARTS_FOR_LIBRARY else None


def returned_ids(text: str) -> list[str]:
    """The Message-IDs in a header that stands in the text."""
    return _MESSAGE_ID.findall(text[:MAX_TEXT].replace("\r\n", "\n"))[:10]


def _qmail(text: str) -> Iterator[tuple[str, str, bool]]:
    """QSBMF (cr.yp.to/proto/qsbmf.txt): paragraphs; a recipient's begins with "<", the one with "-" ends them."""
    permanent = "permanent error" in text[:2000] or "given up" in text[:2000]
    for paragraph in text.split("\n\n")[1 : MAX_RECIPIENTS + 1]:
        if paragraph.startswith("-"):
            return
        if found := _QMAIL_PARAGRAPH.match(paragraph.strip()):
            yield found[1], found[2].strip(), permanent


def _exim(failed: str, text: str) -> Said:
    """Its field X-Failed-Recipients says whom; indented under each address stands why."""
    wanted = [one.strip() for one in failed.split(",")[:MAX_RECIPIENTS] if "@" in one]
    text = _BREAK.split(text, maxsplit=1)[0]
    marks = [(found.start(), found[1]) for found in _EXIM.finditer(text)]
    said: dict[str, str] = {}
    ends = [start for start, _ in marks[1:]] + [len(text)]
    for (start, address), end in zip(marks, ends, strict=False):
        said.setdefault(address.lower(), text[start:end].strip()[len(address) :])
    return [(one, said.get(one.lower(), ""), True) for one in wanted]


def _beginning(data: bytes) -> bytes:
    lines = data[:MAX_FOR_LIBRARY].split(b"\n", MAX_LINES_FOR_LIBRARY)
    return b"\n".join(lines[:MAX_LINES_FOR_LIBRARY])


def _by_library(data: bytes, text: str) -> Said | None:
    try:
        from flufl.bounce import all_failures
    except ImportError:
        return None
    import email

    # Where one of its detectors fails over a hostile message it logs a traceback and goes on.
    logger = logging.getLogger("flufl.bounce")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        temporary, permanent = all_failures(email.message_from_bytes(_beginning(data)))
    except Exception:  # both parsers raise what they like for hostile input
        return None
    finally:
        logger.setLevel(level)
    why = _BREAK.split(text, maxsplit=1)[0].strip()[:1000]
    found = [(one, False) for one in temporary - permanent] + [(one, True) for one in permanent]
    said = [(one.decode("utf-8", "replace"), why, lasting) for one, lasting in sorted(found)[:MAX_RECIPIENTS]]
    return [one for one in said if "@" in one[0]] or None
