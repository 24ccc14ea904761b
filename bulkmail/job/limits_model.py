"""The manifest's `limits`: how fast the whole job may be, and how fast each group of recipients' domains."""

from __future__ import annotations

import importlib.util
from typing import Annotated

from pydantic import AfterValidator, Field

from bulkmail.job import adaptive_model, calendar_model
from bulkmail.job.adaptive_model import AnyAdaptive
from bulkmail.job.calendar_model import AnyWindows, RampModel
from bulkmail.job.loading import Strict
from bulkmail.job.specs import DomainLimit, LimitsSpec
from bulkmail.job.value_models import Count, RateText
from bulkmail.pool.domains import MAX_PATTERNS, is_mx, parse_patterns
from bulkmail.urlparts import quoted
from bulkmail.values import parse_dns_server

INSTALL = "needs the package dnspython: pip install 'bulkmail[dns]'"


class DomainLimits(Strict):
    """What all domains of a group together may have. Without a key: no limit of their own."""

    rate: RateText | None = Field(default=None, description="recipients per time, taken before MAIL")
    burst: Count | None = Field(default=None, description="recipients at once; default: a tenth of a second's worth")
    connections: Count | None = Field(default=None, description="messages under way at one time, each on a connection")


def _check_patterns(domains: dict[str, DomainLimits]) -> dict[str, DomainLimits]:
    found: set[str] = set()
    for key in domains:
        for pattern in parse_patterns(key, "the key", mx=True):
            if pattern in found:
                raise ValueError(f"{quoted(pattern)} is named twice, expected each domain in one group")
            if is_mx(pattern) and importlib.util.find_spec("dns") is None:
                raise ValueError(f"{quoted(pattern)} {INSTALL}")
            found.add(pattern)
    if len(found) > MAX_PATTERNS:
        raise ValueError(f"{len(found)} domains, expected at most {MAX_PATTERNS}")
    return domains


def _check_server(server: str) -> str:
    parse_dns_server(server)
    return server


class Limits(Strict):
    """Limits of the whole job, besides those of each relay."""

    rate: RateText | None = None
    burst: Count | None = Field(default=None, description="recipients at once; default: a tenth of a second's worth")
    connections: Count | None = None
    domains: Annotated[dict[str, DomainLimits], AfterValidator(_check_patterns)] = Field(
        default_factory=dict,
        description="by groups of recipients' domains; the most specific pattern holds; 'mx:host' by their MX",
        examples=[{"gmail.com,googlemail.com": {"rate": "20/s", "connections": 5}, "*": {"rate": "50/s"}}],
    )
    dns_server: Annotated[str, AfterValidator(_check_server)] | None = Field(
        default=None,
        description="asked for the MX of 'domains' in place of the system's",
        examples=["192.0.2.53", "192.0.2.53:5300"],
    )
    window: AnyWindows | None = Field(
        default=None, description="hours in which mail is sent: 'from', 'to', 'zone', 'days'"
    )
    ramp: RampModel | None = Field(default=None, description="the rate rises: 'from', 'to', 'over'")
    adaptive: AnyAdaptive = Field(default=True, description="slower where a receiver asks for it")


def spec_of(model: Limits) -> LimitsSpec:
    groups = tuple(
        DomainLimit(tuple(parse_patterns(key, "the key", mx=True)), one.rate, one.burst, one.connections)
        for key, one in model.domains.items()
    )
    return LimitsSpec(
        model.rate,
        model.connections,
        model.burst,
        groups,
        model.dns_server,
        windows=calendar_model.windows_of(model.window),
        ramp=model.ramp.spec() if model.ramp is not None else None,
        adaptive=adaptive_model.spec_of(model.adaptive),
    )
