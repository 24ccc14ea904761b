"""How often a Mailer sends a message again that no server took."""

from __future__ import annotations

import asyncio

from bulkmail.errors import ConnectionLost
from bulkmail.pool.mailer import MAX_TRIES, Mailer
from bulkmail.smtp.envelope import Envelope, Receipt
from bulkmail.wire.client import Client

LOST = ConnectionLost("gone")


class Rig:
    """A Mailer of two messages, whose transactions the test sends itself."""

    def __init__(self) -> None:
        self.mailer = Mailer("smtp://mx.example.test")
        self.pool = self.mailer._started()
        self.endings: dict[int, Receipt] = {}
        for number in range(2):
            envelope = Envelope("news@example.test", [f"u{number}@example.test"])
            self.mailer._submit(number, b"Subject: x\r\n\r\n", envelope, self._finish)

    def _finish(self, receipt: Receipt) -> None:
        self.endings[receipt.index] = receipt

    def connection_that_is_lost(self) -> None:
        """Begins the first message in the queue, has the others waiting behind it, and ends."""
        client = Client(True)
        for tx in self.mailer.take(self.pool.lanes[0], 2):
            client.push(tx, 1.0)
        client.lost(LOST, 0, 2.0)
        self.mailer.settle(self.pool.lanes[0], client.done)


def test_one_that_is_begun_has_three_tries_and_those_behind_it_have_lost_none():
    async def main():
        rig = Rig()
        for _ in range(MAX_TRIES - 1):
            rig.connection_that_is_lost()
            assert rig.endings == {}
        rig.connection_that_is_lost()
        assert list(rig.endings) == [0] and rig.endings[0].error is LOST
        for _ in range(MAX_TRIES - 1):
            rig.connection_that_is_lost()
            assert 1 not in rig.endings
        rig.connection_that_is_lost()
        assert rig.endings[1].error is LOST
        await rig.mailer.close()

    asyncio.run(main())


def test_a_pool_that_gave_up_has_no_further_tries():
    async def main():
        rig = Rig()
        rig.pool.dead = LOST
        rig.connection_that_is_lost()
        assert sorted(rig.endings) == [0, 1]

    asyncio.run(main())


def test_what_has_to_be_signed_or_routed_stays_so_when_a_server_takes_fewer_recipients_at_a_time():
    async def main():
        mailer = Mailer("smtp://mx.example.test", domains={"a.example": ["x"]}, egress={"x": {}, "y": {}})
        pool = mailer._started()
        item = (Envelope("news@example.test", ["u@example.test", "v@example.test"]), b"Subject: x\r\n\r\n")
        assert mailer._clerk.one(0, item, print) is None
        mailer._submit(0, item[1], item[0], print)
        (tx,) = mailer.take(pool.lanes[1], 1)
        mailer._regroup(tx, [1])
        assert mailer._clerk.one(0, item, print) is None
        assert mailer._clerk.one(0, (Envelope("news@example.test", ["u@example.test"]), item[1]), print) is None
        await mailer.close()

    asyncio.run(main())
