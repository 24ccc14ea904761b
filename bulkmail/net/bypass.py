"""Whether a host is reached without the proxy (`no_proxy`), decided before anything is dialled."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bulkmail.errors import ResolveError, TimedOut
from bulkmail.net.resolve import resolve
from bulkmail.net.steps import OnStep, unwatched
from bulkmail.url import Endpoint

if TYPE_CHECKING:
    from bulkmail.noproxy import NoProxy


async def routed(endpoint: Endpoint, on_step: OnStep = unwatched) -> Endpoint:
    """The endpoint as it is reached: without its proxy where no_proxy covers the host.

    What is decided by the proxy further on (does the target count as loopback, what the egress is called, what would
    help against a failure) so sees what is true of this connection.
    """
    options = endpoint.options
    if not options.proxy or not options.no_proxy:
        return endpoint
    if not await bypassed(options.no_proxy, endpoint.host, endpoint.port, options.dns_timeout, on_step):
        return endpoint
    direct = dataclasses.replace(endpoint, options=dataclasses.replace(options, proxy=None))
    on_step("bypass", {"endpoint": direct})
    return direct


async def bypassed(no_proxy: NoProxy, host: str, port: int, dns_timeout: float, on_step: OnStep = unwatched) -> bool:
    """Whether the rules cover the host. It is looked up only where a range alone could tell.

    A name that does not resolve here in time is not covered: the proxy may know it.
    """
    covered = no_proxy.covers(host, port)
    if covered is not None:
        return covered
    on_step("dns", None)
    try:
        addresses = [str(address) for address in await resolve(host, port, timeout=dns_timeout)]
    except (ResolveError, TimedOut):
        addresses = []
    on_step("dns", {"host": host, "addresses": addresses})
    return no_proxy.covers_addresses(addresses, port)
