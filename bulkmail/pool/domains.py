"""Rules by the domain of a recipient: which egresses may carry mail to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bulkmail.address import ascii_domain, check_address, domain_of
from bulkmail.errors import ConfigError
from bulkmail.urlparts import listed, nearest, quoted

ELSEWHERE: Final = "*"  # the route of every domain that no rule names
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
        if pattern == ELSEWHERE:
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
        names = self.rules.get(self._map.covering(route))
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


def parse_patterns(key: object, what: str) -> list[str]:
    """The patterns of a key such as "gmail.com,googlemail.com"."""
    patterns = [part.strip() for part in key.split(",")] if isinstance(key, str) else []
    if not patterns:
        raise ConfigError(f"{what} has the key {quoted(key)}, expected domains such as 'gmail.com' or '*.example.com'")
    return [_pattern(pattern, what) for pattern in patterns]


def _pattern(text: str, what: str) -> str:
    if text == ELSEWHERE:
        return text
    below = text.startswith("*.")
    try:
        domain = domain_of(check_address(f"x@{text.removeprefix('*.').removesuffix('.')}"))
    except ValueError:
        raise ConfigError(f"{what}: {quoted(text)}, expected a domain, '*.example.com' or '*'") from None
    return f"*.{domain}" if below else domain


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
