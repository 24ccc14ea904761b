"""What list mail says about its list: List-Unsubscribe and its one click, the other List- fields, Precedence.

RFC 2369 (List- fields), RFC 8058 (one click), RFC 3834 (automatic mail).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from bulkmail.errors import RECIPIENT, ConfigError, MessageError
from bulkmail.message import headers
from bulkmail.message.spec import ListLink, ListUnsubscribe
from bulkmail.unsubscribe import Signer
from bulkmail.urlparts import legal_uri, listed, quoted

ONE_CLICK = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"  # RFC 8058 section 3.1
# Of RFC 2369 section 3; List-Unsubscribe and List-Id have keys of their own.
LIST_FIELDS = {"help": "List-Help", "subscribe": "List-Subscribe", "post": "List-Post", "owner": "List-Owner",
               "archive": "List-Archive"}  # fmt: skip
# Key -> field, and what it may say. RFC 3834 section 5: Auto-Submitted "no" is what a missing field means.
STATED = {
    "precedence": ("Precedence", ("bulk", "list", "junk")),
    "auto_submitted": ("Auto-Submitted", ("auto-generated", "auto-replied")),
}

_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:").match
_https = re.compile(r"https://[^/?#]", re.IGNORECASE).match


def parse_unsubscribe(given: ListUnsubscribe | Mapping[str, Any] | str | None) -> ListUnsubscribe | None:
    """What a caller states, as it is kept. raises  ConfigError  for a name that is none of its"""
    if given is None or isinstance(given, ListUnsubscribe):
        return given
    if isinstance(given, str):
        return ListUnsubscribe(given)
    unknown = next((name for name in given if name not in ListUnsubscribe.__slots__), None)
    if unknown is not None:
        raise ConfigError(f"list_unsubscribe: {quoted(unknown)}, expected 'url', 'mailto', 'one_click' or 'key'")
    return ListUnsubscribe(**given)


def check_unsubscribe(given: ListUnsubscribe) -> None:
    """raises  MessageError  for what does not go together"""
    if given.url is None and given.mailto is None:
        raise MessageError("list_unsubscribe: 'url' or 'mailto' is expected, found neither")
    if given.one_click and given.url is None:
        raise MessageError("list_unsubscribe: 'one_click' needs an https 'url' (RFC 8058 section 3.1)")
    if given.key is not None and given.url is None:
        raise MessageError("list_unsubscribe: 'key' signs the 'url', and there is none")


def check_url(text: str, one_click: bool) -> None:
    """A URL, or what it begins with. raises  MessageError"""
    if one_click and not text.lower().startswith("https://"):
        raise MessageError("list_unsubscribe: 'one_click' needs a url that begins with https:// (RFC 8058 section 3.1)")
    if not _scheme(text):
        raise MessageError(
            f"list_unsubscribe: {quoted(text)} has no scheme, expected a url such as https://example.com/u"
        )


def check_mailto(text: str) -> None:
    """One or several addresses, and perhaps "?subject=..." (RFC 6068). raises  MessageError"""
    addresses = re.sub(r"(?i)\Amailto:", "", text.strip()).partition("?")[0]
    for address in addresses.split(","):
        headers.checked_address(unquote(address), "list_unsubscribe.mailto", allow=True)


def check_key(key: str) -> None:
    """raises  ConfigError  without showing it"""
    Signer(key)


def finisher(given: ListUnsubscribe, *, known: bool) -> Callable[[str], str]:
    """What makes the URL that is sent of a template's text. known: the template says how it begins."""
    try:
        make = legal_uri if given.key is None else Signer(given.key).sign
    except ConfigError as error:
        raise MessageError(f"list_unsubscribe: {error}") from None

    def finish(text: str) -> str:
        if given.one_click and not _https(text):
            raise MessageError(
                f"list_unsubscribe: {quoted(text)}: 'one_click' needs a url that begins with https:// and a host",
                scope=RECIPIENT,
            )
        if not known and not _scheme(text):
            raise MessageError(f"list_unsubscribe: {quoted(text)} has no scheme", scope=RECIPIENT)
        try:
            return make(text)
        except ConfigError as error:
            raise MessageError(f"list_unsubscribe: {error}", scope=RECIPIENT) from None

    return finish


