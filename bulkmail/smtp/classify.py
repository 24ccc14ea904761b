"""What a refusal means: its kind in one word, how much of the work it ends, whether the same attempt can ever succeed.

The rules are data (replies.toml beside this file), read when the first refusal comes; docs/replies.md explains the
kinds. Only refusals come here, never the reply to a message that was taken.
"""

from __future__ import annotations

import re
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bulkmail.errors import MESSAGE, RECIPIENT, RELAY, BulkmailError
from bulkmail.wire.reply import Reply

RULES = Path(__file__).with_name("replies.toml")
# Characters of a reply that are looked at. The longest texts of the big receivers have some 600, and say in their
# first half what it is about; a hostile server may send 64 KiB.
MAX_TEXT = 1024
# Refusals of one job repeat themselves, and one refusal is asked about two or three times; 256 texts are 256 KiB.
REMEMBERED = 256
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 86400.0  # seconds: a server that names less or more is not taken at its word

METACHARACTERS = re.compile(r"[\\.^$?{}\[\]|()*+]")
ENHANCED = re.compile(r"[\[(]?#?([45]\.\d{1,3}\.\d{1,3})\b[:;,\])]{0,2}(?=\s|$)")
WAIT_CUE = r"\b(?:again|retry|retried|back|wait|gr[ea]y-?list\w{0,3}|deferred|delayed|blocked|for|after)\b[^\d]{0,30}?"
WAIT = re.compile(WAIT_CUE + r"\b(\d{1,6}) ?(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b")
WAIT_CLOCK = re.compile(WAIT_CUE + r"\b(\d{1,2}):(\d\d):(\d\d)\b")
SECONDS = {"s": 1, "m": 60, "h": 3600}
# What a refusal ends unless a rule says otherwise; any other command: the message.
SCOPES = {"RCPT": RECIPIENT} | dict.fromkeys(("greeting", "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH"), RELAY)

E = TypeVar("E", bound=BulkmailError)


class Meaning(NamedTuple):
    """What a refusal means.

    kind         one word for reports: "bad_recipient", "throttled" ... (docs/replies.md has them all)
    scope        how much it ends: "recipient", "message", "connection", "relay" or "job"
    permanent    the same attempt again cannot succeed
    ours         it is about us (login, address, reputation, content): never to be held against the recipient
    retry_after  seconds that the server, or experience with it, asks to wait; None: not known, or permanent
    rule         which rule said so
    """

    kind: str
    scope: str
    permanent: bool
    ours: bool
    retry_after: float | None
    rule: str


class Rule:
    """One [[rules]] table of the file; `text` is compiled when it is first needed."""

    def __init__(self, table: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> None:
        kind = kinds[table["kind"]]
        self.id: str = table["id"]
        self.provider: str = table["provider"]
        self.kind: str = table["kind"]
        self.code = re.compile(table.get("code", r"[45]\d\d"))
        self.enhanced = re.compile(table["enhanced"]) if "enhanced" in table else None
        self.command = re.compile(table["command"]) if "command" in table else None
        self.text: list[str] = table.get("text", [])
        self.scope: str | None = table.get("scope", kind.get("scope"))
        self.ours: bool = table.get("ours", kind.get("ours", False))
        self.permanent: bool | None = table.get("permanent", False if kind.get("passes") else None)
        self.retry_after: float | None = table.get("retry_after")
        self.examples: list[str] = table["examples"]

    @cached_property
    def words(self) -> list[str]:
        return [text for text in self.text if not METACHARACTERS.search(text)]

    @cached_property
    def patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(text) for text in self.text if METACHARACTERS.search(text)]

    def fits_codes(self, code: int, enhanced: str, command: str) -> bool:
        return (
            self.code.fullmatch(str(code)) is not None
            and (self.enhanced is None or self.enhanced.fullmatch(enhanced) is not None)
            and (self.command is None or self.command.fullmatch(command) is not None)
        )

    def fits_text(self, text: str) -> bool:
        for word in self.words:
            if word in text:
                return True
        for pattern in self.patterns:
            if pattern.search(text):
                return True
        return not self.text


