"""Email addresses: what may stand in an envelope, and "Ann <ann@example.com>" taken apart.

Sources: RFC 5321 sections 4.1.2 and 4.5.3.1 (grammar and sizes), RFC 6531 (UTF-8), RFC 5891 (domain names in other
scripts). Every refusal is a ValueError whose text is one sentence with the address and the reason.
"""

from __future__ import annotations

import re

MAX_LOCAL = 64  # octets, RFC 5321 section 4.5.3.1.1
MAX_ADDRESS = 254  # octets: a path is 256 with its angle brackets, section 4.5.3.1.3
MAX_DOMAIN = 255  # octets, section 4.5.3.1.2
MAX_LABEL = 63  # octets, RFC 1035 section 2.3.4
MAX_TYPED = 4 * MAX_ADDRESS  # characters looked at: a name in another script may shrink when it is mapped to A-labels
MAX_MAILBOX = 4096  # characters of "name <address>"; a header value of ours is never longer

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = rf"(?!-)[A-Za-z0-9-]{{1,{MAX_LABEL}}}+(?<!-)"

# What nearly every address of a list is. It decides "yes" only; a "no" is decided and explained by _check_fully.
_plain = re.compile(rf"[{_ATEXT}]++(?:\.[{_ATEXT}]++)*+@(?:{_LABEL}\.)*+(?=[A-Za-z]){_LABEL}").fullmatch

# The ASCII that is not atext; all of Unicode beyond ASCII is, by RFC 6531 section 3.3.
_NOT_ATEXT = r'\x00-\x20"(),.:;<>@\[\\\]\x7f'
_dot_atom = re.compile(rf"[^{_NOT_ATEXT}]++(?:\.[^{_NOT_ATEXT}]++)*+").fullmatch
_not_in_local = re.compile(rf"(?!\.)[{_NOT_ATEXT}]").search
_quoted_local = re.compile(r'"(?:[^"\\]|\\.)*+"').match
_label = re.compile(_LABEL).fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search
_lone_surrogate = re.compile("[\ud800-\udfff]").search

_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_angle_form = re.compile(rf'((?:{_QUOTED}|[^"<>])*+)<((?:{_QUOTED}|[^"<>])*+)>').fullmatch
_name_piece = re.compile(rf'({_QUOTED})|[^"]++').finditer
_escaped = re.compile(r"\\(.)").sub


def check_address(text: str) -> str:
    """The address as it goes into MAIL or RCPT.

    Outer white space is removed and a domain in another script becomes its A-label form (the only changes); a local
    part in another script stays and needs a server with SMTPUTF8. Accepts quoted local parts and address literals.

    raises  ValueError  with the reason; also for what is not a str
    """
    try:
        if _plain(text) is not None and len(text) <= MAX_ADDRESS and text.index("@") <= MAX_LOCAL:
            return text
    except TypeError:
        raise ValueError(f"an address must be text, not {type(text).__name__}") from None
    return _check_fully(text)


def parse_mailbox(text: str) -> tuple[str, str]:
    """(display name, address) of "Ann <ann@example.com>", `"Doe, Ann" <...>` or "ann@example.com" (name "").

    raises  ValueError  for anything else: several addresses, a line break, an address that check_address refuses
    """
    if not isinstance(text, str):
        raise ValueError(f"an address must be text, not {type(text).__name__}")
    stripped = text.strip()
    if len(stripped) > MAX_MAILBOX:
        raise ValueError(f"an address with a name has at most {MAX_MAILBOX} characters, not {len(stripped)}")
    if not stripped.endswith(">"):
        return "", check_address(stripped)
    found = _angle_form(stripped)
    if found is None:
        raise _refused(stripped, "expected: Name <address>")
    return _display_name(stripped, found[1]), check_address(found[2])


def address_bytes(addr: str) -> bytes:
    """A checked address as it is written on the wire: ASCII, or UTF-8 where the local part needs it."""
    return addr.encode()


def domain_of(addr: str) -> str:
    """The domain of a checked address, in lower case; an address literal keeps its brackets."""
    return addr[addr.rindex("@") + 1 :].lower()


def ascii_domain(domain: str) -> str:
    """A domain name as A-labels ("bücher.example" -> "xn--bcher-kva.example").

    By IDNA 2008 with the mapping of UTS 46: the standard library's codec is IDNA 2003, which sends mail for "faß.de"
    to the other domain "fass.de".

    raises  ValueError  with the reason
    """
    if domain.isascii():
        return domain
    import idna  # only lists with such domains pay for its tables

    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{_shown(domain)} is not a domain name: {error}") from None


