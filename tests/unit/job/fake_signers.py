"""Signers in the simulation's time."""

from __future__ import annotations

import asyncio
from typing import Any

from bulkmail.errors import JOB, MessageError


class FakeSigners:
    """Signs in virtual time: each worker takes `seconds` a message; from the `fails`-th message on it cannot."""

    def __init__(self, seconds: float = 0.001, batch: int = 4, workers: int = 2, fails: int | None = None) -> None:
        self.seconds, self.batch, self.workers, self.fails = seconds, batch, workers, fails
        self.ahead = 2 * workers * batch
        self.signed = 0
        self.in_hand: list[int] = []  # messages with the signers, at each submit
        self._busy_until = [0.0] * workers
        self._held = 0
        self.unfit = False  # the first batch is refused, and then the third of its messages
        self._singles = 0

    def submit(self, bodies: list[Any]) -> asyncio.Future[list[bytes]]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._held += len(bodies)
        self.in_hand.append(self._held)
        worker = self._busy_until.index(min(self._busy_until))
        self._busy_until[worker] = max(self._busy_until[worker], loop.time()) + self.seconds * len(bodies)
        unfit = False
        if self.unfit and bodies:
            unfit = len(self.in_hand) == 1 if len(bodies) > 1 else self._singles == 2
            self._singles += len(bodies) == 1
        loop.call_at(self._busy_until[worker], self._answer, future, len(bodies), unfit)
        return future

    def _answer(self, future: asyncio.Future[list[bytes]], count: int, unfit: bool) -> None:
        self._held -= count
        if future.cancelled():
            return
        if unfit:
            future.set_exception(MessageError("dkim: this message cannot be signed"))
            return
        self.signed += count
        if self.fails is not None and self.signed >= self.fails:
            future.set_exception(MessageError("the key is gone", scope=JOB))
        else:
            future.set_result([b"DKIM-Signature: v=1\r\n"] * count)
