"""A journal added up: what the page of `report --format html` tells. Memory does not grow with the job.

Every part of the journal is read once, in bulk: chunks (states, domains), details (deliveries: when, how long, by which
way), troubles (refusals: when, why, by which way). Only counters are kept, and of what strangers can make many of
(domains, replies) a bounded number of them: the most frequent ones, the rest in one.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from sqlite3 import Connection
from typing import Any, Generic, TypeVar

import orjson

from bulkmail.job.blobs import unpack_details, unsqueeze
from bulkmail.job.detail import sum_deliveries, took_bounds
from bulkmail.job.ledger import DEFERRED, DELIVERED, FAILED, IN_DOUBT, MOVED, NONE, RESENT, STATES, SUPPRESSED, unpack

# Counters in hand: some 250 bytes each. A list of ten millions has some hundred thousand domains, nearly all of them
# of one or two recipients; the page shows thirty.
DOMAINS_KEPT = 20_000
REASONS_KEPT = 2_000
SECONDS_KEPT = 5_000  # bins of the time line before they are made wider
CHUNKS_AT_ONCE = 50
TROUBLES_AT_ONCE = 5_000
DETAILS_AT_ONCE = 50
MAX_EXAMPLE = 300  # characters of a reply

# Widths of the time line's bins in seconds; each divides the next.
WIDTHS = (1, 2, 10, 30, 60, 120, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800)

OUTCOME_STATES = {DELIVERED: "delivered", FAILED: "failed", DEFERRED: "deferred", IN_DOUBT: "in_doubt"}
KINDS = ("delivered", "deferred", "failed", "in_doubt")  # how an attempt can end

VariantOf = Callable[[int, str], str]
Read = Callable[[Sequence[int]], list[dict[str, Any]]]
K = TypeVar("K", bound=Hashable)


class Bounded(Generic[K]):
    """Numbers by key and column, for at most twice `most` keys; those with the least are added to `rest`.

    What was dropped and comes again begins at zero: a number is never too high, and the sums are exact.
    """

    def __init__(self, most: int, width: int) -> None:
        self._most, self._width = most, width
        self.rows: dict[K, list[int]] = {}
        self.rest = [0] * width
        self.dropped = False

    def add(self, key: K, column: int, count: int = 1) -> None:
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= 2 * self._most:
                self._drop()
            row = self.rows[key] = [0] * self._width
        row[column] += count

    def _drop(self) -> None:
        kept = heapq.nlargest(self._most, self.rows.items(), key=lambda item: sum(item[1]))
        self._add_rest(self.rows.keys() - {key for key, _ in kept})
        self.rows = dict(kept)
        self.dropped = True

    def _add_rest(self, keys: Set[K]) -> None:
        for key in keys:
            self.rest = [a + b for a, b in zip(self.rest, self.rows[key], strict=True)]

    def top(self, count: int) -> tuple[list[tuple[K, list[int]]], list[int], int]:
        """(the `count` largest, the sum of the rest, how many keys that is at least)."""
        ordered = sorted(self.rows.items(), key=lambda item: (-sum(item[1]), str(item[0])))
        rest = list(self.rest)
        for _, row in ordered[count:]:
            rest = [a + b for a, b in zip(rest, row, strict=True)]
        return ordered[:count], rest, max(len(ordered) - count, 0) + self.dropped


class TimeLine:
    """How attempts ended, by when: bins of `width` seconds, as wide as it takes to have few. KINDS are the columns."""

    def __init__(self) -> None:
        self.width = 1
        self.bins: dict[int, list[int]] = {}

    def add(self, second: int, column: int, count: int = 1) -> None:
        if len(self.bins) >= SECONDS_KEPT and self.width < WIDTHS[-1]:
            self.widen(WIDTHS[WIDTHS.index(self.width) + 1])
        self.bins.setdefault(second // self.width, [0] * len(KINDS))[column] += count

    def widen(self, width: int) -> None:
        ratio = width // self.width
        old, self.bins, self.width = self.bins, {}, width
        for place, row in old.items():
            into = self.bins.setdefault(place // ratio, [0] * len(KINDS))
            into[:] = [a + b for a, b in zip(into, row, strict=True)]

    def shown(self, most: int) -> list[tuple[int, list[int]]]:
        """(Unix second at which it begins, numbers) of every bin from the first to the last, at most `most` of them."""
        for width in WIDTHS[WIDTHS.index(self.width) :]:
            if self.bins and max(self.bins) - min(self.bins) >= most:
                self.widen(width)
        if not self.bins:
            return []
        # Weeks are the widest: a clock that was years off would make more bins than anybody wants to see.
        first, last = min(self.bins), max(self.bins)
        first = max(first, last - most + 1)
        return [(at * self.width, self.bins.get(at, [0] * len(KINDS))) for at in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why recipients were refused: the class, and the reply with what differs from one to the next left out."""

    class_: str
    code: int | None
    pattern: str


