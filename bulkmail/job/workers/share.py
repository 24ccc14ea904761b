"""How many workers a job can use, and what each may do: limits stay exact, because each is divided among them.

A rate, its burst and a number of connections are divided. The limit of a group of domains is not: one worker has the
group's recipients, and the whole of its limit. So a job has no more workers than the least of its limits has parts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from bulkmail.egress import Egress
from bulkmail.job.manifest import Manifest
from bulkmail.job.pacing import shares_of
from bulkmail.job.specs import AdaptiveSpec, LimitsSpec, RampSpec, RelaySpec
from bulkmail.job.variants import AnyMessage
from bulkmail.message.dkim_keys import ADVISED_BITS, RSA
from bulkmail.pool.limits import BURST_SECONDS
from bulkmail.values import MOST_WORKERS, Rate

# Recipients of a job for each worker: fewer are sent in the time that another process takes to start.
RECIPIENTS_EACH: Final = 2000
# A second, of a limit: one worker carries this whatever is signed (RSA-4096 apart). Shares of a slow job would end at
# different times, and the last worker would send at its share of the rate alone.
RATE_EACH: Final = 500.0
# Cores that one process keeps busy with RSA signatures, made by processes beside it: on a message it spends a sixth of
# what a signature takes. As many workers would make fewer of them: each has a scheduler of its own to run beside.
SIGNING_CORES: Final = 6


class Bound(NamedTuple):
    """No more workers than this, and why."""

    most: int
    why: str


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def how_many(manifest: Manifest, compiled: AnyMessage, recipients: int | None) -> Bound:
    """How many workers a run has; why: not as many as were wanted, or "".

    recipients  that wait; None: the list is still read
    """
    wanted = manifest.workers
    if wanted == "auto":
        wanted = 1 if cores() <= SIGNING_CORES and _signs_by_rsa(compiled) else cores()
    if wanted == 1:
        return Bound(1, "")
    least = min(_bounds(manifest, compiled, recipients), key=lambda bound: bound.most)
    return least if least.most < wanted else Bound(wanted, "")


def _signs_by_rsa(compiled: AnyMessage) -> bool:
    """Whether the signature of each message takes most of its time."""
    keys = compiled.signer.keys if compiled.signer is not None and not compiled.shared else []
    return any(key.algorithm == RSA and key.bits >= ADVISED_BITS for key in keys)


def _bounds(manifest: Manifest, compiled: AnyMessage, recipients: int | None) -> Iterator[Bound]:
    yield Bound(MOST_WORKERS, f"a run has {MOST_WORKERS} at most")
    if recipients is not None:
        yield Bound(max(1, recipients // RECIPIENTS_EACH), f"{recipients:,} recipients are soon sent to")
    if sys.platform == "win32" or not sys.executable or getattr(sys, "frozen", False):
        yield Bound(1, "no process can be started that gets a socket from this one")
    if compiled.signer is not None and any(key.der is None for key in compiled.signer.keys):
        yield Bound(1, "a key that is a function stays in its process")
    for relay, connections in zip(manifest.relays, _connections(manifest), strict=True):
        yield Bound(connections, f"relay {relay.name} has {connections} connections")
        if relay.endpoint.options.wire_log:
            yield Bound(1, "one process writes 'wire_log'")
        yield from _of_rate(relay.endpoint.options.rate, None, f"relay {relay.name}")
        for way in relay.egresses:
            if way.max_connections is not None:
                yield Bound(way.max_connections, f"egress {way.name} has {way.max_connections} connections")
            yield from _of_rate(way.rate, None, f"egress {way.name}")
    yield from _of_rate(manifest.limits.rate, manifest.limits.burst, "the job")
    ramp = manifest.limits.ramp
    if ramp is not None:
        yield from _of_burst(ramp.begin * BURST_SECONDS, "the ramp's first rate")


def _of_rate(rate: Rate | None, burst: int | None, whose: str) -> Iterator[Bound]:
    if rate is not None:
        yield Bound(max(1, int(rate.per_second / RATE_EACH)), f"the rate of {whose} is {rate}")
        yield from _of_burst(rate.per_second * BURST_SECONDS if burst is None else burst, whose)


def _of_burst(burst: float, whose: str) -> Iterator[Bound]:
    """Each worker has a burst of one at least."""
    yield Bound(max(1, int(burst)), f"the burst of {whose} is {max(1, int(burst))}")


def _connections(manifest: Manifest) -> list[int]:
    """Of each relay, as the job's are dealt out."""
    return shares_of(manifest.limits.connections, [relay.connections for relay in manifest.relays])


# ---- the part of one worker ------------------------------------------------------------------------------------------


def share_of(manifest: Manifest, workers: int, index: int) -> Manifest:
    """The manifest of one of so many workers, whose index is from 0."""
    relays = tuple(
        _relay(relay, connections, workers, index)
        for relay, connections in zip(manifest.relays, _connections(manifest), strict=True)
    )
    limits = _limits(manifest, [relay.connections for relay in relays], workers, index)
    return replace(manifest, relays=relays, limits=limits, events=None, workers=1)


def part_of(count: int, workers: int, index: int) -> int:
    """The parts of all workers add up to the count."""
    return count // workers + (index < count % workers)


def rate_of(rate: Rate | None, workers: int) -> Rate | None:
    return rate if rate is None else replace(rate, count=rate.count / workers)


def _relay(relay: RelaySpec, connections: int, workers: int, index: int) -> RelaySpec:
    options = relay.endpoint.options
    options = replace(options, connections=part_of(connections, workers, index), rate=rate_of(options.rate, workers))
    egresses = tuple(_egress(way, workers, index) for way in relay.egresses)
    return replace(relay, endpoint=replace(relay.endpoint, options=options), egresses=egresses)


def _egress(way: Egress, workers: int, index: int) -> Egress:
    most = way.max_connections
    return replace(
        way,
        rate=rate_of(way.rate, workers),
        max_connections=most if most is None else part_of(most, workers, index),
    )


def _limits(manifest: Manifest, mine: list[int], workers: int, index: int) -> LimitsSpec:
    """mine: the connections of its relays. A burst without a rate says nothing."""
    limits = manifest.limits
    total, wanted = limits.connections, sum(relay.connections for relay in manifest.relays)
    if total is not None:
        total = part_of(total, workers, index) if total >= wanted else sum(mine)
    return replace(
        limits,
        rate=rate_of(limits.rate, workers),
        burst=limits.burst if limits.burst is None else max(1, limits.burst // workers),
        connections=total,
        ramp=_ramp(limits.ramp, workers),
        adaptive=_adaptive(limits.adaptive, workers),
    )


def _ramp(ramp: RampSpec | None, workers: int) -> RampSpec | None:
    return ramp if ramp is None else replace(ramp, begin=ramp.begin / workers, end=ramp.end / workers)


def _adaptive(spec: AdaptiveSpec | None, workers: int) -> AdaptiveSpec | None:
    if spec is None:
        return None
    floor, ceiling = spec.floor, spec.ceiling
    return replace(
        spec,
        floor=floor if floor is None else floor / workers,
        ceiling=ceiling if ceiling is None else ceiling / workers,
    )
