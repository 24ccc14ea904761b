"""Which routes a manifest's recipients have: by the patterns of domains that its relays and limits name."""

from __future__ import annotations

from bulkmail.job.manifest import Manifest
from bulkmail.job.mx import MxRoutes
from bulkmail.pool.domains import DomainMap, LimitMap, is_mx


def patterns_of(manifest: Manifest) -> frozenset[str]:
    """The patterns whose recipients have chunks of their own."""
    pins = [relay.pins.rules for relay in manifest.relays if relay.pins]
    groups = [group.patterns for group in manifest.limits.domains]
    return frozenset(pattern for patterns in [*pins, *groups] for pattern in patterns)


def routes_of(manifest: Manifest) -> DomainMap | MxRoutes:
    """For filling a journal. Where patterns are by MX, it is to be closed.

    raises  ConfigError  they are, and there is no DNS server
    """
    patterns = patterns_of(manifest)
    by_name = DomainMap(pattern for pattern in patterns if not is_mx(pattern))
    if len(by_name.patterns) == len(patterns):
        return by_name
    limits = LimitMap(pattern for group in manifest.limits.domains for pattern in group.patterns)
    return MxRoutes(by_name, limits, manifest.limits.dns_server)
