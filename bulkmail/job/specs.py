"""What a manifest says, checked and resolved: plain data for the rest of the job, which never sees the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bulkmail.egress import Egress
from bulkmail.pool.domains import Pins
from bulkmail.url import Endpoint
from bulkmail.values import Rate

# Those of the manifest example in the documentation; the delays span what greylisting and full mailboxes need.
RETRY_DELAYS = (60.0, 300.0, 1800.0, 7200.0)
GIVE_UP_AFTER = 86_400.0
PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class RecipientsSpec:
    """Where the recipients are.

    source       a file, "-" for standard input, or the list itself: addresses (str) and objects (dict)
    format       "jsonl", "csv" or "text"; None: found from the name, else from the first bytes
    bad_rows     "stop" before anything is sent, or "skip": report and go on
    deduplicate  True ignores case in the whole address, "exact" in the domain only
    suppress     text files, an address or a domain a line
    """

    source: Path | Literal["-"] | tuple[str | dict[str, Any], ...]
    format: Literal["jsonl", "csv", "text"] | None = None
    bad_rows: Literal["stop", "skip"] = "stop"
    deduplicate: bool | Literal["exact"] = False
    suppress: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RelaySpec:
    """A relay; `endpoint` holds its URL and all its options.

    egresses  the ways to it; none: the one that its options say
    pins      recipients' domains that only some of them may carry mail to
    """

    name: str
    endpoint: Endpoint
    egresses: tuple[Egress, ...] = ()
    pins: Pins | None = None

    @property
    def way(self) -> Endpoint:
        """How it is reached by its first egress, or as its options say."""
        return self.egresses[0].way_to(self.endpoint) if self.egresses else self.endpoint

    @property
    def connections(self) -> int:
        return self.endpoint.options.connections


@dataclass(frozen=True, slots=True)
class LimitsSpec:
    """Limits of the whole job; None: no limit but the relays' own."""

    rate: Rate | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """Seconds. delays: before the 2nd, 3rd... attempt; no delay left or give_up_after passed: failed.

    patience: how long all relays may be unreachable before the job stops.
    """

    delays: tuple[float, ...] = RETRY_DELAYS
    give_up_after: float = GIVE_UP_AFTER
    patience: float = PATIENCE