@cache
def _tables() -> dict[str, Any]:
    import tomllib  # only a run that meets a refusal pays for it

    return tomllib.loads(RULES.read_text("utf-8"))


def kinds() -> tuple[str, ...]:
    """The words that a refusal can mean."""
    return tuple(_tables()["kinds"])


@cache
def rules() -> tuple[Rule, ...]:
    """All rules, in the order in which they are asked."""
    tables = _tables()
    return tuple(Rule(table, tables["kinds"]) for table in tables["rules"])


def classify(reply: Reply, command: str | None) -> Meaning | None:
    """What `reply` to `command` ("MAIL", "RCPT", "end of data" ...) means; None if it refuses nothing (2xx, 3xx)."""
    if reply.code < 400:
        return None
    return _meaning(reply.code, *_plain(reply.lines), command or "")


def retry_after(reply: Reply, command: str | None) -> float | None:
    """Seconds before which another attempt is of no use: the server's own words ("try again in 5 minutes") or what
    experience with it says; SHORTEST_WAIT to LONGEST_WAIT. None: not known, or the refusal is for good."""
    meaning = classify(reply, command)
    return meaning.retry_after if meaning is not None else None


def named_wait(reply: Reply) -> float | None:
    """The seconds that the server's own words ask to wait, SHORTEST_WAIT to LONGEST_WAIT, or None."""
    return _wait(_plain(reply.lines)[1])


def refused(error: type[E], said: str, reply: Reply, command: str | None, *, message: str = MESSAGE) -> E:
    """An error for a reply that refuses, with the scope, the permanence and the kind that the reply means.

    message: the scope where a reply ends the message: RECIPIENT for LMTP, whose verdict is for one recipient's copy
    """
    meaning = classify(reply, command)
    if meaning is None:
        return error(said, reply=reply, command=command)
    scope = message if meaning.scope == MESSAGE else meaning.scope
    return error(said, reply=reply, command=command, scope=scope, permanent=meaning.permanent, kind=meaning.kind)


def _plain(lines: tuple[str, ...]) -> tuple[str, str]:
    """(the enhanced code or "", the text as rules see it).

    Long replies repeat the enhanced code on each line, amid a sentence. Addresses are left out: that of a recipient
    called spam@greylist.example must not decide.
    """
    enhanced = ""
    words: list[str] = []
    room = MAX_TEXT
    for line in lines:
        line = line[: room + 16].lstrip()
        if found := ENHANCED.match(line):
            enhanced = enhanced or found[1]
            line = line[found.end() :]
        words += [word for word in line.lower().split() if "@" not in word]
        room -= len(line)
        if room <= 0:
            break
    return enhanced, " ".join(words)[:MAX_TEXT]


@lru_cache(REMEMBERED)
def _candidates(code: int, enhanced: str, command: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules() if rule.fits_codes(code, enhanced, command))


@lru_cache(REMEMBERED)
def _meaning(code: int, enhanced: str, text: str, command: str) -> Meaning:
    # the last rule fits everything
    rule = next(rule for rule in _candidates(code, enhanced, command) if rule.fits_text(text))
    permanent = code >= 500 if rule.permanent is None else rule.permanent
    scope = rule.scope or SCOPES.get(command, MESSAGE)
    wait = None if permanent else _wait(text) or rule.retry_after
    return Meaning(rule.kind, scope, permanent, rule.ours, wait, rule.id)


def _wait(text: str) -> float | None:
    """The seconds that "try again in 5 minutes" and its like name, within bounds."""
    if found := WAIT_CLOCK.search(text):
        seconds = int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])
    elif found := WAIT.search(text):
        seconds = int(found[1]) * SECONDS[found[2][0]]
    else:
        return None
    return min(max(float(seconds), SHORTEST_WAIT), LONGEST_WAIT)