def _check_fully(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("the address is empty")
    if len(text) > MAX_TYPED:
        raise _refused(text, f"it has {len(text)} characters, an address has at most {MAX_ADDRESS} bytes")
    _refuse_characters(text)
    local, domain = _split(text)
    _check_local(text, local)
    domain = _checked_domain(text, domain)
    size = len(local.encode()) + 1 + len(domain)
    if size > MAX_ADDRESS:
        raise _refused(text, f"it has {size} bytes, an address has at most {MAX_ADDRESS}")
    return f"{local}@{domain}"


def _refuse_characters(text: str) -> None:
    if _control(text):
        raise _refused(text, "it has a control character or line break")
    if text.isascii():
        return
    if _lone_surrogate(text):
        raise _refused(text, "it is not valid Unicode (a lone surrogate)")
    from unicodedata import category

    for character in text:
        # Spaces and invisible characters come with text copied from web pages; no such mailbox exists.
        if category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") and character != " ":
            raise _refused(text, f"it has the invisible character U+{ord(character):04X}")


def _split(text: str) -> tuple[str, str]:
    if text.startswith('"'):
        quoted = _quoted_local(text)
        if quoted is None:
            raise _refused(text, "its opening quote is never closed")
        local, rest = quoted[0], text[quoted.end() :]
        if not rest.startswith("@"):
            raise _refused(text, "after the closing quote an @ is expected")
        return local, rest[1:]
    if text.startswith("@"):
        # RFC 5321 section 4.1.1.3 and appendix C: source routes must not be sent.
        raise _refused(text, "nothing stands before its @" if ":" not in text else "source routes are not supported")
    local, at, domain = text.partition("@")
    if not at:
        raise _refused(text, "it has no @")
    if "@" in domain:
        raise _refused(text, "it has more than one @")
    return local, domain


def _check_local(text: str, local: str) -> None:
    if len(local.encode()) > MAX_LOCAL:
        raise _refused(text, f"the part before the @ has more than {MAX_LOCAL} bytes")
    if local.startswith('"') or _dot_atom(local):
        return
    wrong = _not_in_local(local)
    if wrong is None:
        raise _refused(text, "a dot before the @ stands first, last or beside another")
    what = "a space" if wrong[0] == " " else repr(wrong[0])
    raise _refused(text, f"{what} is not allowed before the @ outside quotes")


def _checked_domain(text: str, domain: str) -> str:
    if not domain:
        raise _refused(text, "nothing stands after its @")
    if domain.startswith("["):
        return _checked_literal(text, domain)
    try:
        domain = ascii_domain(domain)
    except ValueError as error:
        raise _refused(text, str(error)) from None
    if len(domain) > MAX_DOMAIN:
        raise _refused(text, f"its domain has more than {MAX_DOMAIN} bytes")
    labels = domain.split(".")
    for label in labels:
        if not _label(label):
            raise _refused(text, _why_no_label(label))
    if labels[-1].isdigit():
        raise _refused(text, "an IP address stands in brackets, as in user@[192.0.2.1]")
    return domain


def _why_no_label(label: str) -> str:
    if not label:
        return "a dot of its domain stands first, last or beside another"
    if len(label) > MAX_LABEL:
        return f"a part of its domain has more than {MAX_LABEL} characters"
    if label.startswith("-") or label.endswith("-"):
        return f"the part {label!r} of its domain begins or ends with a hyphen"
    return f"the part {label!r} of its domain has other characters than letters, digits and hyphens"


def _checked_literal(text: str, domain: str) -> str:
    from ipaddress import IPv4Address, IPv6Address

    inner = domain[1:-1]
    try:
        if not domain.endswith("]") or "%" in inner:
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            IPv6Address(inner[5:])
        else:
            IPv4Address(inner)
    except ValueError:
        raise _refused(text, "an address literal is [192.0.2.1] or [IPv6:2001:db8::1]") from None
    return domain


def _display_name(text: str, name: str) -> str:
    if _control(name.replace("\t", " ")):
        raise _refused(text, "the name has a control character or line break")
    if _lone_surrogate(name):
        raise _refused(text, "the name is not valid Unicode (a lone surrogate)")
    parts = []
    for piece in _name_piece(name):
        if piece[1]:
            parts.append(_escaped(r"\1", piece[1][1:-1]))
        elif "@" in piece[0] and "," in piece[0]:
            raise _refused(text, "one address is expected, this looks like several")
        else:
            parts.append(piece[0])
    return " ".join("".join(parts).split())


def _refused(text: str, reason: str) -> ValueError:
    return ValueError(f"{_shown(text)} is not an email address: {reason}")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...") if not text.isprintable() else repr(text[:100])
