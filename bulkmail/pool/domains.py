"""Rules by the domain of a recipient: which egresses may carry mail to it, which limits hold for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bulkmail.address import ascii_domain, check_address, domain_of
from bulkmail.errors import ConfigError
from bulkmail.urlparts import listed, nearest, quoted

ELSEWHERE: Final = "*"  # the route of every domain that no rule names
MX: Final = "mx:"  # before the name of a host that takes a domain's mail
MAX_PATTERNS: Final = 1000  # each may become a queue and chunks of its own; lists of domains are not what this is for
REMEMBERED: Final = 4096  # domains whose route is kept at hand; the big receivers are few


class DomainMap:
    """Patterns of domains. The most specific one that a domain matches is its route.

    patterns  "gmail.com" that domain; "*.example.com" what is below; "*" every other one. Lower case, A-labels.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = frozenset(patterns)
        self._found: dict[str, str] = {}

    def route(self, domain: str) -> str:
        """The pattern for a domain (any case, A- or U-labels), or ELSEWHERE."""
        if not self.patterns:
            return ELSEWHERE
        found = self._found.get(domain)
        if found is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            found = self._found[domain] = self._look(domain)
        return found

    def covering(self, pattern: str) -> str:
        """The pattern here that holds for all that another pattern matches, or ELSEWHERE."""
        if pattern == ELSEWHERE or pattern in self.patterns:
            return pattern
        below = pattern.startswith("*.")
        return self._above(pattern.removeprefix("*.")) if below else self.route(pattern)

    def _above(self, rest: str) -> str:
        while rest:
            if f"*.{rest}" in self.patterns:
                return f"*.{rest}"
            rest = rest.partition(".")[2]
        return ELSEWHERE

    def _look(self, domain: str) -> str:
        try:
            name = ascii_domain(domain.rstrip(".")).lower()
        except ValueError:
            return ELSEWHERE
        return name if name in self.patterns else self._above(name.partition(".")[2])


class LimitMap:
    """Patterns of limits: those of DomainMap, and "mx:example.com" for domains whose mail goes to that host or below.

    A domain's own pattern comes first, then that of its MX, then "*". A route may name both (`joined`).
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = list(patterns)
        self.patterns = frozenset(patterns)
        self.by_domain = DomainMap(pattern for pattern in patterns if not is_mx(pattern))
        hosts = [pattern.removeprefix(MX) for pattern in patterns if is_mx(pattern)]
        self._hosts = DomainMap(name for host in hosts for name in (host, f"*.{host}"))

    def covering(self, route: str) -> str:
        """The pattern that holds for a route, or ELSEWHERE."""
        mx, pattern = parted(route)
        found = self.by_domain.covering(pattern)
        return found if found != ELSEWHERE or mx is None else self.of_host(mx.removeprefix(MX)) or ELSEWHERE

    def of_host(self, host: str) -> str | None:
        """The most specific pattern "mx:..." that an MX host matches."""
        found = self._hosts.route(host)
        return None if found == ELSEWHERE else MX + found.removeprefix("*.")


def is_mx(pattern: str) -> bool:
    return pattern.startswith(MX)


def joined(mx: str, pattern: str) -> str:
    """The route of domains with a limit by their MX: "mx:google.com", or "mx:google.com/example.com" if a relay's
    rules name them too."""
    return mx if pattern == ELSEWHERE else f"{mx}/{pattern}"


def parted(route: str) -> tuple[str | None, str]:
    """("mx:..." or None, pattern of domains) of a route."""
    if not is_mx(route):
        return None, route
    mx, _, pattern = route.partition("/")
    return mx, pattern or ELSEWHERE


class Pins:
    """Recipients' domains that only some egresses may carry mail to.

    rules   names of egresses by pattern; ELSEWHERE for the domains that no other pattern matches
    """

    def __init__(self, rules: Mapping[str, tuple[str, ...]]) -> None:
        self.rules = {pattern: frozenset(names) for pattern, names in rules.items()}
        self._map = DomainMap(self.rules)

    def route(self, address: bytes) -> str:
        """The route of a recipient."""
        return self._map.route(address.rpartition(b"@")[2].decode())

    def allows(self, route: str, egress: str | None) -> bool:
        """Whether this egress may carry mail of a route. It may be a pattern of other rules: what covers it counts."""
        names = self.rules.get(self._map.covering(parted(route)[1]))
        return names is None or egress in names


def parse_pins(value: object, what: str, egresses: Iterable[str]) -> Pins:
    """{"gmail.com,googlemail.com": ["a"], "*.example.com": "b", "*": ["a", "b"]}; egresses: the names there are.

    raises  ConfigError
    """
    known = list(egresses)
    if not isinstance(value, Mapping):
        raise ConfigError(f'{what} is {quoted(value)}, expected an object such as {{"gmail.com": ["a"]}}')
    rules: dict[str, tuple[str, ...]] = {}
    for key, names in value.items():
        for pattern in parse_patterns(key, what):
            if pattern in rules:
                raise ConfigError(f"{what}: {quoted(pattern)} is named twice")
            rules[pattern] = _names(names, f"{what} {quoted(key)}", known)
    if len(rules) > MAX_PATTERNS:
        raise ConfigError(f"{what} has {len(rules)} domains, expected at most {MAX_PATTERNS}")
    return Pins(rules)


def parse_patterns(key: object, what: str, *, mx: bool = False) -> list[str]:
    """The patterns of a key such as "gmail.com,googlemail.com". mx: "mx:google.com" may be one of them.

    raises  ConfigError
    """
    patterns = [part.strip() for part in key.split(",")] if isinstance(key, str) else []
    if not patterns:
        raise ConfigError(f"{what} has the key {quoted(key)}, expected domains such as 'gmail.com' or '*.example.com'")
    return [_mx(pattern, what) if mx and is_mx(pattern.lower()) else _pattern(pattern, what) for pattern in patterns]


def _pattern(text: str, what: str) -> str:
    if text == ELSEWHERE:
        return text
    below = text.startswith("*.")
    try:
        domain = _domain(text.removeprefix("*."))
    except ValueError:
        raise ConfigError(f"{what}: {quoted(text)}, expected a domain, '*.example.com' or '*'") from None
    return f"*.{domain}" if below else domain


def _mx(text: str, what: str) -> str:
    try:
        name = _domain(text[len(MX) :].strip())
    except ValueError:
        name = "["
    if name.startswith("["):
        raise ConfigError(
            f"{what}: {quoted(text)}, expected a mail server's name or what is above it: 'mx:example.com'"
        )
    return MX + name


def _domain(text: str) -> str:
    return domain_of(check_address(f"x@{text.removesuffix('.')}"))


def _names(value: object, what: str, known: list[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if not names:
        raise ConfigError(f"{what} is {quoted(value)}, expected names of egresses")
    for name in names:
        if name not in known:
            there = listed(map(quoted, known)) if known else "none"
            hint = nearest(name, known) if isinstance(name, str) else ""
            raise ConfigError(f"{what}: there is no egress {quoted(name)} here ({there}){hint}")
    return tuple(names)
