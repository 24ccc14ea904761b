"""Parameters such as utm_source for the links of an HTML text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import unescape
from urllib.parse import quote, unquote_plus

from bulkmail.errors import MessageError
from bulkmail.message.html_tags import Attribute, attribute, edited, start_tags
from bulkmail.message.marked import STATEMENT, VALUE, token

# A link with this attribute stays as it is, and so does one that leads to a page like these: another parameter may
# break what is signed, and nobody counts as a visitor who leaves.
OPT_OUT = "data-no-link-parameters"
leaves = re.compile(r"unsubscribe|opt-?out", re.I).search
_web = re.compile(r"https?://", re.I).match

Pairs = Sequence[tuple[str, str]]


def with_parameters(url: str, pairs: Pairs) -> str:
    """A web address with more query parameters: before its fragment, none that it has already.

    pairs   names and values as they stand in a query, percent-encoded
    """
    if not _web(url) or leaves(url):
        return url
    head, mark, fragment = url.partition("#")
    query = head.partition("?")[2]
    there = {unquote_plus(part.partition("=")[0]) for part in re.split("[&;]", query)}
    added = "&".join(f"{name}={value}" for name, value in pairs if unquote_plus(name) not in there)
    if not added:
        return url
    between = "" if head.endswith(("?", "&")) else "&" if "?" in head else "?"
    return head + between + added + mark + fragment


def encoded(parameters: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and values as they stand in a query."""
    return [(quote(name, safe=""), quote(value, safe="")) for name, value in parameters]


def add_link_parameters(
    html: str,
    pairs: Pairs,
    *,
    skip: Callable[[str], bool] = lambda address: False,
    computed: Callable[[str], str] | None = None,
    plain: Callable[[str], bool] = lambda text: False,
    where: Callable[[str], str] = lambda text: "html",
) -> str:
    """The same text; only values of href in <a> and <area> change.

    skip      whether an address stays as it is
    computed  a token for an address that is known only when it is rendered
    plain     whether the values before a "?" cannot hold one themselves
    raises    MessageError  for a link that statements are in, where the place for parameters is not certain
    """
    edits = []
    for tag in start_tags(html):
        link = tag.get("href") if tag.name in ("a", "area") and tag.get(OPT_OUT) is None else None
        if link is None or skip(link.value.strip()):
            continue
        made = _linked(link, pairs, computed, plain, where)
        if made is not None:
            edits.append((link.start, link.end, made))
    return edited(html, edits)


def _linked(
    link: Attribute,
    pairs: Pairs,
    computed: Callable[[str], str] | None,
    plain: Callable[[str], bool],
    where: Callable[[str], str],
) -> str | None:
    """The attribute anew; None: it stays."""
    raw = link.raw.strip()
    first = token.search(raw)
    if first is None or "#" in unescape(raw[: first.start()]):
        made = with_parameters(link.value.strip(), pairs)
        return attribute("href", made) if made != link.value.strip() else None
    start = unescape(raw[: first.start()]).lower()
    if not _web(start) and not any(scheme.startswith(start) for scheme in ("http://", "https://")):
        return None
    if leaves(raw):
        return None
    if STATEMENT in raw:
        return _with_statements(link, pairs, where)
    if _web(start) and ("?" in unescape(raw).partition("#")[0] or plain(raw)):
        return attribute("href", with_parameters(link.value.strip(), pairs))
    assert computed is not None
    return attribute("href", computed(raw))


def _with_statements(link: Attribute, pairs: Pairs, where: Callable[[str], str]) -> str:
    raw = link.raw.strip()
    start = raw.index(STATEMENT)
    inside = token.sub("", unescape(raw[start : raw.rindex(STATEMENT)]))
    certain = _web(raw[:start]) and not re.search("[?#]", inside) and ("?" in raw[:start] or VALUE not in raw)
    if not certain:
        raise MessageError(
            f"{where(raw)}: link_parameters cannot tell where they go in a link with statements ({{% %}}) in it;"
            f" put the statements around the <a>, or give the <a> {OPT_OUT}"
        )
    return attribute("href", with_parameters(link.value.strip(), pairs))
