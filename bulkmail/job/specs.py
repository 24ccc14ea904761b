"""What a manifest says, checked and resolved: plain data for the rest of the job, which never sees the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bulkmail.egress import Egress
from bulkmail.job.query import Query
from bulkmail.message.spec import MessageSpec
from bulkmail.pool.domains import Pins
from bulkmail.records import Record
from bulkmail.url import Endpoint
from bulkmail.values import Rate

if TYPE_CHECKING:
    from bulkmail.job.calendar import Window

# Those of the manifest example in the documentation; the delays span what greylisting and full mailboxes need.
RETRY_DELAYS = (60.0, 300.0, 1800.0, 7200.0)
GIVE_UP_AFTER = 86_400.0
PATIENCE = 300.0
JITTER = 0.1  # what was refused together does not come back in one moment


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RecipientsSpec(Record):
    """Where the recipients are.

    source       a file, "-" for standard input, a database's query, or the list itself: addresses (str), objects (dict)
    format       "jsonl", "csv" or "text"; None: found from the name, else from the first bytes
    bad_rows     "stop" before anything is sent, or "skip": report and go on
    deduplicate  True ignores case in the whole address, "exact" in the domain only
    suppress     lists of who gets nothing
    validate     False: sending begins before the list is read to its end
    where        an expression: whom it is false for is left out
    sample       the share of the recipients that gets the message, above 0, at most 1; None: all
    always_include   seeds, as in a list
    """

    source: Path | Literal["-"] | Query | tuple[str | dict[str, Any], ...]
    format: Literal["jsonl", "csv", "text"] | None = None
    bad_rows: Literal["stop", "skip"] = "stop"
    deduplicate: bool | Literal["exact"] = False
    suppress: tuple[Path, ...] = ()
    validate: bool = True
    where: str | None = None
    sample: Fraction | None = None
    always_include: tuple[str | dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VariantSpec(Record):
    """A variant of the message.

    weight   its share of the recipients is this among the weights of all
    message  the whole of it; keys: those that it has of its own, as the manifest calls them
    """

    name: str
    weight: float
    message: MessageSpec
    keys: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RelaySpec(Record):
    """A relay; `endpoint` holds its URL and all its options.

    egresses  the ways to it; none: the one that its options say
    pins      recipients' domains that only some of them may carry mail to
    weight    its share beside the other relays'; None: not given
    backup    used only while no other relay can carry the work
    """

    name: str
    endpoint: Endpoint
    egresses: tuple[Egress, ...] = ()
    pins: Pins | None = None
    weight: int | None = None
    backup: bool = False

    @property
    def way(self) -> Endpoint:
        """How it is reached by its first egress, or as its options say."""
        return self.egresses[0].way_to(self.endpoint) if self.egresses else self.endpoint

    @property
    def connections(self) -> int:
        return self.endpoint.options.connections


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RampSpec(Record):
    """A rate that rises in `over` seconds from `begin` to `end`, both a second."""

    begin: float
    end: float
    over: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AdaptiveSpec(Record):
    """What is done when a receiver finds us too fast; rates a second, times in seconds.

    floor, ceiling  a rate that was lowered stays between them; ceiling None: it comes back to what it was; floor None:
                    one a second, or a tenth of a lower configured rate
    decrease        what the rate is multiplied by
    recover         from nothing back to the rate that was refused
    longest_pause   however long a reply asks to wait
    """

    floor: float | None = None
    ceiling: float | None = None
    decrease: float = 0.7
    recover: float = 600.0
    longest_pause: float = 3600.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DomainLimit(Record):
    """What all domains that match `patterns` (pool.domains) may have together; None: no limit."""

    patterns: tuple[str, ...]
    rate: Rate | None = None
    burst: int | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LimitsSpec(Record):
    """Limits of the whole job; None: no limit but the relays' own."""

    rate: Rate | None = None
    connections: int | None = None
    burst: int | None = None
    domains: tuple[DomainLimit, ...] = ()
    dns_server: str | None = None  # where the MX of recipients' domains are asked for
    windows: tuple[Window, ...] = ()
    ramp: RampSpec | None = None
    adaptive: AdaptiveSpec | None = AdaptiveSpec()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClassRetry(Record):
    """Retries after one kind of refusal. delays: seconds; none: there is no second attempt."""

    delays: tuple[float, ...] = ()
    give_up_after: float | None = None  # None: as for all others


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DsnSpec(Record):
    """Delivery notifications to ask for. notify: "failure", "delay", "success" or "never"; ret: "hdrs" or "full"."""

    notify: tuple[str, ...] = ("failure",)
    ret: str = "hdrs"
    envid: bool = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RetrySpec(Record):
    """Seconds. delays: before the 2nd, 3rd... attempt; no delay left or give_up_after passed: failed.

    patience      how long all relays may be unreachable before the job stops
    jitter        share by which delays are made longer at most, at random
    classes       by the kind of refusal, in place of `delays`
    relay         by which one a retry goes: any, the one that deferred it, or another
    delays_given  the manifest has `delays`: they hold for all kinds that `classes` does not name
    """

    delays: tuple[float, ...] = RETRY_DELAYS
    give_up_after: float = GIVE_UP_AFTER
    patience: float = PATIENCE
    jitter: float = JITTER
    classes: Mapping[str, ClassRetry] = field(default_factory=dict)
    relay: Literal["any", "same", "next"] = "any"
    delays_given: bool = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StopRule(Record):
    """When a job stops before more harm is done: so many of what was attempted ended so.

    what   "failed", "deferred", "in_doubt", or a kind of refusal
    most   a count, or a share from 0 to 1 of the attempts
    after  attempts before which it says nothing
    """

    what: str
    most: int | float
    share: bool
    after: int


EVENT_NAMES = (
    *("delivered", "deferred", "failed", "in_doubt", "suppressed"),
    *("connected", "disconnected", "connect_failed", "throttled", "resumed"),
    *("started", "finished", "stopped"),
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WebhookSpec(Record):
    """Where events are posted. No repr() shows a secret, and the URL may be one.

    key      of the signatures; None: there are none
    events   names of those that are told; None: all
    batch    at most so many in one request
    every    seconds that an event waits for others at most
    timeout  seconds for the whole of one request
    """

    url: str = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    events: frozenset[str] | None = None
    batch: int = 500
    every: float = 1.0
    timeout: float = 10.0
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EventsSpec(Record):
    """Where events are told, besides the caller of Job.run()."""

    file: Path | None = None
    webhook: WebhookSpec | None = None
