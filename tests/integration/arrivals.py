"""When recipients came, as the server saw it: what tests of rates look at."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict


class Arrivals:
    """Hooks of a sink. by: when RCPT came, by "job", client address and recipient's domain; late: how late the loop was
    at most."""

    def __init__(self) -> None:
        self.by: dict[str, list[float]] = defaultdict(list)
        self.late = 0.0

    def on_rcpt(self, session, address, parameters):
        for key in ("job", session.remote_address, address.rpartition("@")[2]):
            self.by[key].append(time.monotonic())

    async def watch(self):
        while True:
            due = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            self.late = max(self.late, time.monotonic() - due)
