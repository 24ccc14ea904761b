"""What a refusal means: whose fault it is, and its kind in one word (RFC 3463 enhanced codes, then the basic code)."""

from __future__ import annotations

from typing import NamedTuple

from bulkmail.wire.reply import Reply


class Meaning(NamedTuple):
    """kind: for reports, such as "bad_recipient"; ours: the sender or this relay is refused, not the recipient."""

    kind: str
    ours: bool


# the middle and last number of the enhanced code -> kind (RFC 3463 section 3)
KINDS = {
    "1.1": "bad_recipient", "1.2": "bad_recipient", "1.3": "bad_recipient", "1.6": "bad_recipient",
    "1.10": "bad_recipient",
    "1.7": "sender", "1.8": "sender", "2.1": "inactive", "2.2": "mailbox_full", "2.3": "too_large", "3.4": "too_large",
    "4.1": "network", "4.2": "network", "4.4": "network", "4.5": "busy", "4.7": "expired", "7.8": "auth", "7.9": "auth",
}  # fmt: skip
GROUPS = {"1": "address", "2": "mailbox", "3": "system", "4": "network", "5": "protocol", "6": "content", "7": "policy"}

# these say "log in first" or "you may not" to whoever connects, whatever the recipient (RFC 4954 section 6,
# RFC 5321 section 4.2.3)
LOGIN_CODES = (530, 534, 535, 538)
RELAY_DENIED = (
    "relay access denied",
    "relaying denied",
    "relay not permitted",
    "unable to relay",
    "relaying not allowed",
)


def classify(reply: Reply | None, command: str | None) -> Meaning:
    """reply: a 4xx or 5xx, or None for a connection that was lost each time; command: what it answered."""
    if reply is None:
        return Meaning("connection", False)
    if reply.code in LOGIN_CODES:
        return Meaning("auth", True)
    text = reply.text.lower()
    if reply.code >= 500 and any(words in text for words in RELAY_DENIED):
        return Meaning("relay_denied", True)
    kind = "greylisted" if reply.code < 500 and "greylist" in text else None
    if kind is None and reply.enhanced:
        _, _, detail = reply.enhanced.partition(".")
        kind = KINDS.get(detail) or GROUPS.get(detail.split(".")[0])
    if kind is None:
        kind = {552: "mailbox_full", 553: "bad_recipient", 452: "mailbox_full"}.get(reply.code)
    if kind is None:
        kind = {"MAIL": "sender", "RCPT": "bad_recipient" if reply.code >= 500 else "mailbox"}.get(
            command or "", "content"
        )
    return Meaning(kind, command == "MAIL" and reply.code >= 500)
