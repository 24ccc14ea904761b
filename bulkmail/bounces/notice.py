"""What a message that came back says: one notice for each recipient that it tells of.

Delivery status notifications  RFC 3464 (3462 for the report around them, 6522, 6533 for addresses beyond ASCII)
Abuse reports                  RFC 5965 and 6650 (message/feedback-report)
Automatic replies              RFC 3834, and what programs wrote before it
Bounces in words               bounces.words
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bulkmail.bounces import words
from bulkmail.message.lint import fields, parts
from bulkmail.message.lint.fields import Field
from bulkmail.message.lint.parts import Part

# Of one message: a notification for a shared message names up to `batch` of a transaction.
MAX_NOTICES = 1000
MAX_TEXT = 64 << 10  # bytes of a status or report part
MAX_REPLY = 1000  # characters of a diagnostic
MAX_ADDRESS = 320

STATUS = frozenset({"message/delivery-status", "message/global-delivery-status"})
RETURNED = frozenset(
    {"message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers", "message/global-headers"}
)
# Of a complaint. "not-spam" is praise, "auth-failure" (RFC 6591) is about our DNS.
COMPLAINTS = frozenset({"abuse", "fraud", "virus", "other", "opt-out", "opt-out-list", "miscategorized"})
ACTIONS = {"failed": "bounce", "delayed": "delayed", "delivered": "delivered", "relayed": "delivered"}
ACTIONS["expanded"] = "delivered"

# Where the address is that a notification was sent to: what the servers on the way note, then the field for people.
DELIVERED_TO = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "x-failed-to", "to")
AUTO_SUBJECT = re.compile(
    r"(?:auto(?:matic)?[ -]?(?:reply|response|antwort)|out of (?:the )?office|abwesenheit|automatische antwort|"
    r"réponse automatique|absence du bureau|respuesta automática|risposta automatica|on vacation)",
    re.IGNORECASE,
)
_REPLY = re.compile(r"\b([245]\d\d)(?:[ -]|$)")
_ENHANCED = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_UTF8 = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_XTEXT = re.compile(rb"\+([0-9A-F]{2})")
_ID = re.compile(r"<[^<>\s]{1,500}>")


@dataclass(slots=True)
class Notice:
    """What is said of one recipient.

    kind        bounce, delayed, delivered, complaint, auto_reply, other
    recipients  addresses of the recipient, the original one first
    status      "5.1.1", None if there is none; code: of the reply, if one is quoted
    reply       the server's words, without the code
    envid       what the sender called the transaction (RFC 3461 ENVID)
    message_ids of the returned message, with brackets
    sent_to     addresses that the notice came to, or that the returned message had as its sender: for VERP
    remote      the server that refused, if it is named
    """

    kind: str
    recipients: list[str] = field(default_factory=list)
    action: str | None = None
    status: str | None = None
    code: int | None = None
    reply: str | None = None
    envid: str | None = None
    message_ids: list[str] = field(default_factory=list)
    sent_to: list[str] = field(default_factory=list)
    remote: str | None = None


def read_notices(data: bytes) -> list[Notice]:
    """The notices in a message, at least one (of kind "other" where it is none). Never raises for what is in it."""
    head, body = fields.split(data)
    own, _ = fields.parse(head)
    tree = parts.walk(own, data, len(data) - len(body))
    common = Notice("other", message_ids=_returned_ids(tree.parts), sent_to=_sent_to(own, tree.parts))
    for part in tree.parts:
        if part.type == "message/feedback-report":
            return [_complaint(part, common)]
    found = [notice for part in tree.parts if part.type in STATUS for notice in _statuses(part, common)]
    if not found:
        found = _from_words(own, tree.parts, data, common)
    return found[:MAX_NOTICES] or [_automatic(own, common) if _is_automatic(own) else common]


# ---- delivery status -------------------------------------------------------------------------------------------------


def _statuses(part: Part, common: Notice) -> Iterator[Notice]:
    """RFC 3464 section 2: groups of fields apart by blank lines; the first one is about the message."""
    groups = list(_groups(part.content(MAX_TEXT)))
    about = next((one for one in groups if "final-recipient" not in one and "original-recipient" not in one), {})
    envid = _unxtext(about["original-envelope-id"]) if about.get("original-envelope-id") else None
    for group in groups:
        if group is about or not ({"final-recipient", "original-recipient"} & group.keys()):
            continue
        yield _status(group, replace(common, envid=envid))


def _status(group: dict[str, str], notice: Notice) -> Notice:
    action = group.get("action", "").split("(")[0].strip().lower()
    code, enhanced, text = _diagnostic(group.get("diagnostic-code", ""))
    status = _enhanced(group.get("status", "")) or enhanced
    kind = ACTIONS.get(action) or {"5": "bounce", "4": "delayed", "2": "delivered"}.get((status or "5")[0], "bounce")
    original = group.get("original-recipient", "")
    named = [typed_address(original, encoded=True), *map(typed_address, (original, group.get("final-recipient", "")))]
    remote = group.get("remote-mta", "").partition(";")[2].split("(")[0].strip().rstrip(".")
    return replace(
        notice,
        kind=kind,
        recipients=_unique(address for address in named if address),
        action=shown(action)[:40] or None,
        status=status,
        code=code,
        reply=text or None,
        remote=shown(remote)[:MAX_ADDRESS] or None,
    )


def _groups(data: bytes) -> Iterator[dict[str, str]]:
    for block in re.split(rb"\r?\n(?:[ \t]*\r?\n)+", data.strip()):
        own, _ = fields.parse(block + b"\r\n", 200)
        group: dict[str, str] = {}
        for one in own:
            group.setdefault(one.key, " ".join(one.value.split()))
        if group:
            yield group


def _diagnostic(value: str) -> tuple[int | None, str | None, str]:
    """(code, enhanced code, words) of a Diagnostic-Code such as "smtp; 550-5.1.1 no such user 550 5.1.1 bye"."""
    kind, separator, text = value.partition(";")
    text = text.strip() if separator else value.strip()
    found = _REPLY.match(text) or (_REPLY.search(text) if "smtp" in kind.lower() else None)
    code = int(found[1]) if found and found[1][0] in "45" else None
    if found and found.start() == 0:
        text = text[found.end() :].strip()
    return code, _enhanced(text), shown(text)[:MAX_REPLY]


def _enhanced(text: str) -> str | None:
    found = _ENHANCED.search(text[:MAX_REPLY])
    return found[1] if found else None


def typed_address(value: str, encoded: bool = False) -> str | None:
    """The address of "rfc822; ann@example.com" or "utf-8; \\x{E4}nn@example.com", decoded (RFC 6533 section 3).

    encoded: as xtext, which is how ORCPT brought it. Senders that did not encode it exist, so the caller tries both.
    """
    kind, separator, text = value.partition(";")
    if not separator:
        kind, text = "rfc822", value
    text = text.strip()
    if kind.strip().lower() == "utf-8":
        text = _UTF8.sub(lambda found: _character(found[1]), text)
    elif encoded:
        text = _unxtext(text)
    return bare_address(text)


def _character(digits: str) -> str:
    number = int(digits, 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "\N{REPLACEMENT CHARACTER}"


def _unxtext(text: str) -> str:
    """RFC 3461 section 4: "+2B" is "+". An address that was never encoded keeps its "+"."""
    raw = text.encode("utf-8", "replace")
    return _XTEXT.sub(lambda found: bytes([int(found[1], 16)]), raw).decode("utf-8", "replace")


def bare_address(text: str) -> str | None:
    """The address in "Ann <ann@example.com> (her)", or None."""
    if "<" in text:
        text = text[text.rindex("<") + 1 :].partition(">")[0]
    text = text.split(" (")[0].strip().strip("<>").removeprefix("mailto:")
    fits = "@" in text[1:-1] and len(text) <= MAX_ADDRESS and text.isprintable() and not re.search(r"[\s<>,;]", text)
    return text if fits else None


# ---- abuse reports ---------------------------------------------------------------------------------------------------


def _complaint(part: Part, common: Notice) -> Notice:
    """RFC 5965 section 3. What the receiver does not tell (redacted addresses, RFC 6590) the returned header may."""
    own, _ = fields.parse(part.content(MAX_TEXT) + b"\r\n", 200)
    kind = next((one.value.split("(")[0].strip().lower() for one in own if one.key == "feedback-type"), "")
    named = [one.value for one in own if one.key in ("original-rcpt-to", "removal-recipient", "original-recipient")]
    envid = next((one.value for one in own if one.key == "original-envelope-id"), None)
    senders = [one.value for one in own if one.key == "original-mail-from"]
    return replace(
        common,
        kind="complaint" if kind in COMPLAINTS else "other",
        action=shown(kind)[:40] or None,
        recipients=_unique(address for one in named if (address := typed_address(one))),
        envid=_unxtext(envid) if envid else None,
        sent_to=_unique([*common.sent_to, *(address for one in senders if (address := bare_address(one)))]),
    )


# ---- everything else -------------------------------------------------------------------------------------------------


def _from_words(own: list[Field], all_parts: list[Part], data: bytes, common: Notice) -> list[Notice]:
    known = {one.key: one.value for one in reversed(own)}
    text = next((part.text[0] for part in all_parts if part.type == "text/plain"), "")
    found = words.read(known, text, data, multiparts=len(all_parts))
    if found is None:
        return []
    if not common.message_ids:
        common = replace(common, message_ids=_ids(words.returned_ids(text)))
    notices = []
    for named, said, permanent in found:
        address = bare_address(named)
        code, enhanced, reply = _reply_in(said)
        kind = "bounce" if permanent else "delayed"
        notices.append(
            replace(
                common,
                kind=kind,
                recipients=[address] if address else [],
                status=enhanced,
                code=code,
                reply=reply or None,
            )
        )
    return notices


def _reply_in(text: str) -> tuple[int | None, str | None, str]:
    found = _REPLY.search(text)
    code = int(found[1]) if found and found[1][0] in "45" else None
    return code, _enhanced(text), shown(" ".join(text.split()))[:MAX_REPLY]


def _automatic(own: list[Field], common: Notice) -> Notice:
    answered = _ids(one.value for one in own if one.key == "in-reply-to")
    return replace(common, kind="auto_reply", message_ids=common.message_ids or answered)


def _is_automatic(own: list[Field]) -> bool:
    """RFC 3834 section 5, and the marks of older programs."""
    known = {one.key: one.value.strip().lower() for one in reversed(own)}
    if known.get("auto-submitted", "no").split(";")[0].strip() not in ("no", ""):
        return True
    if known.get("precedence") == "auto_reply" or {"x-autoreply", "x-autorespond", "x-autoresponder"} & known.keys():
        return True
    return AUTO_SUBJECT.search(fields.decoded(known.get("subject", "")[:500])[0]) is not None


def _returned_ids(all_parts: list[Part]) -> list[str]:
    return _ids(one.value for own in _returned_heads(all_parts) for one in own if one.key == "message-id")


def _ids(values: Iterable[str]) -> list[str]:
    return _unique(found for value in values for found in _ID.findall(value[:MAX_REPLY]))[:10]


def _returned_heads(all_parts: list[Part]) -> Iterator[list[Field]]:
    for part in all_parts:
        if part.type in RETURNED:
            yield fields.parse(fields.split(part.content(MAX_TEXT))[0], 500)[0]


def _sent_to(own: list[Field], all_parts: list[Part]) -> list[str]:
    values = [one.value for key in DELIVERED_TO for one in own if one.key == key]
    values += [one.value for head in _returned_heads(all_parts) for one in head if one.key == "return-path"]
    return _unique(address for value in values if (address := bare_address(value[:MAX_REPLY])))[:20]


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def shown(text: str) -> str:
    """A stranger's words reach terminals and spreadsheets: no control characters, no lone surrogates."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)
