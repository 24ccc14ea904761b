"""Rules for who the message is from, as readers see it: From, display name, Reply-To."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint import domains
from bulkmail.message.lint.fields import mailboxes
from bulkmail.message.lint.names import names
from bulkmail.message.lint.rule import ERROR, GMAIL, GMAIL_CODES, NOTE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

MISSING = Rule("from-missing", ERROR, "there is no From", "add the author", "RFC 5322 section 3.6; " + GMAIL_CODES)
SYNTAX = Rule(
    "from",
    ERROR,
    "From holds no usable address: {value!r}",
    "write it as: Name <name@example.com>",
    "RFC 5322 section 3.4; " + GMAIL_CODES,
)
SEVERAL = Rule(
    "from-several",
    WARNING,
    "From holds {count} addresses: Gmail refuses more than one",
    "leave one author",
    GMAIL_CODES,
)
NO_SENDER = Rule(
    "sender-missing",
    ERROR,
    "From holds {count} addresses and there is no Sender",
    "name one of them in Sender",
    "RFC 5322 section 3.6.2",
)
DOMAIN = Rule(
    "from-domain",
    WARNING,
    "From's domain {domain} is none that can have mail on the Internet",
    "send from a domain of yours",
    GMAIL_CODES,
)
FREEMAIL = Rule(
    "from-freemail",
    WARNING,
    "From is at {domain}: its owner asks others to refuse or hide such mail from elsewhere (DMARC)",
    "send from a domain of yours",
    GMAIL + "; RFC 7489 section 6.3",
)
NAME_ADDRESS = Rule(
    "from-name-address",
    WARNING,
    "the display name {name!r} holds an address that is not From's",
    "let the name say who you are",
    GMAIL,
)
NAME_EMOJI = Rule(
    "from-name-emoji",
    WARNING,
    "the display name {name!r} has an emoji or symbol that may pass for a badge",
    "let the name say who you are, in letters",
    GMAIL,
)
NAME_SUBJECT = Rule(
    "from-name-subject",
    WARNING,
    "the display name {name!r} is also in the subject, or the subject in it",
    "let the name say who you are, and the subject what it is about",
    GMAIL,
)
NAME_RECIPIENT = Rule(
    "from-name-recipient",
    WARNING,
    "the display name {name!r} is the recipient's",
    "let the name say who you are",
    GMAIL,
)
REPLY_TO = Rule(
    "reply-to",
    ERROR,
    "Reply-To holds no usable address: {value!r}",
    "write it as: Name <name@example.com>",
    "RFC 5322 section 3.6.2",
)
NO_REPLY = Rule(
    "no-reply",
    NOTE,
    "answers go to {address}, which looks as if nobody read it",
    "give a Reply-To that is read",
    "Microsoft, Strengthening email ecosystem (high-volume senders)",
)

RULES = (
    MISSING,
    SYNTAX,
    SEVERAL,
    NO_SENDER,
    DOMAIN,
    FREEMAIL,
    NAME_ADDRESS,
    NAME_EMOJI,
    NAME_SUBJECT,
    NAME_RECIPIENT,
    REPLY_TO,
    NO_REPLY,
)

SHORTEST = 5  # characters of a display name that is looked for in the subject: "Ann" is in "Annual report"

_address = re.compile(r"[^\s@<>\"]+@[^\s@<>\"]+\.[^\s@<>\".]+").search
# Pictographs, dingbats, checks, stars, arrows and boxes; variation selectors and the tags of flags come with them.
_symbol = re.compile(
    "[\u2190-\u21ff\u2300-\u23ff\u2460-\u24ff\u2500-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff\ufe0f]"
).search
_nobody = re.compile(r"(?:do[._-]?)?not?[._-]?(?:reply|antwort(?:en)?)(?:$|[@+._-])", re.IGNORECASE).match


def author(sample: Sample) -> Iterator[Finding]:
    path, value = sample.where("from"), sample.value("from")
    if value is None:
        yield MISSING.at(path)
        return
    authors = sample.authors
    if not authors or any(one.address is None for one in authors):
        yield SYNTAX.at(path, value=value)
        return
    if len(authors) > 1:
        rule = SEVERAL if sample.value("sender") is not None else NO_SENDER
        yield rule.at(path, count=len(authors))
    domain = authors[0].domain
    if not domains.is_public_name(domain):
        yield DOMAIN.at(path, domain=domain)
    if domain in names("freemail") and not any(domains.aligned(domain, host) for host in sample.relays):
        yield FREEMAIL.at(path, domain=domain)


def display_name(sample: Sample) -> Iterator[Finding]:
    if not sample.authors or not sample.authors[0].name:
        return
    path, one = sample.where("from"), sample.authors[0]
    name = one.name.strip()
    found = _address(name)
    if found is not None and found[0].lower() != (one.address or "").lower():
        yield NAME_ADDRESS.at(path, name=name)
    if _symbol(name):
        yield NAME_EMOJI.at(path, name=name)
    subject = sample.subject.strip().lower()
    if len(subject) >= SHORTEST and subject in name.lower():
        yield NAME_SUBJECT.at(path, name=name)
    to = mailboxes(sample.value("to") or "")
    if len(to) == 1 and to[0].name and to[0].name.lower() == name.lower() and to[0].address != one.address:
        yield NAME_RECIPIENT.at(path, name=name)


def answers(sample: Sample) -> Iterator[Finding]:
    value = sample.value("reply-to")
    boxes = mailboxes(value) if value else []
    if value is not None and (not boxes or any(box.address is None for box in boxes)):
        yield REPLY_TO.at(sample.where("reply_to"), value=value)
        return
    for box in boxes or sample.authors[:1]:
        if box.address is not None and _nobody(box.address):
            yield NO_REPLY.at(sample.where("reply_to" if boxes else "from"), address=box.address)


CHECKS = (author, display_name, answers)