@dataclass(slots=True)
class Totals:
    """What a journal says in sum.

    states    recipients by state, as `status` counts them
    domains   by recipients' domain: a column for each of STATES
    variants  by name: a column for each of STATES; those suppressed got none
    ways      (relay, egress), names -> how attempts ended: KINDS
    reasons   a column for each of KINDS, and those suppressed
    examples  the first reply of each reason
    took      deliveries by milliseconds: took_bounds()
    """

    states: Counter[str] = field(default_factory=Counter)
    domains: Bounded[str] = field(default_factory=lambda: Bounded(DOMAINS_KEPT, len(STATES)))
    variants: dict[str, list[int]] = field(default_factory=dict)
    ways: dict[tuple[str | None, str | None], list[int]] = field(default_factory=dict)
    reasons: Bounded[Reason] = field(default_factory=lambda: Bounded(REASONS_KEPT, len(KINDS) + 1))
    examples: dict[Reason, str] = field(default_factory=dict)
    line: TimeLine = field(default_factory=TimeLine)
    took: list[int] = field(default_factory=lambda: [0] * len(took_bounds()))


def gather(db: Connection, live: bool, read: Read, variant_of: VariantOf | None = None) -> Totals:
    """Add up a journal. live: a run holds it; read: rows of the recipients' file by offset; variant_of: by number and
    address, of a job with variants."""
    totals = Totals()
    for row in _chunks(db):
        _add_chunk(totals, db, row, live, read, variant_of)
    _add_details(totals, db)
    _add_troubles(totals, db)
    return totals


# ---- chunks ----------------------------------------------------------------------------------------------------------


def _chunks(db: Connection) -> Iterator[tuple[Any, ...]]:
    """(no, attempt, claimed, note, outcome, packed) of each chunk; some at a time, so no transaction stays open."""
    no = 0
    query = (
        "SELECT no, attempt, claimed, note, outcome, packed FROM chunk JOIN chunk_rows USING (no) "
        f"WHERE no > ? ORDER BY no LIMIT {CHUNKS_AT_ONCE}"
    )
    while found := db.execute(query, (no,)).fetchall():
        yield from found
        no = found[-1][0]


def _add_chunk(
    totals: Totals, db: Connection, row: tuple[Any, ...], live: bool, read: Read, variant_of: VariantOf | None
) -> None:
    _, attempt, claimed, note, outcome, packed = row
    if not live:  # as recover() will settle it
        outcome = outcome[:claimed].replace(b".", b"?") + outcome[claimed:]
    numbers, offsets = unpack(unsqueeze(packed))
    if MOVED in outcome or RESENT in outcome:
        here = [i for i, byte in enumerate(outcome) if byte not in (MOVED, RESENT)]
        outcome = bytes([outcome[i] for i in here])
        numbers, offsets = [numbers[i] for i in here], [offsets[i] for i in here]
    emails = _emails(db, numbers, offsets, outcome, attempt, read)
    domains = [email[email.rfind("@") + 1 :].lower() for email in emails]
    for (domain, byte), count in Counter(zip(domains, outcome, strict=True)).items():
        state = _state(byte, attempt)
        totals.states[state] += count
        totals.domains.add(domain, STATES.index(state), count)
    if variant_of is not None:
        _add_variants(totals, map(variant_of, numbers, emails), outcome, attempt)
    if note:
        for byte, column in ((FAILED, KINDS.index("failed")), (SUPPRESSED, len(KINDS))):
            if count := outcome.count(byte):
                totals.reasons.add(Reason(note, None, ""), column, count)


def _add_variants(totals: Totals, names: Iterable[str], outcome: bytes, attempt: int) -> None:
    for (name, byte), count in Counter(zip(names, outcome, strict=True)).items():
        if byte != SUPPRESSED:
            row = totals.variants.setdefault(name, [0] * len(STATES))
            row[STATES.index(_state(byte, attempt))] += count


