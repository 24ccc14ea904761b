"""The ledger: which recipients may be sent to, which were, and what happened. Shapes and rules; `journal` keeps them.

The protocol is the one that a ledger shared by several machines answers too. Recipients stand in chunks; a chunk has
`claimed`, a mark that only rises, and one outcome byte a recipient. A recipient may be sent to only after an `advance`
that moved `claimed` past it has returned: so each is sent to once, whatever dies when. Claimed without an outcome
after a crash is in doubt, and nothing else is.

    .  ->  D  F  S  d  ?        d  ->  m  F          ?  ->  D  F  d  m     (late evidence)     ?  ->  r  (recover only)

`m` and `r` mean that the recipient stands in a later chunk and is counted there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from bulkmail.errors import JournalError

# Outcome bytes: ASCII, so that a journal can be read with the eyes. `bytes` of length n: one a recipient.
NONE: Final = ord(".")
DELIVERED: Final = ord("D")
FAILED: Final = ord("F")
DEFERRED: Final = ord("d")  # refused for now, still in this chunk
MOVED: Final = ord("m")  # to a retry chunk
SUPPRESSED: Final = ord("S")
IN_DOUBT: Final = ord("?")
RESENT: Final = ord("r")  # was in doubt; moved to a new chunk to be sent again

OUTCOMES: Final = b".DFdmS?r"
STATE_NAMES: Final = {
    NONE: "pending",
    DELIVERED: "delivered",
    FAILED: "failed",
    DEFERRED: "deferred",
    SUPPRESSED: "suppressed",
    IN_DOUBT: "in_doubt",
}
STATES: Final = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")

POLICIES: Final = ("skip", "resend")  # for recipients in doubt when a job is resumed
FINAL_STATES: Final = ("finished", "stopped")

# Large enough that a chunk's row and its commits cost little a recipient, small enough to hold a few in memory.
CHUNK_SIZE: Final = 1000


class Fenced(JournalError):
    """Another run has taken the journal, or the chunk is not held: send nothing more of it."""


class JournalFault(JournalError):
    """The disk is full or failed. What was committed before stands; the job stops and can be resumed."""


class Pin(Protocol):
    """What holds a recipients' file to what it was: the same path, format, size in bytes, time and content."""

    @property
    def path(self) -> Any: ...
    @property
    def format(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def digest(self) -> str | None: ...


class Chunk:
    """Up to CHUNK_SIZE recipients of one route, leased to this run.

    no          its number
    n           how many recipients; a position in it is 0 .. n-1
    attempt     how many attempts its recipients have behind them
    not_before  Unix seconds; 0 if due at any time
    fence       goes back with every advance
    claimed     positions below it may have been sent to
    outcome     bytearray of n outcome bytes, the caller's to change
    """

    __slots__ = ("_rows", "attempt", "claimed", "fence", "n", "no", "not_before", "outcome", "packed", "route")

    def __init__(
        self,
        no: int,
        route: str,
        packed: bytes,
        n: int,
        *,
        attempt: int = 0,
        not_before: float = 0.0,
        fence: int = 0,
        claimed: int = 0,
        outcome: bytes | None = None,
    ) -> None:
        self.no = no
        self.route = route
        self.packed = packed
        self.n = n
        self.attempt = attempt
        self.not_before = not_before
        self.fence = fence
        self.claimed = claimed
        self.outcome = bytearray(b"." * n if outcome is None else outcome)
        self._rows: tuple[array[int], array[int]] | None = None

    def _unpacked(self) -> tuple[array[int], array[int]]:
        if self._rows is None:
            from bulkmail.job.rows import unpack_rows

            self._rows = unpack_rows(self.packed)
        return self._rows

    def forget_rows(self) -> None:
        """Unpack them again when they are asked for."""
        self._rows = None

    @property
    def numbers(self) -> array[int]:
        """1-based row numbers in the source, by position."""
        return self._unpacked()[0]

    @property
    def offsets(self) -> array[int]:
        """Byte offsets in the source, by position."""
        return self._unpacked()[1]

    def __repr__(self) -> str:
        return f"<Chunk {self.no} {self.route!r} n={self.n} claimed={self.claimed} attempt={self.attempt}>"


class NewChunk(NamedTuple):
    """Recipients that move to a chunk of their own: a later attempt."""

    route: str
    packed: bytes
    n: int
    attempt: int
    not_before: float
    from_no: int | None = None


class Trouble(NamedTuple):
    """What happened to one recipient, where it is worth a row of its own: everything but delivery.

    outcome   FAILED, DEFERRED, IN_DOUBT or SUPPRESSED
    number    row number in the source
    attempt   attempts so far, this one included; 0 if nothing was sent
    class_    what kind of failure the classifier saw, or the reason for a suppression
    reply     the server's text without its code, or the reason in words
    relay, egress   numbers from name_id; 0 is none
    time      Unix seconds when it was known
    """

    recipient: str
    number: int
    chunk: int
    position: int
    attempt: int
    outcome: int
    class_: str | None = None
    code: int | None = None
    enhanced: str | None = None
    reply: str | None = None
    relay: int = 0
    egress: int = 0
    time: float = 0.0


class Doubt(NamedTuple):
    """A recipient who may or may not have the message."""

    chunk: int
    position: int
    number: int
    offset: int


@dataclass(slots=True)
class Advance:
    """One commit: outcomes settled and claims raised, for all chunks in hand. Absolute values.

    chunks    (no, fence, claimed, outcome): all n outcome bytes
    details   (chunk no, records) as DetailBuffer.flush() gives them
    progress  totals: {"attempts", "bytes"} of the job over all its runs (counts() says where a run begins), {"relays":
              {name: {delivered, deferred, failed, connections, last_error}}} of this run; None leaves what was there
    serial    rises with each advance of a run; one that was applied already is not applied again. 0: not checked
    """

    chunks: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    details: list[tuple[int, bytes]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    retries: list[NewChunk] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    serial: int = 0


class PartChunk(NamedTuple):
    """outcome: the byte that all its recipients have, NONE, SUPPRESSED or FAILED; note: as in Filler.add_chunk."""

    route: str
    packed: bytes
    n: int
    outcome: int = NONE
    note: str | None = None


@dataclass(slots=True)
class Part:
    """Recipients of a new job that are added while others are sent to: all of a part or none.

    troubles  their `chunk` is an index in `chunks`
    place     text that says where the next part begins, for a run that goes on; None: this is the last one
    digest    of the whole source, with the last part, if it is known
    """

    chunks: list[PartChunk] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    place: str | None = None
    digest: str | None = None


def merge(batches: Sequence[Advance]) -> Advance:
    """Several advances, oldest first, as one: the newest word on each chunk, everything appended."""
    if len(batches) == 1:
        return batches[0]
    newest = {row[0]: row for batch in batches for row in batch.chunks}
    return Advance(
        chunks=list(newest.values()),
        details=[row for batch in batches for row in batch.details],
        troubles=[row for batch in batches for row in batch.troubles],
        retries=[row for batch in batches for row in batch.retries],
        progress=next((batch.progress for batch in reversed(batches) if batch.progress is not None), None),
        serial=batches[-1].serial,
    )


@dataclass(slots=True)
class Counts:
    """How many recipients are in each state; `recipients` is their sum. attempts and bytes are of all runs so far."""

    delivered: int = 0
    failed: int = 0
    deferred: int = 0
    in_doubt: int = 0
    pending: int = 0
    suppressed: int = 0
    attempts: int = 0
    bytes: int = 0

    @property
    def recipients(self) -> int:
        return self.delivered + self.failed + self.deferred + self.in_doubt + self.pending + self.suppressed

    def as_dict(self) -> dict[str, int]:
        return {"recipients": self.recipients} | asdict(self)

    def add(self, tally: Sequence[int], attempt: int, live: bool) -> None:
        """Count one chunk. tally: detail.tally() of it; attempt: the chunk's; live: whether a run holds the journal."""
        waiting, delivered, failed, deferred, _moved, suppressed, doubt, _resent, claimed = tally
        self.delivered += delivered
        self.failed += failed
        self.suppressed += suppressed
        self.in_doubt += doubt
        if live:
            waiting += claimed
        else:
            self.in_doubt += claimed
        if attempt:
            self.deferred += waiting + deferred
        else:
            self.pending += waiting
            self.deferred += deferred


class Filler(Protocol):
    """Takes the recipients of a new job."""

    def add_chunk(
        self, route: str, packed: bytes, n: int, outcome: bytes | None = None, note: str | None = None
    ) -> int:
        """Add n recipients; their chunk's number. outcome: for those decided before sending, n bytes of . S F.

        note: why the whole chunk was decided so, such as "duplicate", where no row of trouble says more.
        """
        ...

    def add_trouble(self, trouble: Trouble) -> None: ...

    def set_total(self, n: int) -> None:
        """How many recipients were added, checked against the chunks: JournalError if it is not so."""
        ...

    def set_digest(self, digest: str) -> None:
        """Of the whole source, which is known when it has been read."""
        ...


class Ledger(Protocol):
    """What a job asks of its ledger. Every method raises JournalError (a full disk: JournalFault)."""

    fence: int

    def fill(self) -> AbstractContextManager[Filler]:
        """Add the recipients, all or none: an exception inside takes everything back."""
        ...

    def add_part(self, part: Part) -> None:
        """Add some of the recipients, in place of `fill`. Others may be leased before the last part is in."""
        ...

    def lease(self, limit: int, now: float, routes: Iterable[str] | None = None) -> list[Chunk]:
        """Up to `limit` chunks that are due at `now` (Unix seconds): retries first, longest due first; then new ones.

        routes: only of these. A chunk is leased once, until it is done, released, or the run ends.
        """
        ...

    def routes(self) -> list[str]:
        """The routes that have recipients who wait."""
        ...

    def next_due(self, now: float, routes: Iterable[str] | None = None) -> float | None:
        """When the next chunk can be leased (`now` if one can already), or None if none waits."""
        ...

    def advance(self, batch: Advance) -> None:
        """Commit. Returns when it is as safe as the level promises; raises Fenced, and then nothing was changed."""
        ...

    def release(self, chunks: Iterable[tuple[int, float]]) -> None:
        """Give back leased chunks, (no, not_before) each: what of them is not claimed waits for its next lease.

        JournalError if one still has a claimed recipient without an outcome.
        """
        ...

    def late(self, outcomes: Iterable[tuple[int, int, int]], troubles: Iterable[Trouble] = ()) -> int:
        """(chunk, position, DELIVERED or FAILED): an answer that came after all. Only IN_DOUBT changes; how many did.

        troubles  why, of those who failed
        For chunks that are not leased: the one in hand is settled by its next advance.
        """
        ...

    def in_doubt(self) -> Iterator[Doubt]: ...

    def recover(self, policy: str = "skip", *, now: float = 0.0, delays: Sequence[float] = ()) -> int:
        """Settle what the last run left, before the first lease: how many recipients were in doubt.

        Claimed without an outcome becomes IN_DOUBT; what was deferred inside a chunk moves to a retry chunk, due a
        delay (seconds, by attempt, the last repeated) after it was refused. policy "skip" leaves those in doubt as
        they are; "resend" moves them to new chunks to be sent again.
        """
        ...

    def finish(self, state: str, why: str | None = None, progress: dict[str, Any] | None = None) -> None:
        """The run is over: state "finished" or "stopped"."""
        ...

    def counts(self, live: bool = True) -> Counts:
        """live: claimed recipients without an outcome count as waiting; otherwise as in doubt."""
        ...

    def name_id(self, name: str | None) -> int:
        """A small number for a relay's or egress's name, for details and troubles; 0 for None."""
        ...

    def close(self) -> None: ...


def pack(numbers: Sequence[int], offsets: Sequence[int]) -> bytes:
    from bulkmail.job.rows import pack_rows

    return pack_rows(list(numbers), list(offsets))


def unpack(packed: bytes) -> tuple[list[int], list[int]]:
    from bulkmail.job.rows import unpack_rows

    numbers, offsets = unpack_rows(packed)
    return list(numbers), list(offsets)


def check_advance(old: bytes, old_claimed: int, no: int, claimed: int, outcome: bytes) -> None:
    """Raise JournalError if an advance of chunk `no` breaks the rules at the head of this module. A caller's fault."""
    from bulkmail.job.detail import bad_step

    if len(outcome) != len(old):
        raise JournalError(f"chunk {no} has {len(old)} recipients, {len(outcome)} outcomes were given")
    if not old_claimed <= claimed <= len(old):
        raise JournalError(f"the claim of chunk {no} cannot go from {old_claimed} to {claimed} of {len(old)}")
    at = bad_step(old, outcome, claimed)
    if at >= 0:
        step = f"{chr(old[at])!r} to {chr(outcome[at])!r}"
        raise JournalError(f"recipient {at} of chunk {no} cannot go from {step} with {claimed} claimed")


def check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}, expected one of {POLICIES}")


def check_late(no: int, outcome: bytes | bytearray, position: int, byte: int) -> None:
    """Raise JournalError unless late evidence about this recipient can be taken."""
    if byte not in (DELIVERED, FAILED):
        raise JournalError(f"late evidence says delivered or failed, not {chr(byte)!r}")
    if not 0 <= position < len(outcome):
        raise JournalError(f"chunk {no} has {len(outcome)} recipients and none at {position}")


def is_done(outcome: bytes | bytearray) -> bool:
    """Nobody in the chunk waits any more."""
    return NONE not in outcome and DEFERRED not in outcome


def retry_time(last: float, attempt: int, delays: Sequence[float], now: float) -> float:
    """When attempt + 1 is due: a delay after `last`, the latest refusal (Unix seconds), but not before `now`.

    now   0 where it is not known; a refusal after it is one by a clock that was put back since
    """
    delay = delays[min(attempt, len(delays) - 1)] if delays else 0.0
    return max(now, min(last, now or last) + delay)
