"""Rules for what the DNS says of the domains of a message and of the addresses that send it.

What the DNS does not answer is a note, `dns-unknown`, never more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message.finding import Finding
from bulkmail.message.lint import domains, spf
from bulkmail.message.lint.resolver import Ask, Resolver, Unknown, is_installed
from bulkmail.message.lint.rule import ERROR, GMAIL, NOTE, OUTLOOK, WARNING, YAHOO, Rule
from bulkmail.message.lint.sample import Sample, Signing

ALL_SECONDS = 15.0  # for everything; what is not known by then is told as unknown
ALL_ASK = GMAIL + "; " + YAHOO + "; " + OUTLOOK

UNKNOWN = Rule(
    "dns-unknown", NOTE, "not checked in the DNS: {what} ({why})", "check where a resolver answers", "RFC 1035"
)
SPF_NONE = Rule(
    "spf-missing",
    WARNING,
    "{domain}, the envelope's domain, has no SPF record",
    "publish one that names who sends",
    "RFC 7208; " + ALL_ASK,
)
SPF_SEVERAL = Rule(
    "spf-several",
    ERROR,
    "{domain} has {count} SPF records, so none counts",
    "leave one",
    "RFC 7208 sections 3.2 and 4.5",
)
SPF_SYNTAX = Rule(
    "spf-syntax",
    ERROR,
    "the SPF record of {domain} cannot be used: {problem}",
    "mend it",
    "RFC 7208 sections 4.6 and 5.2",
)
SPF_LOOKUPS = Rule(
    "spf-lookups",
    ERROR,
    "the SPF record of {domain} costs more than 10 look-ups, so it does not count",
    "include fewer, or name networks",
    "RFC 7208 section 4.6.4",
)
SPF_OPEN = Rule(
    "spf-open",
    WARNING,
    "the SPF record of {domain} lets everybody send (+all)",
    "end it with -all or ~all",
    "RFC 7208 section 5.1",
)
SPF_END = Rule(
    "spf-end",
    NOTE,
    "the SPF record of {domain} does not say what of all others ({end})",
    "end it with -all or ~all",
    "RFC 7208 section 5.1",
)
SPF_ADDRESS = Rule(
    "spf-address",
    WARNING,
    "the SPF record of {domain} does not let {address} send",
    "add the address, unless a relay sends",
    "RFC 7208; " + ALL_ASK,
)
DKIM_RECORD = Rule(
    "dkim-record",
    ERROR,
    "nobody can verify the DKIM signature: {problem}",
    "publish the record of the key",
    "RFC 6376 section 3.6; " + ALL_ASK,
)
DKIM_TESTING = Rule(
    "dkim-testing",
    WARNING,
    "{problem}",
    "take t=y out of the record",
    "RFC 6376 section 3.6.1",
)
DMARC_NONE = Rule(
    "dmarc-missing",
    WARNING,
    "From's domain {domain} has no DMARC record",
    "publish _dmarc with v=DMARC1; p=none at least",
    "RFC 7489 section 6; " + ALL_ASK,
)
DMARC_SEVERAL = Rule(
    "dmarc-several", ERROR, "{domain} has {count} DMARC records, so none counts", "leave one", "RFC 7489 section 6.6.3"
)
DMARC_SYNTAX = Rule(
    "dmarc-syntax",
    ERROR,
    "the DMARC record of {domain} cannot be used: {problem}",
    "write it as v=DMARC1; p=none; rua=mailto:dmarc@example.com",
    "RFC 7489 section 6.3",
)
DMARC_RUA = Rule(
    "dmarc-rua", NOTE, "the DMARC record of {domain} asks for no reports (rua)", "add rua=mailto:...", GMAIL
)
DMARC_FAILS = Rule(
    "dmarc-policy",
    WARNING,
    "{domain} asks to {policy} what is not aligned, and this message is not",
    "sign with a key of From's domain",
    "RFC 7489 section 6.3",
)
NO_DOMAIN = Rule(
    "domain-missing",
    WARNING,
    "{domain} ({role}) does not exist: Yahoo refuses such mail",
    "register it, or use another",
    "RFC 5321 section 2.3.5; Yahoo, SMTP error codes",
)
NO_MX = Rule(
    "mx-missing",
    WARNING,
    "{domain} ({role}) has neither MX nor address: answers and bounces are lost",
    "publish an MX",
    "RFC 5321 section 5.1; Yahoo, SMTP error codes",
)
NULL_MX = Rule(
    "mx-null",
    WARNING,
    "{domain} ({role}) says that it takes no mail (null MX): Yahoo refuses mail from it",
    "use a domain that takes mail",
    "RFC 7505 section 4.2; Yahoo, SMTP error codes",
)
NO_PTR = Rule(
    "ptr-missing",
    WARNING,
    "the address {address} has no name (PTR): Gmail and Yahoo refuse mail from it",
    "have its owner publish one",
    ALL_ASK,
)
NOT_FORWARD = Rule(
    "ptr-forward",
    WARNING,
    "the name {name} of the address {address} does not lead back to it",
    "publish the address at the name",
    GMAIL + "; " + YAHOO,
)
GENERIC = Rule(
    "ptr-generic",
    NOTE,
    "the name {name} of {address} looks like one that a provider made of the number",
    "have one published that shows your domain",
    YAHOO,
)
EHLO = Rule(
    "ehlo-name",
    WARNING,
    "the EHLO name {name} does not lead to {address}",
    "let the name of EHLO and of the address be one",
    "RFC 5321 section 4.1.4; " + GMAIL,
)

RULES = (
    UNKNOWN, SPF_NONE, SPF_SEVERAL, SPF_SYNTAX, SPF_LOOKUPS, SPF_OPEN, SPF_END, SPF_ADDRESS, DKIM_RECORD, DKIM_TESTING,
    DMARC_NONE, DMARC_SEVERAL, DMARC_SYNTAX, DMARC_RUA, DMARC_FAILS, NO_DOMAIN, NO_MX, NULL_MX, NO_PTR, NOT_FORWARD,
    GENERIC, EHLO,
)  # fmt: skip

_generic = re.compile(
    r"\b(?:dsl|dyn|dynamic|dhcp|pool|ppp|cable|client|customer|cust|static|ip)\b|(?:\d{1,3}[.-]){3}\d", re.I
)


@dataclass(frozen=True, slots=True)
class Source:
    """An address that mail leaves from, the EHLO name said there (None: not stated), and the path that states it."""

    address: str | None
    name: str | None
    path: str


@dataclass(frozen=True)
class Subject:
    """What is asked about: the domains of a sample, keys that sign, addresses that send."""

    sample: Sample
    keys: Sequence[tuple[str, Any]] = ()  # (place, Dkim)
    sources: Sequence[Source] = ()

    def roles(self) -> list[tuple[str, str, str]]:
        """(domain, what it is, path) of From and of the envelope, each domain once."""
        sample = self.sample
        found = [(sample.from_domain, "From's domain", sample.where("from"))]
        if sample.sender_domain != sample.from_domain:
            found.append((sample.sender_domain, "the envelope's domain", sample.where("envelope_from")))
        return [role for role in found if role[0] and not role[0].startswith("[")]


def lint_dns(subject: Subject, *, server: str | None = None, seconds: float = ALL_SECONDS) -> list[Finding]:
    """What the DNS has against it. Takes at most `seconds`; may be called where an event loop runs.

    server  an address to ask instead of the system's servers
    raises  ConfigError  for a server that is no address
    """
    if not is_installed():
        return [_nothing(subject, "bulkmail[dns] is not installed")]
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(asyncio.run(_all(subject, server, seconds)))
        except BaseException as error:  # told where it is waited for
            out.append(error)

    thread = Thread(target=run, name="bulkmail-dns", daemon=True)
    thread.start()
    thread.join()
    (result,) = out
    if isinstance(result, Unknown):
        return [_nothing(subject, str(result))]
    if isinstance(result, BaseException):
        raise result
    found: list[Finding] = result
    return found


def _nothing(subject: Subject, why: str) -> Finding:
    return UNKNOWN.at(subject.sample.where(""), what="SPF, DKIM, DMARC, MX and PTR", why=why)


async def _all(subject: Subject, server: str | None, seconds: float) -> list[Finding]:
    resolver = Resolver(server)
    try:
        await resolver.probe()
        jobs = _jobs(subject)
        tasks = [asyncio.ensure_future(_one(path, what, job(resolver.ask))) for path, what, job in jobs]
        _, late = await asyncio.wait(tasks, timeout=seconds) if tasks else (set(), set())
        for task in late:
            task.cancel()
        found: list[Finding] = []
        for task, (path, what, _) in zip(tasks, jobs, strict=True):
            found += (
                [UNKNOWN.at(path, what=what, why=f"no answer within {seconds:g} s")] if task in late else task.result()
            )
        return list(dict.fromkeys(found))
    finally:
        resolver.close()


async def _one(path: str, what: str, job: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await job
    except (Unknown, MessageError) as error:  # a key that was readable when the message was composed
        return [UNKNOWN.at(path, what=what, why=str(error))]


Job = tuple[str, str, Callable[[Ask], Awaitable[list[Finding]]]]


def _jobs(subject: Subject) -> list[Job]:
    """(path, what it is, the check) of everything that is asked. Names for examples are not: nobody owns them."""
    sample, jobs = subject.sample, list[Job]()

    def add(path: str, what: str, check: Callable[..., Awaitable[list[Finding]]], *given: Any) -> None:
        jobs.append((path, what, lambda ask: check(*given, path, ask)))

    for domain, role, path in subject.roles():
        if _is_asked(domain):
            add(path, f"where mail to {domain} goes", takes_mail, domain, role)
    if _is_asked(sample.sender_domain):
        add(sample.where("envelope_from"), f"SPF of {sample.sender_domain}", sender_policy, sample.sender_domain,
            subject.sources)  # fmt: skip
    if _is_asked(sample.from_domain):
        add(sample.where("from"), f"DMARC of {sample.from_domain}", dmarc, sample)
    for place, key in subject.keys:
        if _is_asked(key.domain):
            add(sample.where(place), f"the DKIM key of {key.domain}", key_record, key)
    ours = {(key.domain, key.selector) for _, key in subject.keys}
    for one in sample.signatures:
        if _is_asked(one.domain) and (one.domain, one.selector) not in ours:
            add(sample.where(one.place), f"the DKIM key of {one.domain}", foreign_record, one)
    for source in subject.sources:
        if source.address is not None and _is_global(source.address):
            jobs.append((source.path, f"the name of {source.address}", lambda ask, s=source: names(s, ask)))  # type: ignore[misc]
    return jobs


def _is_asked(domain: str) -> bool:
    return bool(domain) and domains.is_public_name(domain) and not domains.is_example(domain)


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # the name of an interface
        return False


async def takes_mail(domain: str, role: str, path: str, ask: Ask) -> list[Finding]:
    mx = await ask(domain, "MX")
    if not mx.exists:
        return [NO_DOMAIN.at(path, domain=domain, role=role)]
    if "." in mx.records:
        return [NULL_MX.at(path, domain=domain, role=role)]
    if mx.records or (await ask(domain, "A")).records or (await ask(domain, "AAAA")).records:
        return []
    return [NO_MX.at(path, domain=domain, role=role)]


async def sender_policy(domain: str, sources: Sequence[Source], path: str, ask: Ask) -> list[Finding]:
    texts = [text for text in (await ask(domain, "TXT")).records if spf.is_spf(text)]
    if not texts:
        return [SPF_NONE.at(path, domain=domain)]
    if len(texts) > 1:
        return [SPF_SEVERAL.at(path, domain=domain, count=len(texts))]
    try:
        record = spf.parse(texts[0])
    except spf.SyntaxProblem as problem:
        return [SPF_SYNTAX.at(path, domain=domain, problem=str(problem))]
    walked = await spf.walk(domain, record, ask)
    if walked.lookups > spf.MAX_LOOKUPS:
        return [SPF_LOOKUPS.at(path, domain=domain)]
    if walked.problems:
        return [SPF_SYNTAX.at(path, domain=domain, problem=" ".join(walked.problems[0]))]
    found = _ending(domain, record, path)
    for address in [source.address for source in sources if source.address and _is_global(source.address)]:
        if await spf.allows(ipaddress.ip_address(address), domain, ask) is False:
            found.append(SPF_ADDRESS.at(path, domain=domain, address=address))
    return found


def _ending(domain: str, record: spf.Record, path: str) -> list[Finding]:
    if record.last == "+":
        return [SPF_OPEN.at(path, domain=domain)]
    if record.last == "?" or (record.last is None and record.redirect is None):
        return [SPF_END.at(path, domain=domain, end="?all" if record.last else "no all")]
    return []


async def key_record(key: Any, path: str, ask: Ask) -> list[Finding]:
    from bulkmail.message.dkim_record import dkim_record_matches, record_name

    problem = dkim_record_matches(key, (await ask(record_name(key), "TXT")).records)
    return _record_finding(problem, path)


async def foreign_record(signature: Signing, path: str, ask: Ask) -> list[Finding]:
    """Of a signature that was made elsewhere: only that there is a key can be told."""
    name = f"{signature.selector}._domainkey.{signature.domain}"
    records = [text for text in (await ask(name, "TXT")).records if "p=" in text]
    revoked = all(_tags(text).get("p") == "" for text in records)
    problem = (
        f"there is no DKIM record at {name}" if not records else f"the key at {name} is revoked" if revoked else None
    )
    return _record_finding(problem, path)


def _record_finding(problem: str | None, path: str) -> list[Finding]:
    if problem is None:
        return []
    return [(DKIM_TESTING if "(t=y)" in problem else DKIM_RECORD).at(path, problem=problem)]


def _tags(text: str) -> dict[str, str]:
    """Of a record such as "v=DMARC1; p=none", names in lower case; of repeated ones the first."""
    pairs = [part.partition("=") for part in text.split(";")]
    return {name.strip().lower(): value.strip() for name, _, value in reversed(pairs)}


async def dmarc(sample: Sample, path: str, ask: Ask) -> list[Finding]:
    domain = sample.from_domain
    for name in _policy_domains(domain):
        texts = [text for text in (await ask(f"_dmarc.{name}", "TXT")).records if text.lower().startswith("v=dmarc1")]
        if len(texts) > 1:
            return [DMARC_SEVERAL.at(path, domain=name, count=len(texts))]
        if texts:
            return _policy(texts[0], name, domain, sample, path)
    return [DMARC_NONE.at(path, domain=domain)]


def _policy_domains(domain: str) -> list[str]:
    """Where the policy may stand: the domain, then its organization's, which without the list is any above it."""
    owner = domains.organization(domain)
    if owner is not None:
        return list(dict.fromkeys((domain, owner)))
    labels = domain.split(".")
    return [".".join(labels[first:]) for first in range(len(labels) - 1)][:8]