def _emails(
    db: Connection, numbers: list[int], offsets: list[int], outcome: bytes, attempt: int, read: Read
) -> list[str]:
    """The addresses; "" of a bad row, which cannot be read again."""
    told = _bad_rows(db, numbers, outcome) if FAILED in outcome and not attempt else {}
    if not told:
        return [str(row.get("email")) for row in read(offsets)]
    wanted = [offset for number, offset in zip(numbers, offsets, strict=True) if number not in told]
    rows = iter(read(wanted) if wanted else ())
    return [told[number] if number in told else str(next(rows).get("email")) for number in numbers]


def _bad_rows(db: Connection, numbers: list[int], outcome: bytes) -> dict[int, str]:
    """The addresses, "" where there is none, of those who failed before anything was sent."""
    failed = [number for number, byte in zip(numbers, outcome, strict=True) if byte == FAILED]
    query = (
        "SELECT number, recipient FROM trouble WHERE number IN (SELECT value FROM json_each(?)) "
        "AND attempt = 0 AND outcome = ?"
    )
    return dict(db.execute(query, (orjson.dumps(failed).decode(), FAILED)))


def _state(outcome: int, attempt: int) -> str:
    """The word for an outcome, by the rules of ledger.Counts.add."""
    if outcome == NONE:
        return "deferred" if attempt else "pending"
    return "suppressed" if outcome == SUPPRESSED else OUTCOME_STATES[outcome]


# ---- deliveries and refusals -----------------------------------------------------------------------------------------


def _add_details(totals: Totals, db: Connection) -> None:
    names: dict[int, str] = dict(db.execute("SELECT id, name FROM name"))
    seconds: dict[int, int] = {}
    ways: dict[tuple[int, int], int] = {}
    last = 0
    query = f"SELECT id, blob FROM detail WHERE id > ? ORDER BY id LIMIT {DETAILS_AT_ONCE}"
    while found := db.execute(query, (last,)).fetchall():
        for _, blob in found:
            for sections in unpack_details(blob).values():
                for section in sections:
                    sum_deliveries(section, seconds, ways, totals.took)
        for second, count in seconds.items():
            totals.line.add(second, 0, count)
        seconds.clear()
        last = found[-1][0]
    for (relay, egress), count in ways.items():
        _way(totals, names, relay, egress)[0] += count


def _way(totals: Totals, names: dict[int, str], relay: int, egress: int) -> list[int]:
    return totals.ways.setdefault((names.get(relay), names.get(egress)), [0] * len(KINDS))


def _add_troubles(totals: Totals, db: Connection) -> None:
    names: dict[int, str] = dict(db.execute("SELECT id, name FROM name"))
    last = 0
    query = (
        "SELECT id, outcome, attempt, class, code, reply, relay, egress, time FROM trouble "
        f"WHERE id > ? ORDER BY id LIMIT {TROUBLES_AT_ONCE}"
    )
    while found := db.execute(query, (last,)).fetchall():
        for _, outcome, attempt, class_, code, reply, relay, egress, time in found:
            suppressed = outcome == SUPPRESSED
            column = len(KINDS) if suppressed else KINDS.index(OUTCOME_STATES[outcome])
            reason = Reason(class_ or "", code, pattern(reply or ""))
            totals.reasons.add(reason, column)
            if reason not in totals.examples and len(totals.examples) < 2 * REASONS_KEPT:
                totals.examples[reason] = (reply or "")[:MAX_EXAMPLE]
            if attempt and not suppressed:
                totals.line.add(int(time), column)
                _way(totals, names, relay, egress)[column] += 1
        last = found[-1][0]


CODE = re.compile(r"\W*(?:[245]\d\d|[245]\.\d{1,3}\.\d{1,3})\W*")


@lru_cache(4096)
def pattern(reply: str) -> str:
    """A reply without what differs from one recipient or message to the next: addresses, URLs, numbers, ids."""
    return " ".join([_word(word, place) for place, word in enumerate(reply[:MAX_EXAMPLE].split())])


def _word(word: str, place: int) -> str:
    if "@" in word:
        return "‹address›"
    if "://" in word:
        return "‹url›"
    if not any(map(str.isdigit, word)) or (place < 2 and CODE.fullmatch(word)):
        return word
    return "‹…›"
