"""What is in hand: chunks of recipients by route, who of them is claimed, what is composed.

Routes that the same egresses may carry are kin: together they are claimed for what these take, a few routes at a time,
one after the other. One whose domains' limit allows nothing now is parked until it does, and costs nothing meanwhile.
Kin do not wait for each other: what is bounded is bounded for each.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from bulkmail.job.routes import Route
from bulkmail.job.settle import Hand, Work, held, waiting
from bulkmail.pool.limits import Limit
from bulkmail.wire.transaction import Transaction

# What one commit may cover, and how long claims look ahead: docs/architecture.md, "How much can be in doubt".
COMMIT_RECIPIENTS: Final = 512
AHEAD_SECONDS: Final = 0.02  # recipients are claimed for this long ahead: what two commits take
SHORT: Final = 0.5  # of what should be ready: a commit is then made for claims alone
SHORT_BESIDE: Final = 0.9  # one that is made anyhow takes claims along
SHARED_AHEAD: Final = 32  # transactions of a shared message that are claimed ahead at most
PACED_SECONDS: Final = 0.05  # what has a rate claims this much of it ahead, at least one
QUANTUM: Final = 128  # recipients of one route in a row: a claim's row in the journal is then paid for
LEASE_BELOW: Final = 2 * COMMIT_RECIPIENTS
LEASE_CHUNKS: Final = 4  # chunks in hand before their recipients run out: hides the ledger's latency
FEW_ROUTES: Final = 16  # more than these share what is leased ahead: it is bounded in all
LEASE_SECONDS: Final = 1.0  # of its rate, and no more, a route has leased
# What waits is counted so far: more than a claim may hold, and than connections are opened for at a time.
ENOUGH: Final = 2 * COMMIT_RECIPIENTS
ENOUGH_SHARED: Final = 4096  # of a shared message: transactions count
COMPOSED: Final = 128  # messages of one route of several that are composed at a time at least: reading is then paid
BOUNDLESS: Final = 1 << 40

Places = list[int]
Claim = tuple[Work, Places]


class Stock(Hand):
    """route: of its recipients; pattern: of their domains; size: how many share a transaction; limit: that of its
    domains, or None.

    works      chunks in hand, oldest first, by number
    exhausted  the ledger has no chunk of this route that is due; `due` is when it has (Unix seconds), or None
    parked     its limit allows nothing now
    kin        the routes that the same egresses may carry
    """

    kin: Kin

    def __init__(self, route: str, size: int, limit: Limit | None = None) -> None:
        super().__init__(size)
        self.route, self.limit = route, limit
        self.pattern = Route.parse(route).pattern
        self.works: dict[int, Work] = {}
        self.exhausted = False
        self.due: float | None = None
        self.parked = False
        self.excess = 0  # while it is parked: what it holds beyond one transaction

    def waiting(self) -> int:
        """Recipients of the chunks in hand that are not claimed yet."""
        return waiting(self.works)

    def under_way(self) -> int:
        return sum(work.outstanding for work in self.works.values())

    def allowed_soon(self) -> float:
        """Recipients that its domains' limit allows in the time that claims look ahead."""
        if self.limit is None or self.limit.rate is None:
            return BOUNDLESS
        return max(self.size, int(self.limit.rate * PACED_SECONDS))

    def low(self, enough: int) -> bool:
        """Whether the next chunks had better be fetched. enough: that many waiting are."""
        if self.limit is not None and self.limit.rate is not None:
            enough = min(enough, max(self.size, int(self.limit.rate * LEASE_SECONDS)))
        return not self.exhausted and self.waiting() < enough

    def claim(self, want: int) -> tuple[list[Claim], list[Work]]:
        """Claim the next `want` recipients: (what was claimed, the chunks that changed)."""
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

    def left(self) -> bool:
        """There is somebody, as far as is known, who can be sent to now."""
        return bool(self.held() or self.waiting() or not self.exhausted)

    def idle(self) -> bool:
        """Nothing is in hand that is to be sent or answered."""
        return not (self.ready or self.claimed or self.waiting() or self.under_way())


