"""Rules for mail to many: leaving the list, naming the list, marks of automatic mail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from bulkmail.message.finding import Finding
from bulkmail.message.lint.fields import mailboxes
from bulkmail.message.lint.rule import ERROR, GMAIL, NOTE, OUTLOOK, WARNING, YAHOO, Rule
from bulkmail.message.lint.sample import Sample

ONE_CLICK = Rule(
    "one-click",
    WARNING,
    "no one-click unsubscribe: Gmail and Yahoo ask it of bulk mail",
    "give list_unsubscribe an https url with one_click",
    "RFC 8058; " + GMAIL + "; " + YAHOO,
)
SYNTAX = Rule(
    "list-unsubscribe",
    ERROR,
    "List-Unsubscribe holds no URI in angle brackets: {value!r}",
    "write it as <https://example.com/u/1>, <mailto:u@example.com>",
    "RFC 2369 section 2",
)
POST_VALUE = Rule(
    "list-unsubscribe-post",
    ERROR,
    "List-Unsubscribe-Post is {value!r}",
    "write it as List-Unsubscribe=One-Click",
    "RFC 8058 section 3.1",
)
POST_ALONE = Rule(
    "one-click-https",
    ERROR,
    "List-Unsubscribe-Post is there and List-Unsubscribe has no https URI",
    "give list_unsubscribe an https url",
    "RFC 8058 section 3.1",
)
SIGNED = Rule(
    "one-click-signed",
    WARNING,
    "no DKIM signature covers {missing}: the one-click button is then not shown",
    "sign List-Unsubscribe and List-Unsubscribe-Post",
    "RFC 8058 section 4",
)
CONSTANT = Rule(
    "unsubscribe-constant",
    WARNING,
    "every recipient gets the same unsubscribe URL {url!r}: a click cannot tell who is to be removed",
    "put something opaque of the recipient's into it",
    "RFC 8058 section 3.1",
)
ADDRESS = Rule(
    "unsubscribe-address",
    NOTE,
    "the unsubscribe URL holds the recipient's address: anybody can unsubscribe anybody",
    "use an opaque token, or sign it",
    "RFC 8058 section 6",
)
VISIBLE = Rule(
    "unsubscribe-link",
    WARNING,
    "the body has no link to unsubscribe that a reader can see",
    "add a link that says Unsubscribe",
    GMAIL + "; " + YAHOO + "; " + OUTLOOK,
)
LIST_ID = Rule(
    "list-id",
    ERROR,
    "the List-Id {value!r} is none",
    "write it as: Name <news.example.com>",
    "RFC 2919 section 2",
)
FEEDBACK_ID = Rule(
    "feedback-id",
    NOTE,
    "Gmail does not use the Feedback-ID {value!r}",
    "write it as campaign:customer:type:sender, sender of 5 to 15 characters",
    "Google, Gmail feedback loop",
)
PRIORITY = Rule(
    "priority",
    NOTE,
    "bulk mail claims to be urgent: {name} is {value!r}",
    "leave the priority out",
    "common practice; RFC 2156 section 5.3.6",
)
PRECEDENCE = Rule(
    "precedence",
    NOTE,
    "Precedence is {value!r}; bulk, list and junk are known",
    "write bulk, or leave it out",
    "RFC 3834 section 3.1.8",
)
AUTO = Rule(
    "auto-submitted",
    WARNING,
    "Auto-Submitted is {value!r}; no, auto-generated and auto-replied are known",
    "write auto-generated, or leave it out",
    "RFC 3834 section 5",
)
REPLIED = Rule(
    "auto-replied",
    WARNING,
    "Auto-Submitted says that bulk mail answers a message",
    "write auto-generated",
    "RFC 3834 section 5.1",
)
SAME_ID = Rule(
    "message-id-shared",
    NOTE,
    "all recipients get the same Message-ID {value!r}: Gmail limits how many may",
    'give each a message of their own ("mode": "personal") for long lists',
    "Google, Gmail SMTP errors and codes (4.7.28)",
)

RULES = (
    ONE_CLICK,
    SYNTAX,
    POST_VALUE,
    POST_ALONE,
    SIGNED,
    CONSTANT,
    ADDRESS,
    VISIBLE,
    LIST_ID,
    FEEDBACK_ID,
    PRIORITY,
    PRECEDENCE,
    AUTO,
    REPLIED,
    SAME_ID,
)

# What links to unsubscribe say or hold, in the languages of the larger lists; in other scripts the URL decides.
UNSUBSCRIBE = re.compile(
    r"un-?subscribe|opt-?out|opt out|abmelden|abbestellen|austragen|abmeldung|désabonner|désinscri|desabonner|desinscri"
    r"|darse de baja|cancelar (?:la )?su(?:b)?scripci[oó]n|desuscrib|disiscri|annulla l.iscrizione|cancellati"
    r"|descadastr|cancelar (?:a )?(?:inscri|subscri|assinatura)|uitschrijven|afmelden|wypisz|rezygn|avregistrer|avmeld"
    r"|avanmäl|avsluta|peruuta tilaus|afmeld|отписат|отказаться|配信停止|登録解除|退订|取消订阅|수신거부|구독 ?취소"
    r"|manage (?:your )?(?:e-?mail )?(?:preferences|subscriptions?)|(?:e-?mail|subscription) preferences"
    r"|leave (?:this )?list",
    re.IGNORECASE,
).search

_uri = re.compile(r"<\s*([A-Za-z][A-Za-z0-9+.-]*:[^<>]*)>").findall
_list_id = re.compile(r"[^<>]*<[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]{1,255}>(?:\s*\(.*\))?").fullmatch
_feedback_id = re.compile(r"[^:]*:[^:]*:[^:]*:[^:]{5,15}").fullmatch
_token = re.compile(r"(?<![a-z0-9_-])(?=[a-z_-]*[0-9])[a-z0-9_-]{16,}").search
_urls = re.compile(r"https?://[^\s<>\"']+").findall

_PRIORITIES = {
    "x-priority": ("1", "2"),
    "importance": ("high",),
    "priority": ("urgent",),
    "x-msmail-priority": ("high",),
}


LOOKED_AT = 300_000  # characters of a text, its end


def unsubscribe_uris(sample: Sample) -> list[str]:
    """Of List-Unsubscribe, folds taken out."""
    return ["".join(uri.split()) for uri in _uri(sample.value("list-unsubscribe") or "")]


def _https(uris: Sequence[str]) -> str | None:
    return next((uri for uri in uris if uri.lower().startswith("https://")), None)


def unsubscribe(sample: Sample) -> Iterator[Finding]:
    path = sample.where("list_unsubscribe")
    value, post = sample.value("list-unsubscribe"), sample.value("list-unsubscribe-post")
    uris = unsubscribe_uris(sample)
    if value is not None and not uris:
        yield SYNTAX.at(path, value=value)
    if post is not None and "".join(post.split()).lower() != "list-unsubscribe=one-click":
        yield POST_VALUE.at(path, value=post)
    elif post is not None and _https(uris) is None:
        yield POST_ALONE.at(path)
    elif sample.bulk and post is None:
        yield ONE_CLICK.at(path)
    elif post is not None:
        yield from _covered(sample, path)
    to = [box.address.lower() for box in mailboxes(sample.value("to") or "") if box.address]
    if any(_is_guessed(uri, address) for address in to for uri in uris if not uri.lower().startswith("mailto:")):
        yield ADDRESS.at(path)


def _is_guessed(uri: str, address: str) -> bool:
    """Whether a URI holds an address, and nothing beside it that a signature could be."""
    before, found, after = unquote(uri).lower().partition(address)
    return bool(found) and not _token(before + " " + after)


def _covered(sample: Sample, path: str) -> Iterator[Finding]:
    known = [one.headers for one in sample.signatures if one.headers is not None]
    wanted = {"list-unsubscribe": "List-Unsubscribe", "list-unsubscribe-post": "List-Unsubscribe-Post"}
    if known and len(known) == len(sample.signatures) and not any(wanted.keys() <= signed for signed in known):
        best = max(known, key=lambda signed: len(wanted.keys() & signed))
        missing = " and ".join(name for key, name in wanted.items() if key not in best)
        yield SIGNED.at(path, missing=missing)


def body_link(sample: Sample) -> Iterator[Finding]:
    """A link whose URL or words say it, or a link beside such words."""
    if not sample.bulk or (sample.html is None and sample.text is None):
        return
    uri = _https(unsubscribe_uris(sample))
    if sample.html is not None:
        place, words = "html", sample.page.text
        urls = [link.href for link in sample.page.links]
    else:
        place, words = "text", (sample.text or "")[-LOOKED_AT:]
        urls = _urls(words)
    said = UNSUBSCRIBE(words) is not None and (bool(urls) or "@" in words)
    if not said and uri not in urls and not any(map(UNSUBSCRIBE, urls)):
        yield VISIBLE.at(sample.where(place))


def naming(sample: Sample) -> Iterator[Finding]:
    value = sample.value("list-id")
    if value is not None and not _list_id(value):
        yield LIST_ID.at(sample.where("list_id"), value=value)
    value = sample.value("feedback-id")
    if value is not None and not _feedback_id(value):
        yield FEEDBACK_ID.at(sample.where("feedback_id"), value=value)


def automatic(sample: Sample) -> Iterator[Finding]:
    for key, urgent in _PRIORITIES.items():
        for field in sample.all(key):
            if sample.bulk and field.value.lower().startswith(urgent):
                yield PRIORITY.at(sample.where("priority"), name=field.name, value=field.value)
                break
    for field in sample.all("precedence"):
        if field.value.lower() not in ("bulk", "list", "junk"):
            yield PRECEDENCE.at(sample.place_of(field), value=field.value)
    for field in sample.all("auto-submitted"):
        word = field.value.partition(";")[0].strip().lower()
        if word not in ("no", "auto-generated", "auto-replied"):
            yield AUTO.at(sample.place_of(field), value=field.value)
        elif word == "auto-replied" and sample.bulk:
            yield REPLIED.at(sample.place_of(field))


def copies(samples: Sequence[Sample]) -> Iterator[Finding]:
    """What only several recipients' messages show."""
    first = samples[0]
    if not first.bulk or (len(samples) < 2 and not first.shared):
        return
    uris = [_https(unsubscribe_uris(sample)) for sample in samples]
    if uris[0] is not None and len(set(uris)) == 1:
        yield CONSTANT.at(first.where("list_unsubscribe"), url=uris[0])
    ids = {sample.value("message-id") for sample in samples}
    if len(ids) == 1 and None not in ids:
        yield SAME_ID.at(first.where("message_id"), value=ids.pop() or "")


CHECKS = (unsubscribe, body_link, naming, automatic)