def unsubscribe_lines(given: ListUnsubscribe) -> bytes:
    """List-Unsubscribe, and List-Unsubscribe-Post. raises  MessageError"""
    check_unsubscribe(given)
    texts = []
    if given.url is not None:
        url = headers.check_value(given.url, "list_unsubscribe")
        check_url(url, given.one_click)
        texts.append(finisher(given, known=True)(url))
    if given.mailto is not None:
        mailto = headers.check_value(given.mailto, "list_unsubscribe")
        check_mailto(mailto)
        texts.append(mailto if mailto.lower().startswith("mailto:") else f"mailto:{mailto}")
    line = headers.uris("List-Unsubscribe", texts, "list_unsubscribe")
    return line + ONE_CLICK if given.one_click else line


def list_lines(fields: Mapping[str, object]) -> list[bytes]:
    """List-Help and the like, of what parse_links takes. raises  MessageError"""
    out = []
    for name, given in fields.items():
        key = f"list_{name}"
        try:
            links = parse_links(given)
        except ConfigError as error:
            raise MessageError(f"{key}: {error}") from None
        if closed(name, links):
            out.append(no_posting(links[0]))
            continue
        texts = [as_uri(headers.check_value(link.url, key), key) for link in links]
        comments = [headers.check_value(link.comment, key) for link in links]
        out.append(headers.uris(LIST_FIELDS[name], texts, key, comments))
    return out


def parse_links(given: object) -> tuple[ListLink, ...]:
    """Of a URL or an address, a `ListLink`, {"url", "comment"}, or several of these.

    raises  ConfigError  with what was found and what is expected
    """
    links = tuple(map(_link, given if isinstance(given, (list, tuple)) else [given]))
    if not links:
        raise ConfigError("an empty list, expected a URL or an address")
    return links


def _link(given: object) -> ListLink:
    if isinstance(given, ListLink):
        return given
    if isinstance(given, str):
        return ListLink(given)
    if isinstance(given, dict) and "url" in given and set(given) <= {"url", "comment"}:
        url, comment = given["url"], given.get("comment")
        if isinstance(url, str) and (comment is None or isinstance(comment, str)):
            return ListLink(url, comment or "")
    raise ConfigError(f'{quoted(given)}, expected a URL, an address, {{"url", "comment"}}, or a list of these')


def as_uri(text: str, key: str, *, whole: bool = True) -> str:
    """A URL, or mailto: and the address. whole: nothing follows. raises  MessageError"""
    if _scheme(text):
        return text
    if "@" in text or not whole:
        return f"mailto:{text}"
    raise MessageError(
        f"{key}: {quoted(text)} is neither a URL nor an address, expected such as https://example.com/help"
    )


def closed(name: str, links: Sequence[ListLink]) -> bool:
    """Whether nobody may post to the list (RFC 2369 section 3.4). raises  MessageError  for a field that is none"""
    if name not in LIST_FIELDS:
        raise MessageError(f"list_fields: {quoted(name)}, expected {listed(map(repr, LIST_FIELDS))}")
    if not links:
        raise MessageError(f"list_{name}: a URL or an address is expected, found none")
    return name == "post" and len(links) == 1 and links[0].url.strip().upper() == "NO"


def no_posting(link: ListLink) -> bytes:
    comment = headers.check_value(link.comment, "list_post")
    return b"List-Post: NO" + headers.comment(comment, len("List-Post: NO")) + b"\r\n"


def stated(key: str, value: str) -> bytes:
    """Precedence or Auto-Submitted. raises  MessageError  for a value that is none of theirs"""
    name, known = STATED[key]
    if value not in known:
        raise MessageError(f"{key}: {quoted(value)}, expected {listed(map(repr, known))}")
    return f"{name}: {value}\r\n".encode()
