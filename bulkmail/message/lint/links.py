"""Rules for links, of the html and of the text part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import SplitResult, urlsplit

from bulkmail.message.finding import Finding
from bulkmail.message.lint import domains
from bulkmail.message.lint.names import names
from bulkmail.message.lint.rule import GMAIL, NOTE, PRACTICE, WARNING, Rule
from bulkmail.message.lint.sample import Sample
from bulkmail.message.lint.wording import template_mark

EMPTY = Rule(
    "link-empty", WARNING, "the link {text!r} leads nowhere ({href!r})", "give it its URL", "HTML, section 4.6.2"
)
RELATIVE = Rule(
    "link-relative",
    WARNING,
    "the link {href!r} is relative: a message has no place that it starts from",
    "write the whole URL",
    "RFC 3986 section 5.1",
)
BROKEN = Rule(
    "link-broken", WARNING, "the link {href!r} is no URL", "write it as RFC 3986 has it", "RFC 3986 section 3"
)
LOCAL = Rule(
    "link-local",
    WARNING,
    "the link {href!r} leads to this machine or a private network",
    "link to the public site",
    PRACTICE,
)
SCRIPT = Rule(
    "link-script",
    WARNING,
    "the link {href!r} is of a kind that mail programs drop",
    "use https:, mailto: or tel:",
    PRACTICE,
)
HTTP = Rule(
    "link-http",
    WARNING,
    "http links: {count}, the first is {href!r}: readers are warned, and they can be changed on the way",
    "use https",
    "RFC 9110 section 4.2.2; " + PRACTICE,
)
IMAGE_HTTP = Rule(
    "img-http",
    WARNING,
    "http images: {count}, the first is {src!r}: web mail does not show them or warns",
    "use https",
    "W3C Mixed Content; " + PRACTICE,
)
IP = Rule(
    "link-ip",
    WARNING,
    "the link {href!r} leads to an IP address, as those of spam do",
    "link to a name",
    PRACTICE + " (SpamAssassin NUMERIC_HTTP_ADDR)",
)
SHORTENER = Rule(
    "link-shortener",
    WARNING,
    "the link {href!r} hides where it leads; such services are on block lists",
    "link to the page itself",
    GMAIL + "; Spamhaus DBL",
)
DISGUISED = Rule(
    "link-disguised",
    WARNING,
    "the link says {text!r} and leads to {host}, as those of phishing do",
    "show the domain that it leads to, or words",
    GMAIL,
)
CREDENTIALS = Rule(
    "link-credentials",
    WARNING,
    "the link {href!r} has a user or password before its host",
    "take them out",
    "RFC 3986 section 7.6",
)
MANY = Rule(
    "link-many", NOTE, "the html has {count} links: filters count them", "leave out what nobody needs", PRACTICE
)

RULES = (EMPTY, RELATIVE, BROKEN, LOCAL, SCRIPT, HTTP, IMAGE_HTTP, IP, SHORTENER, DISGUISED, CREDENTIALS, MANY)

TOO_MANY = 100
WEB = ("http", "https")
ACTIVE = ("javascript", "vbscript", "data", "file")

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):").match
_domain_text = re.compile(r"(?:https?://)?((?:[\w-]{1,63}\.)+[A-Za-z]{2,24})(?:[/?#:]\S*)?", re.IGNORECASE).fullmatch
_text_urls = re.compile(r"\bhttps?://[^\s<>\"']+", re.IGNORECASE).findall


def html_links(sample: Sample) -> Iterator[Finding]:
    page, path = sample.page, sample.where("html")
    if len(page.links) > TOO_MANY:
        yield MANY.at(path, count=len(page.links))
    empty = next((link for link in page.links if link.href.strip("#") == ""), None)
    if empty is not None:
        yield EMPTY.at(path, text=empty.text, href=empty.href)
    yield from _told([link.href for link in page.links if link.href.strip("#")], path)
    for link in page.links:
        host = _host(link.href)
        said = _domain_text(link.text)
        if host and said and domains.aligned(said[1], host) is False and domains.is_public_name(said[1]):
            yield DISGUISED.at(path, text=link.text, host=host)
            return


def html_images(sample: Sample) -> Iterator[Finding]:
    page, path = sample.page, sample.where("html")
    sources = [*(image.src for image in page.images), *page.resources]
    insecure = [src for src in sources if src.lower().startswith("http:")]
    if insecure:
        yield IMAGE_HTTP.at(path, count=len(insecure), src=insecure[0])


def text_links(sample: Sample) -> Iterator[Finding]:
    urls = [url.rstrip(".,;:!?)]}") for url in _text_urls((sample.text or "")[:200_000])]
    yield from _told(urls, sample.where("text"))


def _told(hrefs: Iterable[str], path: str) -> Iterator[Finding]:
    """At most one finding of each rule: the first link that breaks it."""
    insecure: list[str] = []
    seen: set[str] = set()
    for href in hrefs:
        rule = _fault(href)
        if rule is HTTP:
            insecure.append(href)
        elif rule is not None and rule.id not in seen:
            seen.add(rule.id)
            yield rule.at(path, href=href)
    if insecure:
        yield HTTP.at(path, count=len(insecure), href=insecure[0])


def _fault(href: str) -> Rule | None:
    """The first rule that a link breaks."""
    if href.startswith("#") or template_mark(href):
        return None  # to a place in the page; told of as a mark
    scheme = _scheme(href)
    if scheme is None:
        return RELATIVE
    kind = scheme[1].lower()
    if kind in ACTIVE:
        return SCRIPT
    if kind not in WEB:
        return None
    parts = _split(href)
    if parts is None or not parts.hostname or " " in href:
        return BROKEN
    host = parts.hostname
    if parts.username is not None:
        return CREDENTIALS
    if domains.is_local(host):
        return LOCAL
    if domains.is_address(host):
        return IP
    if host.removeprefix("www.") in names("shorteners"):
        return SHORTENER
    return HTTP if kind == "http" else None


def _split(href: str) -> SplitResult | None:
    try:
        parts = urlsplit(href)
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts


def _host(href: str) -> str:
    parts = _split(href) if href.lower().startswith(("http:", "https:")) else None
    return (parts.hostname or "").lower() if parts is not None else ""


CHECKS = (html_links, html_images, text_links)
