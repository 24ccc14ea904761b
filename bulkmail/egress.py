"""Egresses: the ways by which a relay is reached, by a proxy or from an address of this machine, each with limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bulkmail.errors import ConfigError
from bulkmail.proxyurl import Chain, parse_proxy
from bulkmail.records import Record
from bulkmail.url import Endpoint
from bulkmail.urlparts import nearest, quoted
from bulkmail.values import Rate, parse_local_address, parse_rate, whole_number

DIRECT: Final = "direct"  # in place of a URL: by no proxy
OWN_KEYS: Final = ("local_address", "max_connections", "name", "rate", "weight")
PROXY_KEYS: Final = ("ca_file", "headers", "proxy", "server_name", "timeout")
MAX_NAME: Final = 100  # characters; it stands in every event and in the journal
# A network of 256 addresses; each costs a look at every batch and a line in the journal's figures at every commit.
MAX_EGRESSES: Final = 256


@dataclass(frozen=True, eq=False, repr=False)
class Egress(Record):
    """One way out. Hashable. Build it with parse_egress, which checks; this does not.

    name             how receipts, events, journal and report call it
    proxy            the proxies that it goes through; None: none
    local_address    the source address or interface; None: as the relay's option has it
    weight           its share beside the others of a relay
    max_connections  of a relay at a time; None: as many as the relay may have
    rate             recipients per time; None: no limit of its own
    """

    name: str
    proxy: Chain | None = None
    local_address: str | None = None
    weight: int = 1
    max_connections: int | None = None
    rate: Rate | None = None

    def way_to(self, endpoint: Endpoint) -> Endpoint:
        """The relay, reached by this egress."""
        options = endpoint.options
        local = self.local_address or options.local_address
        return replace(endpoint, options=replace(options, proxy=self.proxy, local_address=local))


def parse_egress(value: object, what: str, name: str | None = None) -> Egress:
    """An egress from a proxy's URL, a chain of them, "direct", or an object with any of OWN_KEYS and PROXY_KEYS.

    name    if it is known; else the object's, or one made of what it is
    raises  ConfigError
    """
    if isinstance(value, Egress):
        return value if name is None else replace(value, name=name)
    if not isinstance(value, Mapping):
        chain = None if value == DIRECT else parse_proxy(value, what)
        return Egress(name or _shown(chain, None), chain)
    own = {key: value[key] for key in OWN_KEYS if value.get(key) is not None}
    rest = {key: item for key, item in value.items() if key not in OWN_KEYS}
    _check_keys(rest, what)
    chain = None
    if rest and rest != {"proxy": DIRECT}:
        chain = parse_proxy(rest if len(rest) > 1 else rest["proxy"], what)
    local = parse_local_address(own["local_address"], f"{what}: 'local_address'") if "local_address" in own else None
    return Egress(
        name or _name(own.get("name"), what) or _shown(chain, local),
        chain,
        local,
        whole_number(1)(own.get("weight", 1), f"{what}: 'weight'"),
        whole_number(1)(own["max_connections"], f"{what}: 'max_connections'") if "max_connections" in own else None,
        parse_rate(own["rate"], f"{what}: 'rate'") if "rate" in own else None,
    )


def is_egress(proxy: object) -> bool:
    """Whether the value of option 'proxy' says more than a proxy can: then it is the one egress of its relay."""
    return isinstance(proxy, Mapping) and bool(proxy.keys() & set(OWN_KEYS))


def parse_egresses(value: object, what: str) -> tuple[Egress, ...]:
    """Several: a list of them, an object of them by name, or a single one.

    raises  ConfigError, also for two of the same name
    """
    if isinstance(value, Mapping) and not value.keys() & {*OWN_KEYS, *PROXY_KEYS}:
        found = [parse_egress(one, f"{what} {quoted(name)}", _name(name, what)) for name, one in value.items()]
    elif isinstance(value, (list, tuple)) and not isinstance(value, Chain):
        found = [parse_egress(one, f"{what} {place}") for place, one in enumerate(value, 1)]
    else:
        found = [parse_egress(value, what)]
    if not 1 <= len(found) <= MAX_EGRESSES:
        raise ConfigError(f"{what} has {len(found)} egresses, expected 1 to {MAX_EGRESSES}")
    names = [egress.name for egress in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{what}: two are called {quoted(twice)}, expected a name of its own for each")
    return tuple(found)


def check_ways(endpoint: Endpoint, egresses: tuple[Egress, ...]) -> None:
    """Raise ConfigError unless the relay can be reached by these."""
    if egresses and endpoint.options.proxy is not None:
        raise ConfigError(f"{endpoint}: 'proxy' and 'egress' are given, expected one of them")
    if egresses and endpoint.path is not None:
        raise ConfigError(f"{endpoint}: a socket of this machine has no egress")


def is_name(text: str) -> bool:
    return 1 <= len(text) <= MAX_NAME and text.isprintable()


def _name(value: object, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_name(value):
        raise ConfigError(f"{what}: the name {quoted(value)}, expected 1 to {MAX_NAME} printable characters")
    return value


def _check_keys(rest: Mapping[object, object], what: str) -> None:
    for key in rest:
        if key not in PROXY_KEYS:
            known = [*OWN_KEYS, *PROXY_KEYS]
            raise ConfigError(f"{what}: unknown key {quoted(key)}{nearest(str(key), known)}")
    if rest and "proxy" not in rest:
        raise ConfigError(f"{what}: {quoted(next(iter(rest)))} is given without 'proxy'")


def _shown(chain: Chain | None, local: str | None) -> str:
    return " from ".join(filter(None, (str(chain) if chain else "", local or ""))) or DIRECT
