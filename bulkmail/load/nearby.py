"""Whether a host may be put under load without being asked twice: this machine, and private networks."""

from __future__ import annotations

from bulkmail.errors import ResolveError, TimedOut
from bulkmail.net.resolve import resolve
from bulkmail.url import Endpoint
from bulkmail.urlparts import plain_ip


async def nearby(endpoint: Endpoint) -> bool:
    """Whether every address of the endpoint is of this machine or a private network (RFC 1918, 4193 and the like).

    Behind a proxy a name may lead elsewhere than here; one that does not resolve here is far.

    raises  ResolveError, TimedOut  where the name has to be resolved here anyway
    """
    if endpoint.path is not None:
        return True
    try:
        found = await resolve(endpoint.host, endpoint.port, timeout=endpoint.options.dns_timeout)
    except (ResolveError, TimedOut):
        if endpoint.options.proxy is None:
            raise
        return False
    return all(private(str(address)) for address in found)


def private(text: str) -> bool:
    """Whether an IP address is of this machine, of a private network, or for benchmarks (RFC 2544)."""
    address = plain_ip(text)
    return address is not None and (address.is_private or address.is_loopback or address.is_link_local)
