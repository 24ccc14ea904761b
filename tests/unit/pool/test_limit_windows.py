"""What a limit promises on the wire: in any T seconds at most rate x T + burst, whatever waits in sessions meanwhile.

A plain model of a scheduler and its sessions: transactions are handed out by `reserve`, wait for any time, and then
have their MAIL written or are taken back, in any order; rates change in between. The same walks by the million:
`python tests/unit/pool/test_limit_windows.py SECONDS`.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time

import pytest

from bulkmail.job.settle import Hand
from bulkmail.wire.client import Client
from bulkmail.wire.limit import Limit, reserve
from bulkmail.wire.transaction import Transaction

WALKS = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "100")) * 10
STEPS = 60
BODY = b"x\r\n.\r\n"


class Walk:
    """One random schedule over several limits, as those of a job, a relay, an egress and a group of domains."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = self.random.choice([1.0, 1000.0, 1e6])
        self.limits = [self.limit() for _ in range(self.random.randint(1, 4))]
        # of each limit: (when, recipients) that left; (from when, rate, burst)
        self.left: dict[Limit, list[tuple[float, int]]] = {limit: [] for limit in self.limits}
        self.rates = {limit: [(self.now, limit.rate, limit.burst)] for limit in self.limits}
        self.clients = [self.client() for _ in range(self.random.randint(1, 4))]
        self.sent: list[Transaction] = []

    def limit(self) -> Limit:
        rate = self.random.choice([0.5, 3.0, 10.0, 19.0, 20.0, 45.0, 100.0, 300.0])
        return Limit(rate, self.random.choice([None, None, 1, 2, 5, 30]), self.random.choice([0, 0, 0, 3]))

    def client(self) -> Client:
        return Client(self.random.random() < 0.8, None, self.random.random() < 0.3)

    def run(self) -> None:
        for _ in range(STEPS):
            self.now += self.random.choice([0.0, 0.0, 0.001, 0.01, self.random.random(), 5 * self.random.random()])
            self.random.choice([self.take, self.take, self.take, self.answer, self.answer, self.recall, self.change])()
            self.note()
        self.check()

    def take(self) -> None:
        """As the scheduler does it: some limits, some transactions; those at once go to sessions that write at once."""
        client = self.random.choice(self.clients)
        at_once = int(client.begins_at_once())
        limits = tuple(self.random.sample(self.limits, self.random.randint(1, len(self.limits))))
        each = self.random.choice([1, 1, 1, min(limit.burst for limit in limits)])
        count = reserve(limits, self.random.randint(1, 40), each, self.now, at_once)
        hand = Hand(each)
        hand.ready.extend(Transaction(b"a@a.test", [b"b@b.test"] * each, BODY) for _ in range(count))
        taken: list[Transaction] = []
        hand.hand_out(taken, count, limits)
        for tx in taken:
            tx.at, tx.positions = 0, limits
            self.sent.append(tx)
            client.push(tx, self.now)

    def answer(self) -> None:
        """A reply to everything that was written, whatever it was."""
        client = self.random.choice(self.clients)
        written = client.take_output()
        if written is None:
            return
        data = written if isinstance(written, bytes) else b"".join(written)
        for line in data.split(b"\r\n")[:-1]:
            if line.startswith((b"MAIL", b"RCPT", b"RSET", b"BDAT", b".")):
                client.feed(b"250 ok\r\n", self.now)
            elif line.startswith(b"DATA"):
                client.feed(b"354 go\r\n", self.now)
        self.note()

    def recall(self) -> None:
        self.random.choice(self.clients).take_back()

    def change(self) -> None:
        limit = self.random.choice(self.limits)
        rate = self.random.choice([0.0, 0.0, 1.0, 20.0, 150.0])
        if self.random.random() < 0.5:
            limit.change(rate or 2.0, self.now, self.random.choice([None, 1, 7]))
        else:
            limit.cap("window", self.random.choice([rate, None]), self.now)
        if limit.rate is not None and self.rates[limit][-1][1:] != (limit.rate, limit.burst):
            for client in self.clients:  # as the scheduler does when less is allowed
                client.take_back()
        self.rates[limit].append((self.now, limit.rate, limit.burst))

    def note(self) -> None:
        for tx in self.sent:
            if tx.mail_at > 0:
                tx.at = 1
                for limit in tx.positions:
                    assert limit.rate != 0, "something left by a limit that is closed"
                    self.left[limit].append((tx.mail_at, len(tx.rcpts)))
        self.sent = [tx for tx in self.sent if tx.at == 0]

    def check(self) -> None:
        for limit, left in self.left.items():
            left.sort()
            for first in range(len(left)):
                total = 0
                for at, count in left[first:]:
                    total += count
                    bound = self.allowed(limit, left[first][0], at)
                    assert total <= bound + 1e-6 + bound * 1e-7, (total, bound, limit)

    def allowed(self, limit: Limit, start: float, end: float) -> float:
        """The integral of the rate, and the largest burst that held in the window."""
        total, largest = 0.0, 0
        spans = self.rates[limit]
        for (since, rate, burst), (until, _, _) in zip(spans, [*spans[1:], (math.inf, 0, 0)], strict=True):
            if until < start or since > end:
                continue
            largest = max(largest, burst)
            total += (rate or 0.0) * max(0.0, min(until, end) - max(since, start))
        return total + largest


