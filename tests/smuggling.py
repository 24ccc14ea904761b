"""The published ways to smuggle a second message, or commands, into one: a table that tests of both sides share.

Between 354 and the final dot, servers disagreed about what ends a message; who relays for one and not the other could
be made to send two. The same table serves twice: each sequence sent *to* the sink, which must see one message or
refuse; and each as data for our client, whose bytes must hold one message for any server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

# Timo Longin, SEC Consult, "SMTP Smuggling - Spoofing E-Mails Worldwide", 18 December 2023.
SEC_CONSULT = "https://sec-consult.com/blog/detail/smtp-smuggling-spoofing-e-mails-worldwide/"
# CVE-2023-51764, Postfix; with the update of January 2024 about <CR><CR><LF>.
POSTFIX = "https://www.postfix.org/smtp-smuggling.html"
# CVE-2023-51765 and the notes of release 8.18.1.
SENDMAIL = "https://nvd.nist.gov/vuln/detail/CVE-2023-51765"
# CVE-2023-51766: "LF . CR LF" with PIPELINING and CHUNKING offered.
EXIM = "https://nvd.nist.gov/vuln/detail/CVE-2023-51766"
# The scanners' lists: the author's own, and Hanno Böck's.
TOOLS = "https://github.com/The-Login/SMTP-Smuggling-Tools"
SMTPSMUG = "https://github.com/hannob/smtpsmug"
CHECKER = "https://github.com/suuhm/smtp_smuggling_checker.py"
# CVE-2024-27305, aiosmtpd: a lone CR or LF before the dot.
AIOSMTPD = "https://nvd.nist.gov/vuln/detail/CVE-2024-27305"
CERT = "https://kb.cert.org/vuls/id/302671"


# What Python's str.splitlines() takes for line ends, too: a server that reads text instead of bytes is one of those.
PYTHON = "https://docs.python.org/3/library/stdtypes.html#str.splitlines"


@dataclass(frozen=True)
class Row:
    """`end`: what some server took for the end of a message. `sources`: where that is told."""

    end: bytes
    sources: tuple[str, ...]


def row(end: bytes, *sources: str) -> Row:
    return Row(end, sources)


PUBLISHED = [
    row(b"\n.\n", SEC_CONSULT, CERT, POSTFIX, TOOLS),
    row(b"\n.\r\n", SEC_CONSULT, CERT, POSTFIX, SENDMAIL, EXIM, AIOSMTPD, TOOLS),
    row(b"\r.\r", SEC_CONSULT, TOOLS),
    row(b"\r.\r\n", SEC_CONSULT, TOOLS),
    row(b"\n.\r", TOOLS),
    row(b"\r.\n", TOOLS),
    row(b"\r\n\x00.\r\n", TOOLS, SMTPSMUG),
    row(b"\r\n.\r\r\n", TOOLS),
    row(b"\r\r\n.\r\r\n", TOOLS, POSTFIX),
    row(b"\r\n.\n", SMTPSMUG),
    row(b"\r\n.\r", SMTPSMUG, CHECKER),
    row(b"\r\n.", CHECKER),
    row(b"\r\n.\x00\r\n", CHECKER),
    row(b"\r\n\x00.\r", CHECKER),
    row(b"\r\n\x00.\n", CHECKER),
    row(b"\n\n.\r\n", CHECKER),
    *(row(mark + b"." + mark, PYTHON) for mark in (b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8")),
]
END = b"\r\n.\r\n"
_breaks = [b"".join(marks) for length in range(4) for marks in product((b"\r", b"\n"), repeat=length)]
# Every run of up to three CRs and LFs before and behind the dot, but those with the real end in them.
NEIGHBOURS = [
    Row(before + b"." + behind, ("all there are",))
    for before, behind in product(_breaks, _breaks)
    if before and END not in before + b"." + behind
]
SMUGGLED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: evil\r\n\r\nevil"


def smuggling(row: Row, eol: bytes = b"\r\n") -> bytes:
    """The text of a message that carries another behind the row's end. Without the dot that ends it."""
    return b"Subject: one" + eol + eol + b"first" + row.end + SMUGGLED.replace(b"\r\n", eol) + eol


# What servers of the table take for the end of a line. A reader of each kind must find one message in what we send.
LINE_ENDS: dict[str, tuple[bytes, ...]] = {
    "strict": (b"\r\n",),
    "takes a lone LF": (b"\n", b"\r\n"),
    "takes a lone CR": (b"\r", b"\n", b"\r\n"),
    "takes several CRs": (b"\r\r\r\n", b"\r\r\n", b"\r\n"),
}


def messages_seen(text: bytes, kind: str) -> int:
    """How many messages a server of that kind sees in the text after 354: its lines that are a dot."""
    ends = sorted(LINE_ENDS[kind], key=len, reverse=True)
    return re.split(b"|".join(map(re.escape, ends)), text).count(b".")
