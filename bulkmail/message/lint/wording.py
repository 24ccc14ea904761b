"""Rules for words: the subject, forms that filters know from spam, template marks that nothing filled."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint.names import names
from bulkmail.message.lint.rule import GMAIL, GMAIL_HEADERS, NOTE, PRACTICE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

SPAMASSASSIN = PRACTICE + " (SpamAssassin {})"

EMPTY = Rule("subject", WARNING, "the subject is empty", "add a subject", "RFC 5322 section 3.6.5; " + PRACTICE)
LONG = Rule(
    "subject-long", WARNING, "the subject has {length} characters, Gmail takes 998", "shorten it", GMAIL_HEADERS
)
WIDE = Rule(
    "subject-wide",
    NOTE,
    "the subject has {length} characters; telephones show some 40, mailboxes some 80",
    "put what matters first",
    PRACTICE,
)
REPLY = Rule(
    "subject-reply",
    WARNING,
    "the subject {subject!r} claims to answer or forward something, and nothing is referred to",
    "take the prefix out",
    GMAIL,
)
CAPITALS = Rule(
    "subject-caps",
    WARNING,
    "the subject {subject!r} is all in capitals",
    "write it as a sentence",
    SPAMASSASSIN.format("SUBJ_ALL_CAPS"),
)
MARKS = Rule(
    "subject-marks",
    WARNING,
    "the subject {subject!r} has runs of ! ? $ or stars",
    "one mark is enough",
    SPAMASSASSIN.format("PLING_QUERY and others"),
)
PHRASE = Rule(
    "spam-phrase",
    NOTE,
    "filters know {phrase!r} from spam",
    "say it in other words",
    SPAMASSASSIN.format("body rules"),
)
UNFILLED = Rule(
    "template-marks",
    WARNING,
    "{found!r} looks like a template mark that nothing has filled",
    "use {{{{ name }}}}, or take it out",
    PRACTICE,
)
NOTHING = Rule("template-empty", NOTE, "{found!r} looks as if a value were missing", "give it a default", PRACTICE)

RULES = (EMPTY, LONG, WIDE, REPLY, CAPITALS, MARKS, PHRASE, UNFILLED, NOTHING)

MOST = 998  # characters, GMAIL_HEADERS
WIDTH = 100
FEWEST_LETTERS = 8  # a subject of fewer may be an abbreviation
LOOKED_AT = 300_000  # characters of a part in which phrases are looked for

_reply = re.compile(r"(?:re|fwd?|aw|wg|tr|sv|vs|rv|antw)(?:\[\d+\])?\s*[:：]", re.IGNORECASE).match
_runs = re.compile(r"[!?！？]{3}|!{2}|\${2}|€{2}|£{2}|\*{3}|[★☆]{2}").search
# {{ name }}, {% if %}, [[NAME]], [FIRSTNAME], %%name%%, *|NAME|*, ${name}, #name#, <<name>>
template_mark = re.compile(
    r"\{\{[^{}\n]{0,80}\}\}|\{%[^{}\n]{0,80}%\}|\[\[[\w .|-]{1,60}\]\]"
    r"|\[(?:FIRST|LAST|FULL)?_?NAME\]|\[(?:EMAIL|UNSUBSCRIBE)\]|%%[\w .-]{1,60}%%|\*\|[\w :.-]{1,60}\|\*"
    r"|\$\{[\w .]{1,60}\}|%(?:FIRST|LAST|FULL)_?NAME%",
).search
_nothing = re.compile(
    r"\b(?:hi|hello|dear|hallo|bonjour|hola) (?:None|null|undefined|nan)\b|\b(?:hi|hello|dear|hallo|bonjour|hola) ?,{2}"
    r"|\b(?:hi|hello|dear) ,",
    re.IGNORECASE,
).search


def subject(sample: Sample) -> Iterator[Finding]:
    text, path = sample.subject.strip(), sample.where("subject")
    if not text:
        yield EMPTY.at(path)
        return
    if len(text) > MOST:
        yield LONG.at(path, length=len(text))
    elif len(text) > WIDTH:
        yield WIDE.at(path, length=len(text))
    if _reply(text) and sample.value("references") is None and sample.value("in-reply-to") is None:
        yield REPLY.at(path, subject=text)
    letters = [c for c in text if c.isalpha() and c.lower() != c.upper()]
    if len(letters) >= FEWEST_LETTERS and all(c.isupper() for c in letters):
        yield CAPITALS.at(path, subject=text)
    if _runs(text):
        yield MARKS.at(path, subject=text)


def phrases(sample: Sample) -> Iterator[Finding]:
    for place, text in _texts(sample):
        lowered = " ".join(text.lower().split())
        found = next((phrase for phrase in sorted(names("phrases")) if phrase in lowered), None)
        if found is not None:
            yield PHRASE.at(sample.where(place), phrase=found)
            return


def marks(sample: Sample) -> Iterator[Finding]:
    # A link's address is no text that is seen, and is where an unfilled mark does most harm.
    hrefs = "\n".join([*(link.href for link in sample.page.links), *(image.src for image in sample.page.images)])
    for place, text in [*_texts(sample), ("html", hrefs)]:
        found = template_mark(text)
        if found is not None:
            yield UNFILLED.at(sample.where(place), found=found[0])
        missing = _nothing(text)
        if missing is not None:
            yield NOTHING.at(sample.where(place), found=missing[0])


def _texts(sample: Sample) -> list[tuple[str, str]]:
    """(place, what readers see there)."""
    shown = (("subject", sample.subject), ("html", sample.page.text), ("text", sample.text or ""))
    return [(place, text[:LOOKED_AT]) for place, text in shown]


CHECKS = (subject, phrases, marks)