@pytest.mark.parametrize("part", range(4))
def test_no_window_has_more_than_the_rate_and_the_burst(part):
    for seed in range(part * WALKS, (part + 1) * WALKS):
        Walk(seed).run()


def test_nothing_is_reserved_or_under_way_when_all_have_their_end():
    for seed in range(WALKS):
        walk = Walk(seed)
        walk.run()
        for client in walk.clients:
            client.take_back()
            client.lost(ConnectionError("gone"), 0, walk.now)
        assert all((limit.reserved, limit.under_way) == (0, 0) for limit in walk.limits), seed


def test_what_is_taken_back_has_not_left():
    limit, client = Limit(10.0, 4), Client(True)
    hand = Hand(1)
    hand.ready.extend(Transaction(b"a@a.test", [b"b@b.test"], BODY) for _ in range(3))
    taken: list[Transaction] = []
    assert reserve((limit,), 3, 1, 5.0, 1) == 3
    hand.hand_out(taken, 3, (limit,))
    for tx in taken:
        client.push(tx, 5.0)
    assert limit.reserved == 2 and limit.under_way == 3 and limit.room(5.0) == 1
    assert client.take_back() == taken[1:]
    assert limit.reserved == 0 and limit.under_way == 1 and limit.room(5.0) == 3


def test_of_a_burst_of_one_nothing_waits_in_a_session():
    assert reserve((Limit(5.0),), 10, 1, 1.0, 0) == 0
    assert reserve((Limit(5.0),), 10, 1, 1.0, 3) == 1


def test_half_of_the_burst_may_wait_in_sessions():
    limit = Limit(100.0)
    assert reserve((limit,), 100, 1, 1.0, 0) == 5
    assert reserve((limit,), 100, 1, 1.0, 0) == 0
    assert reserve((limit,), 100, 1, 1.0, 2) == 2


def test_a_number_of_transactions_under_way_is_kept():
    limit = Limit(None, None, 3)
    assert reserve((limit,), 10, 1, 1.0, 10) == 3
    assert reserve((limit,), 1, 1, 2.0, 1) == 0 and limit.places() == 0


def test_the_least_of_several_caps_holds_and_each_takes_its_own_away():
    limit = Limit(100.0)
    assert limit.cap("ramp", 10.0, 1.0) and limit.rate == 10.0 and limit.burst == 1
    assert not limit.cap("adaptive", 50.0, 1.0) and limit.rate == 10.0
    assert not limit.cap("ramp", None, 1.0) and limit.rate == 50.0
    assert limit.change(20.0, 1.0) and limit.rate == 20.0
    assert limit.caps() == {"own": 20.0, "adaptive": 50.0}


def test_a_closed_limit_lets_nothing_leave_and_says_how_long():
    limit = Limit(10.0)
    limit.cap("window", 0, 5.0, until=3605.0)
    assert limit.room(6.0) == 0 and limit.grant(1, 6.0) == 0 and reserve((limit,), 1, 1, 6.0, 1) == 0
    assert limit.wait(1605.0) == 2000.0
    limit.cap("stopped", 0, 6.0)
    assert limit.wait(1605.0) == math.inf
    assert not limit.cap("stopped", None, 7.0) and not limit.cap("window", None, 3605.0)
    assert limit.grant(5, 3605.0) == 1


if __name__ == "__main__":
    until, seed = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    first = seed
    while time.monotonic() < until:
        for _ in range(100):
            Walk(seed).run()
            seed += 1
    print(f"{seed - first} schedules of {STEPS} steps, no window above its bound")
