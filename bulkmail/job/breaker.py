"""A relay's circuit: whether it is given work, by how its refusals go.

Who owns what. A lane of the pool owns connections: one that cannot be opened, or carries nothing, takes its egress out
for a growing pause, and one connection is its trial. The breaker owns what is refused over connections that work: a
relay that takes them and answers 451 to everything would defer a whole list. `Relay` puts both together, `Duty`
decides who carries what, and `Failover` gives relays up.
"""

from __future__ import annotations

from typing import Final

from bulkmail.smtp.classify import classify
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import DONE, Transaction

FAILURES: Final = 20  # transactions in a row: a relay that refuses half of them gets there once in a million
FIRST_PAUSE: Final = 5.0  # seconds; doubled after each trial that fails
LONGEST_PAUSE: Final = 300.0
# What is about the recipient or the message and not about the relay or us neither counts nor proves that it works.
NEUTRAL: Final = frozenset(
    {"bad_recipient", "inactive", "mailbox_full", "mailbox", "address", "greylisted"}
    | {"too_many_recipients", "too_large", "sender"}
)

CLOSED: Final = "closed"
OPEN: Final = "open"
ON_TRIAL: Final = "on trial"


class Breaker:
    """state: CLOSED: all is well; OPEN: no work until the pause is over; ON_TRIAL: one transaction at a time.

    failures  transactions in a row that it refused
    """

    def __init__(self) -> None:
        self.state = CLOSED
        self.failures = 0
        self.pause = 0.0  # the latest, in seconds
        self._trial_out = False

    @property
    def full(self) -> bool:
        """It has failed so often that it should open."""
        return self.failures >= FAILURES

    def refused(self, kind: str) -> None:
        """A transaction was refused."""
        self._trial_out = False
        if kind not in NEUTRAL:
            self.failures += 1

    def lost(self) -> None:
        """A transaction ended with its connection: that is for the lane to judge."""
        self._trial_out = False

    def open(self) -> float:
        """No more work; how long for, in seconds."""
        self.state, self.failures, self._trial_out = OPEN, 0, False
        self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LONGEST_PAUSE)
        return self.pause

    def try_it(self) -> None:
        if self.state == OPEN:
            self.state = ON_TRIAL

    def close(self) -> None:
        """Something was taken. The next pause is a short one again."""
        self.state, self.failures, self.pause, self._trial_out = CLOSED, 0, 0.0, False

    def room(self, room: int) -> int:
        """How many of `room` transactions it may be given now."""
        if self.state == CLOSED:
            return room
        return 1 if self.state == ON_TRIAL and room and not self._trial_out else 0

    def given(self, count: int) -> None:
        self._trial_out = self.state == ON_TRIAL and count > 0


def refusal_of(tx: Transaction) -> tuple[Reply, str] | None:
    """(the reply, its kind) by which a whole transaction was refused; None: it was not, or not by a reply.

    Of several recipients' replies, one that is not about the recipient.
    """
    if tx.state != DONE or tx.error is not None:
        return None
    if tx.rejected and len(tx.rejected) == len(tx.rcpts):
        late = tx.late or ()
        replies = [(reply, "end of data" if place in late else "RCPT") for place, reply in tx.rejected.items()]
    elif tx.reply is not None and tx.reply.code >= 400:
        replies = [(tx.reply, tx.command or "")]
    else:
        return None
    found = [(reply, meaning.kind) for reply, command in replies if (meaning := classify(reply, command)) is not None]
    return next((one for one in found if one[1] not in NEUTRAL), found[0] if found else None)
