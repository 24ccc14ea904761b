"""Which hosts are reached without the proxy: the rules of `no_proxy`, and whether they cover a host.

docs/egress.md has the table of forms. A host and a rule are brought to one shape before they are compared: lower case,
A-labels, no trailing dot, no IPv6 zone, and the IPv4 address for an IPv4-mapped one (RFC 4291 section 2.5.5.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from bulkmail.address import ascii_domain
from bulkmail.errors import ConfigError
from bulkmail.urlparts import as_ip, masked, parse_host, quoted

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    # A host as it is compared: an address, or a name.
    Target = IPv4Address | IPv6Address | str

# Every connection through a proxy asks each rule once, some 0.2 µs: so many cost less than a millisecond. A list that
# is longer is one of single hosts, and better said by a domain or a range.
MAX_RULES: Final = 1000
MAX_ENTRY: Final = 300  # characters: a name has 255 (RFC 1035), brackets, prefix and port come to it

EXPECTED = (
    "expected a name (relay.example, .example.com, *.example.com), an address, a range such as 10.0.0.0/8, "
    "'<local>' or '*', each with :port if need be"
)

_bracketed = re.compile(r"\[([^\]]*)\]((?:/[^:]*)?)(?::(.*))?").fullmatch
_port = re.compile(r"[0-9]{1,5}").fullmatch
_prefix_length = re.compile(r"[0-9]{1,3}").fullmatch
_short_network = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}").fullmatch
_glob = re.compile(r"[a-z0-9_.*-]+").fullmatch
_address_glob = re.compile(r"[0-9.*]+").fullmatch
_stars = re.compile(r"\*+").sub
_all_digits = re.compile(r"(?:.*\.)?[0-9]+").fullmatch


class Rule:
    """One rule; str() is a way to write it. Of the port it covers all if it names none."""

    port: int | None

    def covers(self, target: Target) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class _Everything(Rule):
    port: int | None

    def covers(self, target: Target) -> bool:
        return True

    def __str__(self) -> str:
        return _with_port("*", self.port)


@dataclass(frozen=True)
class _Local(Rule):
    """ "<local>". Windows and Chromium mean names without a dot by it, and leave out loopback without being told."""

    port: int | None

    def covers(self, target: Target) -> bool:
        if isinstance(target, str):
            return "." not in target or target.endswith(".localhost")  # RFC 6761 section 6.3
        return target.is_loopback

    def __str__(self) -> str:
        return _with_port("<local>", self.port)


@dataclass(frozen=True)
class _Name(Rule):
    """A name: itself, what is below it, or both."""

    name: str
    itself: bool
    below: bool
    port: int | None

    def covers(self, target: Target) -> bool:
        if not isinstance(target, str):
            return False
        return (self.itself and target == self.name) or (self.below and target.endswith(f".{self.name}"))

    def __str__(self) -> str:
        before = ("." if self.itself else "*.") if self.below else ""
        return _with_port(before + self.name, self.port)


@dataclass(frozen=True)
class _Glob(Rule):
    """A pattern with "*", which stands for any characters. One of digits and dots is about IPv4 addresses, no names."""

    text: str
    port: int | None
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from fnmatch import translate

        # Its groups are atomic: no pattern, a foreign variable's either, takes more than linear time for each "*".
        object.__setattr__(self, "pattern", re.compile(translate(self.text)))

    def covers(self, target: Target) -> bool:
        if isinstance(target, str) == bool(_address_glob(self.text)):
            return False
        return self.pattern.match(str(target)) is not None

    def __str__(self) -> str:
        return _with_port(self.text, self.port)


@dataclass(frozen=True)
class _Address(Rule):
    address: IPv4Address | IPv6Address
    port: int | None

    def covers(self, target: Target) -> bool:
        return target == self.address

    def __str__(self) -> str:
        return _with_port(_bare(self.address), self.port)


@dataclass(frozen=True)
class _Network(Rule):
    """A range of addresses. The only rule that may cover a name by what it resolves to."""

    network: IPv4Network | IPv6Network
    port: int | None

    def covers(self, target: Target) -> bool:
        return not isinstance(target, str) and target in self.network

    def __str__(self) -> str:
        return _with_port(f"{_bare(self.network.network_address)}/{self.network.prefixlen}", self.port)


@dataclass(frozen=True)
class NoProxy:
    """The hosts that are reached without the proxy. Hashable; false without rules. str() shows the rules."""

    rules: tuple[Rule, ...] = ()

    def covers(self, host: str, port: int) -> bool | None:
        """Whether the host is reached without the proxy; None if only its addresses could tell.

        host  a name or an address; never raises, whatever it is
        """
        target = _target(host)
        rules = [rule for rule in self.rules if rule.port in (None, port)]
        if any(rule.covers(target) for rule in rules):
            return True
        by_address = isinstance(target, str) and any(isinstance(rule, _Network) for rule in rules)
        return None if by_address else False

    def covers_addresses(self, addresses: Iterable[str], port: int) -> bool:
        """Whether one of the addresses of a name is in a range.

        Only ranges count: that a name is looked up because of one must not let other rules see more than before.
        """
        networks = [rule for rule in self.rules if isinstance(rule, _Network) and rule.port in (None, port)]
        targets = [_target(address) for address in addresses]
        return any(rule.covers(target) for rule in networks for target in targets)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def __or__(self, other: NoProxy) -> NoProxy:
        """The rules of both."""
        return NoProxy(tuple(dict.fromkeys(self.rules + other.rules)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.rules))

    def __repr__(self) -> str:
        return f"NoProxy({str(self)!r})"


def parse_no_proxy(value: object, what: str) -> NoProxy:
    """The rules of a list of strings, or of a string split at "|" or ",". Empty entries are nothing.

    raises  ConfigError  naming the entry, its place and what is expected
    """
    if isinstance(value, NoProxy):
        return value
    if isinstance(value, str):
        value = split_entries(value)
    if not isinstance(value, (list, tuple)):
        raise ConfigError(
            f"{what} is {quoted(value)}, expected a list of hosts, or a string such as '.example.com|::1'"
        )
    if len(value) > MAX_RULES:
        raise ConfigError(
            f"{what} has {len(value)} entries, expected at most {MAX_RULES}: a domain or range covers more"
        )
    rules = []
    for place, entry in enumerate(value, 1):
        if not isinstance(entry, str):
            raise ConfigError(f"{what}: entry {place} is {quoted(entry)}, {EXPECTED}")
        if entry.strip():
            rules.append(parse_rule(entry.strip(), f"{what}: entry {place}"))
    return NoProxy(tuple(dict.fromkeys(rules)))


def split_entries(text: str) -> list[str]:
    """What stands between "|" and ","; empty entries are left out."""
    return [entry.strip() for entry in re.split(r"[|,]", text) if entry.strip()]


def parse_rule(entry: str, what: str, *, names_cover_below: bool = False) -> Rule:
    """The rule that a text is.

    names_cover_below   a bare name is also about what is below it, as in curl's NO_PROXY
    raises  ConfigError "`what` is 'the entry', expected ..."
    """
    try:
        if len(entry) > MAX_ENTRY or "://" in entry or "@" in entry:
            _refuse_at_sight(entry)
        host, length, port = _pieces(entry.lower())
        return _range(host, length, port) if length is not None else _rule(host, port, names_cover_below)
    except _NoRule as reason:
        raise ConfigError(f"{what} is {_shown(entry)}{reason}") from None


class _NoRule(ValueError):
    """Why a text is no rule: the end of a sentence."""

    def __init__(self, reason: str = f", {EXPECTED}") -> None:
        super().__init__(reason)


def _refuse_at_sight(entry: str) -> NoReturn:
    if len(entry) > MAX_ENTRY:
        raise _NoRule(f", which has {len(entry)} characters; {EXPECTED}")
    raise _NoRule(f", which looks like a URL; {EXPECTED}")


def _shown(entry: str) -> str:
    """As errors show it. A URL may hold a password."""
    return quoted(masked(entry) if "://" in entry or "@" in entry else entry)


# ---- an entry taken apart


def _pieces(entry: str) -> tuple[str, str | None, int | None]:
    """Host without brackets, prefix length or None, port or None."""
    bracketed = _bracketed(entry)
    if bracketed:
        host, slash, length = (bracketed[1] + bracketed[2]).partition("/")
        if ":" not in host:
            raise _NoRule(": only an IPv6 address stands in brackets")
        return host, length if slash else None, _port_number(bracketed[3])
    host, slash, rest = entry.partition("/")
    if slash:
        length, colon, port = rest.partition(":")
        return host, length, _port_number(port if colon else None)
    if host.count(":") > 1:
        return host, None, None  # as bare IPv6 addresses are written; with a port they need brackets
    host, colon, port = host.partition(":")
    return host, None, _port_number(port if colon else None)


def _port_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not _port(text) or not 1 <= int(text) <= 65535:
        raise _NoRule(", expected a port from 1 to 65535 behind the colon")
    return int(text)


def _rule(text: str, port: int | None, names_cover_below: bool) -> Rule:
    host = _stars("*", text.rstrip("."))
    if host == "*":
        return _Everything(port)
    if host == "<local>":
        return _Local(port)
    address = _address(host)
    if address is not None:
        return _Address(address, port)
    if "*" in host.removeprefix("*.") or ("*" in host and _address_glob(host)):
        return _Glob(_checked_glob(host), port)
    if host.startswith("*."):
        return _Name(_checked_name(host[2:]), False, True, port)
    if host.startswith("."):
        return _Name(_checked_name(host[1:]), True, True, port)
    return _Name(_checked_name(host), True, names_cover_below, port)


def _range(host: str, length: str, port: int | None) -> _Network:
    """A network in CIDR form. Host bits may be set, and an IPv4 network may leave zeros out, as in 169.254/16."""
    from ipaddress import IPv6Network, ip_network

    if _short_network(host):
        host += ".0" * (3 - host.count("."))
    if not _prefix_length(length) or as_ip(host) is None:
        raise _NoRule(", expected a range such as 10.0.0.0/8 or fd00::/8")
    try:
        network = ip_network(f"{_without_zone(host)}/{length}", strict=False)
    except ValueError:
        raise _NoRule(", expected a prefix length of at most 32 for IPv4 and 128 for IPv6") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ip_network((mapped, network.prefixlen - 96))
    return _Network(network, port)


def _checked_name(text: str) -> str:
    try:
        name = parse_host(text.rstrip("."), "").rstrip(".")
    except ConfigError:
        raise _NoRule from None
    if _all_digits(name):
        raise _NoRule(", which may be a part of an address; a range is written 10.* or 10.0.0.0/8")
    return name


def _checked_glob(text: str) -> str:
    try:
        # Label by label: one with a "*" is no domain name yet.
        glob = ".".join(label if "*" in label else ascii_domain(label) for label in text.split(".")).rstrip(".")
    except ValueError:
        raise _NoRule from None
    if not _glob(glob) or ".." in glob:
        raise _NoRule
    return glob


# ---- hosts


def _target(host: str) -> Target:
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = _address(text)
    if address is not None:
        return address
    with suppress(ValueError):  # what no parser has let through: no rule can name it either
        text = ascii_domain(text)
    return text.lower().rstrip(".")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is, in the one shape in which addresses are compared."""
    address = as_ip(_without_zone(text.rstrip(".")))
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _without_zone(text: str) -> str:
    return text.partition("%")[0] if ":" in text else text


def _bare(address: IPv4Address | IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _with_port(text: str, port: int | None) -> str:
    return text if port is None else f"{text}:{port}"
