"""What a bounce means for the list: the same rules as for refusals while sending (smtp.classify).

hard     the mailbox or its domain is not there: nobody should be written to again
soft     the mailbox is full, time ran out, a network or a server failed: another newsletter may arrive
blocked  about us (reputation, authentication, content, policy), never held against the recipient
"""

from __future__ import annotations

import re

from bulkmail.bounces.notice import Notice
from bulkmail.smtp.classify import classify
from bulkmail.wire.reply import Reply

HARD, SOFT, BLOCKED = "hard", "soft", "blocked"
# Of a permanent refusal. "mailbox" and "policy" do not say that the address is wrong.
GONE = frozenset({"bad_recipient", "inactive", "address"})
# Rules that saw nothing but a code: a bounce does not say which command it answered, so that is no proof.
BY_CODE = "rcpt-"
# A relay that finds no domain says so as a matter of routing (RFC 3463 X.4.4), mostly without a code.
NO_DOMAIN = re.compile(
    r"(?:host|domain)(?: or domain name)? not found|name service error.{0,200}(?:host not found|nxdomain)|"
    r"unable to lookup dns|nxdomain|no such domain|domain does not exist|unrouteable address|"
    r"unrouteable mail domain|could ?n.t find any host|lookup of .{0,200} failed|illegal host/domain",
    re.IGNORECASE,
)


def judge(notice: Notice) -> tuple[str | None, str | None]:
    """(class, kind): class is hard, soft or blocked, None of what is no bounce; kind as in docs/replies.md."""
    if notice.kind not in ("bounce", "delayed"):
        return None, None
    reply = as_reply(notice)
    meaning = classify(reply, "RCPT")
    assert meaning is not None  # its code is 4xx or 5xx
    if meaning.ours or meaning.kind in ("policy", "protocol"):
        return BLOCKED, meaning.kind
    if notice.kind == "delayed":
        return SOFT, meaning.kind
    if reply.code >= 500 and meaning.kind in ("network", "policy") and NO_DOMAIN.search(reply.text):
        return HARD, "bad_recipient"
    gone = meaning.permanent and reply.code >= 500 and meaning.kind in GONE
    return (HARD if gone and not meaning.rule.startswith(BY_CODE) else SOFT), meaning.kind


def as_reply(notice: Notice) -> Reply:
    """The refusal as a server would have said it. A status wins over a code that contradicts it in its first digit."""
    lasting = notice.status or ("4" if notice.kind == "delayed" else "5")
    code = notice.code or (450 if lasting[0] == "4" else 550)
    if notice.status and str(code)[0] != notice.status[0] and notice.status[0] in "45":
        code = 450 if notice.status[0] == "4" else 550
    text = notice.reply or ""
    if notice.status and notice.status[0] in "45" and not text.startswith(notice.status):
        text = f"{notice.status} {text}"
    return Reply(code, [text.strip()])
