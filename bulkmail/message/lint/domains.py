"""What is known of domain names without asking: whose they are, what they are for, which belong together."""

from __future__ import annotations

import ipaddress
from functools import cache
from typing import Any

# RFC 2606, 6761, 6762, 8375: names that the public DNS never has.
_LOCAL = frozenset(
    ("test", "example", "invalid", "localhost", "local", "localdomain", "internal", "lan", "home", "corp", "home.arpa")
)
_EXAMPLES = frozenset(("example.com", "example.net", "example.org"))  # RFC 2606 section 3: nobody's
_ANCESTORS = 2  # labels that two names must share to be perhaps one organization's


def is_public_name(domain: str) -> bool:
    """Whether the public DNS may have it: at least two labels, no address literal, no name kept for private use."""
    labels = domain.rstrip(".").lower().split(".")
    return (
        len(labels) > 1
        and not domain.startswith("[")
        and labels[-1] not in _LOCAL
        and ".".join(labels[-2:]) not in _LOCAL
        and not is_address(domain)
    )


def is_example(domain: str) -> bool:
    """Whether it is a name of RFC 2606 for documentation: nothing in the DNS says anything about it."""
    labels = domain.rstrip(".").lower().split(".")
    return ".".join(labels[-2:]) in _EXAMPLES or labels[-1] in ("example", "test", "invalid")


def is_local(host: str) -> bool:
    """Whether a link to it works nowhere else: this machine, a private network, a name without a dot."""
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        labels = host.rstrip(".").lower().split(".")
        return len(labels) == 1 or labels[-1] in _LOCAL - {"example", "test", "invalid"}


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@cache
def _suffixes() -> Any:
    """The Public Suffix List, or None where the extra `dns` is not installed."""
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError:
        return None
    return PublicSuffixList()


def organization(domain: str) -> str | None:
    """The domain that somebody registered (RFC 7489 section 3.2): example.co.uk of a.example.co.uk. None: not known."""
    known = _suffixes()
    if known is None:
        return None
    found = known.privatesuffix(domain.rstrip(".").lower())
    return str(found) if found else domain.rstrip(".").lower()


def aligned(one: str, other: str) -> bool | None:
    """Whether two domains are one organization's (DMARC's relaxed alignment); None: it cannot be known."""
    one, other = one.rstrip(".").lower(), other.rstrip(".").lower()
    if one == other:
        return True
    owner = organization(one)
    if owner is not None:
        return owner == organization(other)
    if one.endswith("." + other) or other.endswith("." + one):
        return True
    # Whoever shares no more than a top-level domain cannot have the same owner; siblings may (a.co.uk, b.co.uk).
    shared = 0
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        shared += 1
    return None if shared >= _ANCESTORS else False
