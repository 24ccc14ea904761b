"""SPF records (RFC 7208): their grammar, how many look-ups they cost, and whether they let an address send."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from bulkmail.message.lint.resolver import Ask

MAX_LOOKUPS = 10  # RFC 7208 section 4.6.4
MAX_TERMS = 200  # of one record; it has at most some kilobytes
MAX_MX = 10  # section 4.6.4

_term = re.compile(r"([+?~-]?)(all|include|a|mx|ptr|ip4|ip6|exists)(?:([:/])(.*))?", re.IGNORECASE).fullmatch
_modifier = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)").fullmatch
_cidr = re.compile(r"(.*?)(?:/(\d{1,3}))?(?://(\d{1,3}))?").fullmatch
_domain = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)+[A-Za-z0-9-]{1,63}\.?").fullmatch
_macro = re.compile(r"%\{[slodiphcrtvSLODIPHCRTV]\d*r?[.+,/_=-]*\}|%%|%_|%-").sub
COSTLY = frozenset(("include", "a", "mx", "ptr", "exists"))  # with redirect: what asks the DNS

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class SyntaxProblem(ValueError):
    """What is wrong with a record."""


@dataclass(frozen=True, slots=True)
class Term:
    """sign: + - ~ ?; value: a domain or network, "" for the record's own domain; prefixes: of IPv4 and IPv6."""

    sign: str
    kind: str
    value: str = ""
    prefixes: tuple[int, int] = (32, 128)


@dataclass(slots=True)
class Record:
    terms: list[Term] = field(default_factory=list)
    redirect: str | None = None

    @property
    def last(self) -> str | None:
        """The sign of its "all"; None if it has none."""
        return next((term.sign for term in self.terms if term.kind == "all"), None)


def is_spf(text: str) -> bool:
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


def parse(text: str) -> Record:
    """raises  SyntaxProblem  with the term that is wrong"""
    words = text.split(" ")[1:]
    if len(words) > MAX_TERMS:
        raise SyntaxProblem(f"it has more than {MAX_TERMS} terms")
    record = Record()
    seen: set[str] = set()
    for word in filter(None, words):
        modifier = _modifier(word)
        if modifier is None or _term(word):
            record.terms.append(_mechanism(word))
            continue
        name = modifier[1].lower()
        if name in ("redirect", "exp"):
            if name in seen:
                raise SyntaxProblem(f"{name}= stands twice")
            seen.add(name)
            _check_domain(modifier[2], word)
        if name == "redirect":
            record.redirect = modifier[2]
    return record


def _mechanism(word: str) -> Term:
    found = _term(word)
    if found is None:
        raise SyntaxProblem(f"{word[:60]!r} is no mechanism")
    sign, kind, mark, rest = found[1] or "+", found[2].lower(), found[3], found[4] or ""
    if kind in ("ip4", "ip6"):
        return _network(sign, kind, rest if mark == ":" else "", word)
    if kind == "all":
        if mark:
            raise SyntaxProblem(f"{word[:60]!r}: all takes nothing")
        return Term(sign, kind)
    value, four, six = "", None, None
    if mark:
        cut = _cidr(rest if mark == ":" else "/" + rest)
        assert cut is not None
        value, four, six = cut.groups()
    if (mark == ":" or kind in ("include", "exists")) and not value:
        raise SyntaxProblem(f"{word[:60]!r} names no domain")
    if value:
        _check_domain(value, word)
    prefixes = int(four or 32), int(six or 128)
    if prefixes[0] > 32 or prefixes[1] > 128 or ((four or six) and kind not in ("a", "mx")):
        raise SyntaxProblem(f"{word[:60]!r} has a prefix that cannot be")
    return Term(sign, kind, value, prefixes)


def _network(sign: str, kind: str, value: str, word: str) -> Term:
    make = ipaddress.IPv4Network if kind == "ip4" else ipaddress.IPv6Network
    try:
        return Term(sign, kind, str(make(value, strict=False)))
    except ValueError:
        raise SyntaxProblem(f"{word[:60]!r} is no network") from None


def _check_domain(text: str, word: str) -> None:
    # A macro stands for what DNS will take.
    if not _domain(_macro("x", text) if "%" in text else text) and not text.endswith("}"):
        raise SyntaxProblem(f"{word[:60]!r} names no domain")


@dataclass(slots=True)
class Walk:
    """What following a record and all that it includes came to.

    lookups   that it costs, at most one more than allowed
    problems  (domain, sentence) of records that make the whole one useless
    """

    lookups: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


async def walk(domain: str, record: Record, ask: Ask) -> Walk:
    """raises  Unknown"""
    found = Walk()
    await _walk(domain, record, ask, found, [domain])
    return found


async def _walk(domain: str, record: Record, ask: Ask, found: Walk, way: list[str]) -> None:
    followed = [term.value for term in record.terms if term.kind == "include"]
    found.lookups += sum(term.kind in COSTLY for term in record.terms)
    if record.redirect is not None and record.last is None:
        found.lookups += 1
        followed.append(record.redirect)
    for name in followed:
        if found.lookups > MAX_LOOKUPS or found.problems:
            return
        if "%" in name:
            continue  # who it is depends on the message
        if name.lower() in way:
            found.problems.append((domain, f"it includes itself by {name}"))
            return
        inner = await _fetched(name, ask, found)
        if inner is not None:
            await _walk(name, inner, ask, found, [*way, name.lower()])


async def _fetched(name: str, ask: Ask, found: Walk) -> Record | None:
    """The record of an included domain; a problem if it has none, or several (section 5.2: permerror)."""
    texts = [text for text in (await ask(name, "TXT")).records if is_spf(text)]
    if len(texts) != 1:
        found.problems.append((name, "has no SPF record" if not texts else f"has {len(texts)} SPF records"))
        return None
    try:
        return parse(texts[0])
    except SyntaxProblem as problem:
        found.problems.append((name, f"has a broken SPF record: {problem}"))
        return None


async def allows(address: Address, domain: str, ask: Ask, left: list[int] | None = None) -> bool | None:
    """Whether the record of `domain` passes mail from `address` (section 4); None: a macro or a problem decides.

    raises  Unknown
    """
    left = [MAX_LOOKUPS] if left is None else left
    texts = [text for text in (await ask(domain, "TXT")).records if is_spf(text)]
    if len(texts) != 1:
        return None
    try:
        record = parse(texts[0])
    except SyntaxProblem:
        return None
    for term in record.terms:
        left[0] -= term.kind in COSTLY
        if left[0] < 0 or "%" in term.value or term.kind in ("ptr", "exists"):
            return None
        fits = await _matches(term, address, term.value or domain, ask, left)
        if fits is None or fits:
            return None if fits is None else term.sign == "+"
    left[0] -= 1
    if record.redirect is None or "%" in record.redirect or left[0] < 0:
        return False if record.redirect is None else None
    return await allows(address, record.redirect, ask, left)


async def _matches(term: Term, address: Address, domain: str, ask: Ask, left: list[int]) -> bool | None:
    if term.kind == "all":
        return True
    if term.kind in ("ip4", "ip6"):
        return address in ipaddress.ip_network(term.value)
    if term.kind == "include":
        return await allows(address, domain, ask, left)
    hosts = [domain] if term.kind == "a" else list((await ask(domain, "MX")).records[:MAX_MX])
    kind, prefix = ("A", term.prefixes[0]) if address.version == 4 else ("AAAA", term.prefixes[1])
    for host in hosts:
        for text in (await ask(host, kind)).records:
            if address in ipaddress.ip_network(f"{text}/{prefix}", strict=False):
                return True
    return False
