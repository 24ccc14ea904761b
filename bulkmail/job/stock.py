"""What of one route is in hand: chunks of its recipients, who of them is claimed, what is composed.

Routes do not wait for each other: what is bounded is bounded for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from bulkmail.job.settle import Work
from bulkmail.wire.transaction import Transaction

# What one commit may cover, and how long claims look ahead: docs/architecture.md, "How much can be in doubt".
COMMIT_RECIPIENTS: Final = 512
AHEAD_SECONDS: Final = 0.02  # recipients are claimed for this long ahead: what two commits take
SHARED_AHEAD: Final = 32  # transactions of a shared message that are claimed ahead at most
PACED_SECONDS: Final = 0.05  # a job with a rate claims this much of it ahead, at least one
LEASE_BELOW: Final = 2 * COMMIT_RECIPIENTS

Places = list[int]
Claim = tuple[Work, Places]


class Stock:
    """route: of its recipients; size: how many share a transaction; ahead: how many the signers should have.

    works      chunks in hand, oldest first, by number
    claimed    positions whose claim is committed
    signing    recipients whose message is being signed
    ready      what is composed, and signed
    exhausted  the ledger has no chunk of this route that is due; `due` is when it has (Unix seconds), or None
    wanted     what pools asked for and did not get since the last claim, in recipients
    taken      recipients handed to pools since the last claim
    """

    def __init__(self, route: str, size: int, ahead: int = 0) -> None:
        self.route, self.size = route, size
        self.works: dict[int, Work] = {}
        self.claimed: deque[Claim] = deque()
        self.ready: deque[Transaction] = deque()
        self.exhausted = False
        self.due: float | None = None
        self.wanted = self.taken = 0
        self.signing = 0
        self._least = max(ahead, size)  # recipients that should be ready at least
        self._ahead = 0  # and now
        self._claimed_at = 0.0

    def held(self) -> int:
        """Recipients that are claimed, committed, and not handed to a pool."""
        ready = sum(len(tx.rcpts) for tx in self.ready) if self.size > 1 else len(self.ready)
        return ready + self.signing + sum(len(places) for _, places in self.claimed)

    def waiting(self) -> int:
        """Recipients of the chunks in hand that are not claimed yet."""
        return sum(work.waiting() for work in self.works.values())

    def under_way(self) -> int:
        return sum(work.outstanding for work in self.works.values())

    def low(self) -> bool:
        """Whether the next chunks had better be fetched."""
        return not self.exhausted and self.waiting() < LEASE_BELOW

    def short(self) -> bool:
        """Whether more should be claimed."""
        return bool(self.wanted) or self.held() < self._ahead / 2

    def claim(self, now: float, rate: float | None, most: int) -> tuple[list[Claim], list[Work]]:
        """Claim the next recipients: (what was claimed, the chunks that changed).

        rate  recipients a second that limits allow, or None
        most  recipients that may be claimed and on no connection
        """
        want = -(-(self._look_ahead(now, rate, most) - self.held()) // self.size) * self.size  # whole transactions
        picked: list[Claim] = []
        changed = []
        for work in self.works.values():
            if want <= 0:
                break
            places = work.claim(want)
            if work.dirty:
                changed.append(work)
            if places:
                picked.append((work, places))
                want -= len(places)
        return picked, changed

    def _look_ahead(self, now: float, rate: float | None, most: int) -> int:
        """How many recipients should be ready: as many as the pools take in AHEAD_SECONDS, within bounds."""
        passed, self._claimed_at = max(now - self._claimed_at, 0.001), now
        bound = max(self.size, most)
        if rate is not None:
            bound = min(bound, max(self.size, int(rate * PACED_SECONDS)))
        wanted = max(self.wanted, self.taken * AHEAD_SECONDS / passed, self._least)
        self.wanted = self.taken = 0
        self._ahead = int(min(bound, wanted))
        return self._ahead

    def next_to_compose(self, room: int | None) -> Claim | None:
        """Claimed positions that are to be composed until `room` transactions are ready (None: all), or None.

        No sooner than they are asked for: a message is then still in the processor's cache when it is written.
        """
        if not self.claimed or (room is not None and len(self.ready) >= room):
            return None
        if room is None:
            return self.claimed.popleft()
        work, places = self.claimed.popleft()
        most = (room - len(self.ready)) * self.size
        if len(places) > most:
            self.claimed.appendleft((work, places[most:]))
        return work, places[:most]

    def left(self) -> bool:
        """There is somebody, as far as is known, who can be sent to now."""
        return bool(self.held() or self.waiting() or not self.exhausted)

    def idle(self) -> bool:
        """Nothing is in hand that is to be sent or answered."""
        return not (self.ready or self.claimed or self.waiting() or self.under_way())


def claim_for(all_of_them: Iterable[Stock], now: float, rate: float | None) -> tuple[list[Claim], list[Work]]:
    """Claim the next recipients of each route that is short of them: (what was claimed, the chunks that changed).

    Together they hold no more than the bound. Half of it is each route's for good: one that waits for its egress leaves
    the others theirs.
    """
    stocks = [stock for stock in all_of_them if stock.works or not stock.exhausted]
    size = max((stock.size for stock in stocks), default=1)
    bound = COMMIT_RECIPIENTS if size == 1 else SHARED_AHEAD * size
    reserve = bound // (2 * len(stocks)) if len(stocks) > 1 else 0
    free = bound - sum(max(stock.held(), reserve) for stock in stocks)
    picked: list[Claim] = []
    changed: list[Work] = []
    for stock in stocks:
        if stock.short():
            own = max(stock.held(), reserve)
            claimed, touched = stock.claim(now, rate, own + max(free, 0))
            picked += claimed
            changed += touched
            free -= max(0, stock.held() + sum(len(places) for _, places in claimed) - own)
    return picked, changed
