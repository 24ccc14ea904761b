"""What an EHLO reply offers (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from bulkmail.wire.reply import Reply

MAX_EXTENSIONS = 100  # real servers announce about fifteen; the rest of a longer list is not read


def parse_extensions(reply: Reply) -> dict[str, str]:
    """Keyword (upper case) to parameters, both as text: {"SIZE": "10240000", "PIPELINING": "", "AUTH": "PLAIN LOGIN"}.

    "AUTH=PLAIN", an old form that some servers send beside the right one, counts as AUTH.
    """
    found: dict[str, str] = {}
    for line in reply.lines[1 : MAX_EXTENSIONS + 1]:
        keyword, _, parameters = line.strip().partition(" ")
        if keyword.upper().startswith("AUTH="):
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        keyword = keyword.upper()
        if keyword == "AUTH" and "AUTH" in found:
            parameters = " ".join(dict.fromkeys(f"{found['AUTH']} {parameters}".split()))
        if keyword:
            found[keyword] = parameters.strip()
    return found
