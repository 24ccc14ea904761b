"""Lists of addresses and networks, as `--deny`, `--ignore` and `--proxy-from` name them; do they hold an address?"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from typing import Final

from bulkmail.errors import ConfigError
from bulkmail.urlparts import plain_ip

EVERYTHING: Final = "*"
BITS: Final = {4: 32, 6: 128}
# Reading an address takes some microseconds; those that come again and again are proxies, and clients that send a lot.
REMEMBERED: Final = 1024

Number = tuple[int, int]  # IP version, the address as an integer


class Networks:
    """Addresses, CIDR networks and "*"; an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 one.

    entries  one text or several
    raises   ConfigError naming `option`, the entry and what is expected
    """

    def __init__(self, entries: str | Iterable[str], option: str) -> None:
        self._everything = False
        self._by_prefix: dict[tuple[int, int], set[int]] = {}  # (version, bits left off): networks without those bits
        for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, str) else [entries]:
            if entry == EVERYTHING:
                self._everything = True
            else:
                self._add(*read_network(entry, option))

    def _add(self, version: int, number: int, prefix: int) -> None:
        rest = BITS[version] - prefix
        self._by_prefix.setdefault((version, rest), set()).add(number >> rest)

    def __bool__(self) -> bool:
        return self._everything or bool(self._by_prefix)

    def __contains__(self, address: str) -> bool:
        """An address as sockets and PROXY headers give it. What is none, such as a UNIX socket's, is in "*" only."""
        if self._everything or not self._by_prefix:
            return self._everything
        known = number_of(address)
        if known is None:
            return False
        version, number = known
        return any(kind == version and number >> rest in found for (kind, rest), found in self._by_prefix.items())


def read_network(entry: object, option: str) -> tuple[int, int, int]:
    """IP version, number and prefix length. Bits behind the prefix do not matter, as in `no_proxy`."""
    try:
        if not isinstance(entry, str) or entry != entry.strip() or "%" in entry:
            raise ValueError
        host, slash, length = entry.partition("/")
        if slash and not (length.isascii() and length.isdigit()):
            raise ValueError  # ip_network takes netmasks, too
        host = host.removeprefix("[").removesuffix("]") if ":" in host else host
        network = ip_network(f"{host}{slash}{length}", strict=False)
    except ValueError:
        raise ConfigError(
            f"{option!r} is {entry!r}, expected an address, a network such as 192.0.2.0/24 or 2001:db8::/32, or '*'"
        ) from None
    first, prefix = network.network_address, network.prefixlen
    mapped = first.ipv4_mapped if isinstance(first, IPv6Address) and prefix >= 96 else None
    if mapped is not None:
        return 4, int(mapped), prefix - 96
    return first.version, int(first), prefix


@lru_cache(maxsize=REMEMBERED)
def number_of(address: str) -> Number | None:
    """None for what is no IP address; in the shape of plain_ip()."""
    found = plain_ip(address)
    return None if found is None else (found.version, int(found))


def is_loopback(address: str) -> bool:
    found = plain_ip(address)
    return found is not None and found.is_loopback