class Kin:
    """Stocks that the same lanes may carry. ahead: recipients that the signers should have.

    rota       those that have something in hand and are not parked, the one first that had its turn last
    unclaimed  those that have recipients to be claimed and may be, in the same order
    wanted     what pools asked for and did not get since the last claim, in recipients
    taken      recipients handed to pools since the last claim
    """

    def __init__(self, size: int, ahead: int) -> None:
        self.rota: OrderedDict[Stock, None] = OrderedDict()
        self.unclaimed: OrderedDict[Stock, None] = OrderedDict()
        self.wanted = self.taken = 0
        self._size, self._least = size, max(ahead, size)
        self._ahead = 0  # recipients that should be ready now
        self._bound = 0  # and may be
        self._claimed_at = 0.0

    def held(self) -> int:
        """As Stock.held(), of those that are not parked."""
        return held(self.rota)

    def short(self, of: float = SHORT) -> bool:
        """Whether more should be claimed: less than that part of what should be ready is."""
        return bool(self.wanted) or self.held() < self._ahead * of

    def claim(self, now: float, rate: float | None, most: int, *, hold: bool) -> tuple[list[Claim], list[Work]]:
        """Claim the next recipients: (what was claimed, the chunks that changed).

        rate  recipients a second that limits allow, or None
        most  recipients that may be claimed and on no connection, those of parked stocks aside
        hold  parked stocks have as much as they may: a stock with a limit gets one transaction
        """
        held = self.held()
        want = self._look_ahead(now, rate, most) - held
        if want > 0 and len(self.unclaimed) > 1:
            want = max(want, min(QUANTUM, self._bound - held))
        want = -(-want // self._size) * self._size  # whole transactions
        picked: list[Claim] = []
        changed: list[Work] = []
        quantum = max(QUANTUM, -(-want // max(1, len(self.unclaimed))))
        quantum = -(-quantum // self._size) * self._size
        while want > 0 and self.unclaimed:
            stock = next(iter(self.unclaimed))
            allowed = stock.size if hold and stock.limit is not None else stock.allowed_soon()
            claims, works = stock.claim(int(min(want, quantum, allowed - stock.held())))
            picked += claims
            changed += works
            got = sum(len(places) for _, places in claims)
            want -= got
            if not got or not stock.waiting():
                del self.unclaimed[stock]  # until something of it is taken, or leased
            else:
                self.unclaimed.move_to_end(stock)
        return picked, changed

    def _look_ahead(self, now: float, rate: float | None, most: int) -> int:
        """How many recipients should be ready: as many as the pools take in AHEAD_SECONDS, within bounds."""
        passed, self._claimed_at = max(now - self._claimed_at, 0.001), now
        bound = max(self._size, most)
        if rate is not None:
            bound = min(bound, max(self._size, int(rate * PACED_SECONDS)))
        self._bound = int(bound)
        wanted = max(self.wanted, self.taken * AHEAD_SECONDS / passed, self._least)
        self.wanted = self.taken = 0
        self._ahead = int(min(bound, wanted))
        return self._ahead


class Stocks:
    """Those of all routes of a job. ahead: recipients that the signers should have.

    most_claimed  recipients that one commit may cover: of a shared message transactions count
    low      those whose next chunks had better be fetched
    crowded  those that are parked until one of theirs has ended
    enough  recipients of one route that wait: no chunk more need be fetched; chunks: as many are fetched at a time
    """

    def __init__(self, stocks: Iterable[Stock], ahead: int = 0) -> None:
        self._all = {stock.route: stock for stock in stocks}
        self._size = max((stock.size for stock in self), default=1)
        self.most_claimed = COMMIT_RECIPIENTS if self._size == 1 else SHARED_AHEAD * self._size
        self._ahead = ahead
        self._kin: list[Kin] = []
        self._of_lane: dict[Any, list[Kin]] = {}
        self._parked: list[tuple[float, int, Stock]] = []  # a heap: until when
        self.crowded: dict[Stock, None] = {}
        self._serial = self._excess = 0
        self._busy: Stock | None = None  # the last one that was found to have something to do
        routes = max(1, len(self._all))
        self.enough = max(QUANTUM, min(LEASE_BELOW, LEASE_BELOW * FEW_ROUTES // routes))
        self.chunks = max(1, min(LEASE_CHUNKS, LEASE_CHUNKS * FEW_ROUTES // routes))
        self.low: dict[Stock, None] = dict.fromkeys(self)

    def open(self, lanes: Iterable[Any], carries: Callable[[Stock, Any], bool]) -> None:
        """Say which lane may carry what, at first and whenever that changes."""
        lanes, found = list(lanes), {}
        for stock in self:
            able = tuple(place for place, lane in enumerate(lanes) if carries(stock, lane))
            if able not in found:
                found[able] = Kin(self._size, self._ahead)
            stock.kin = found[able]
            self._join(stock)
        self._kin = list(found.values())
        self._of_lane = {
            lane: [kin for able, kin in found.items() if place in able] for place, lane in enumerate(lanes)
        }

    def __iter__(self) -> Iterator[Stock]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def of(self, work: Work) -> Stock:
        """Of the route of this chunk."""
        return self._all[work.chunk.route]

    def open_to(self, lane: Any) -> list[Kin]:
        """What a lane may carry, the one first that had its turn last."""
        return self._of_lane[lane]

    # -- what comes in

    def knows(self, route: str) -> bool:
        return route in self._all

    def include(self, stock: Stock) -> None:
        """A route that was not known; open() is to be called again."""
        self._all[stock.route] = stock

    def expect(self, route: str) -> None:
        """Chunks of this route are about to be added to the ledger."""
        self.look_again(self._all[route])

    def look_again(self, stock: Stock) -> None:
        """The ledger may have chunks of it that are due."""
        stock.exhausted, stock.due = False, None
        self.low[stock] = None

    def add(self, stock: Stock, work: Work) -> None:
        """A chunk was leased."""
        stock.works[work.no] = work
        if not stock.parked:
            stock.kin.unclaimed[stock] = None

    def drop(self, work: Work) -> None:
        """Nobody in this chunk waits any more."""
        self.of(work).works.pop(work.no, None)

    def have(self, stock: Stock) -> None:
        """Something of it is in hand that was not."""
        if not stock.parked:
            stock.kin.rota[stock] = None

    def pass_over(self, stock: Stock) -> None:
        """The others have their turn first."""
        stock.kin.rota.move_to_end(stock)

    def put_back(self, tx: Transaction) -> None:
        """Nothing of it was written: it goes first."""
        stock = self.of(tx.tag)
        stock.ready.appendleft(tx)
        self.have(stock)

    # -- what goes out

    def had_its_turn(self, stock: Stock) -> None:
        """Of it was handed to a pool what there was, or was allowed, or enough. What is composed goes first."""
        kin = stock.kin
        if not stock.in_hand():
            kin.rota.pop(stock, None)
        elif not stock.ready:
            kin.rota.move_to_end(stock)
        if stock.works and not stock.parked:
            kin.unclaimed[stock] = None

    def park(self, stock: Stock, until: float | None) -> None:
        """Its limit allows nothing before `until` (the loop's time; None: before one of its own has ended)."""
        stock.parked, stock.excess = True, max(0, stock.held() - stock.size)
        self._excess += stock.excess
        stock.kin.rota.pop(stock, None)
        stock.kin.unclaimed.pop(stock, None)
        if until is None:
            self.crowded[stock] = None
        else:
            self._serial += 1
            heapq.heappush(self._parked, (until, self._serial, stock))

    def unpark(self, now: float) -> float | None:
        """Those that may go on at `now`; when the next one may, or None."""
        while self._parked and self._parked[0][0] <= now:
            self._return(heapq.heappop(self._parked)[2])
        return self._parked[0][0] if self._parked else None

    def uncrowd(self) -> bool:
        """Those that waited for one of their own to end, and may go on; whether there are any."""
        free = [stock for stock in self.crowded if stock.limit is None or stock.limit.places() > 0]
        for stock in free:
            del self.crowded[stock]
            self._return(stock)
        return bool(free)

    def _return(self, stock: Stock) -> None:
        self._excess -= stock.excess
        stock.parked, stock.excess = False, 0
        self._join(stock)

    @staticmethod
    def _join(stock: Stock) -> None:
        """It stands with its kin for what it has."""
        if stock.parked:
            return
        if stock.in_hand():
            stock.kin.rota[stock] = None
        if stock.works:
            stock.kin.unclaimed[stock] = None

    # -- how it is

    def backlog(self, lane: Any) -> int:
        """Recipients that the lane could be given now; once that is enough, they are not counted further."""
        count, enough = 0, ENOUGH if self._size == 1 else ENOUGH_SHARED
        for kin in self._of_lane[lane]:
            for stock in kin.rota:
                count += stock.held()
                if count >= enough:
                    return count
            for stock in kin.unclaimed:
                count += int(min(stock.waiting(), stock.allowed_soon()))
                if count >= enough:
                    return count
        return count

    def take_unsent(self) -> Iterator[Claim]:
        """What is claimed and certainly not sent."""
        for stock in self:
            while stock.ready:
                tx = stock.ready.popleft()
                yield tx.tag, [tx.at] if tx.positions is None else tx.positions
            while stock.claimed:
                yield stock.claimed.popleft()

    def nothing_to_do(self) -> bool:
        """Nobody is due and nothing is under way."""
        return self._none(lambda stock: not stock.exhausted or stock.ready or stock.under_way())

    def idle(self) -> bool:
        """Nobody is due, and nothing is in hand that is to be sent or answered."""
        return self._none(lambda stock: not (stock.exhausted and stock.idle()))

    def _none(self, busy: Callable[[Stock], Any]) -> bool:
        """Whether none is busy. The one that was found last is asked first: it hardly ever is another."""
        if self._busy is not None and busy(self._busy):
            return False
        self._busy = next((stock for stock in self if busy(stock)), None)
        return self._busy is None

    def in_hand(self) -> bool:
        """Whether something is claimed and not handed to a pool."""
        for kin in self._kin:
            if kin.rota:
                return True
        return bool(self._parked or self.crowded)

    def wanting(self) -> bool:
        """Whether pools asked for more than there was."""
        return any(kin.wanted for kin in self._kin)

    # -- claims

    def claim(self, now: float, rate: float | None, beside: bool = False) -> tuple[list[Claim], list[Work]]:
        """Claim the next recipients of all kin that are short of them: (what was claimed, the chunks that changed).

        beside  a commit is made anyhow

        Together they hold no more than the bound, and one transaction for each that is parked. Half of it is each one's
        for good: one that waits for its egress leaves the others theirs.
        """
        kins = [kin for kin in self._kin if kin.rota or kin.unclaimed]
        bound = self.most_claimed
        reserve = bound // (2 * len(kins)) if len(kins) > 1 else 0
        free = bound - sum(max(kin.held(), reserve) for kin in kins)
        picked: list[Claim] = []
        changed: list[Work] = []
        for kin in kins:
            if kin.short(SHORT_BESIDE if beside else SHORT):
                own = max(kin.held(), reserve)
                claimed, touched = kin.claim(now, rate, own + max(free, 0), hold=self._excess >= bound // 2)
                picked += claimed
                changed += touched
                free -= max(0, kin.held() + sum(len(places) for _, places in claimed) - own)
        self.low |= dict.fromkeys(stock for stock in map(self.of, changed) if stock.low(self.enough))
        return picked, changed