def _policy(text: str, name: str, domain: str, sample: Sample, path: str) -> list[Finding]:
    tags = _tags(text)
    policy = tags.get("p", "").lower()
    if policy not in ("none", "quarantine", "reject"):
        problem = f"p={policy} is no policy" if policy else "it has no policy (p=)"
        return [DMARC_SYNTAX.at(path, domain=name, problem=problem)]
    applied = policy if name == domain else tags.get("sp", policy).lower()
    found = []
    if not tags.get("rua"):
        found.append(DMARC_RUA.at(path, domain=name))
    if applied in ("quarantine", "reject") and _fails(sample):
        found.append(DMARC_FAILS.at(path, domain=domain, policy=applied))
    return found


def _fails(sample: Sample) -> bool:
    """Whether it is certain that nothing is aligned; who signs nothing may have a relay that does."""
    vouching = [*(one.domain for one in sample.signatures), sample.sender_domain]
    return bool(sample.signatures) and all(domains.aligned(sample.from_domain, one) is False for one in vouching if one)


async def names(source: Source, ask: Ask) -> list[Finding]:
    assert source.address is not None
    address, found = ipaddress.ip_address(source.address), list[Finding]()
    pointed = [name.rstrip(".").lower() for name in (await ask(address.reverse_pointer, "PTR")).records]
    if not pointed:
        found.append(NO_PTR.at(source.path, address=source.address))
    elif not any([await _leads_to(name, address, ask) for name in pointed[:5]]):
        found.append(NOT_FORWARD.at(source.path, address=source.address, name=pointed[0]))
    elif _generic.search(pointed[0]):
        found.append(GENERIC.at(source.path, address=source.address, name=pointed[0]))
    if (
        source.name is not None
        and not domains.is_address(source.name)
        and not await _leads_to(source.name, address, ask)
    ):
        found.append(EHLO.at(source.path, address=source.address, name=source.name))
    return found


async def _leads_to(name: str, address: spf.Address, ask: Ask) -> bool:
    records = (await ask(name, "A" if address.version == 4 else "AAAA")).records
    return any(ipaddress.ip_address(text) == address for text in records)
