"""What a job's transactions ask for of delivery notifications: NOTIFY, ORCPT, RET and ENVID (RFC 3461).

The ENVID is the local part of the Message-ID, which names job and recipient and cannot be made up by who has not seen
it. A relay that does not offer DSN gets none of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from bulkmail.job.settle import Work, ask
from bulkmail.job.specs import DsnSpec
from bulkmail.smtp.xtext import envelope_id, original_recipient
from bulkmail.wire.extensions import Ask
from bulkmail.wire.transaction import Transaction

# What stands for itself in xtext: nearly every address, and every Message-ID of ours. Quicker than encoding it.
_plain = re.compile(r"[A-Za-z0-9._@-]{1,100}").fullmatch


class Notifications:
    """message_id: (row number, address) -> Message-ID, or None where messages bring their own."""

    def __init__(self, spec: DsnSpec, message_id: Callable[[int, str], str | None] | None) -> None:
        self._mail = b" RET=" + spec.ret.upper().encode()
        self._notify = b" NOTIFY=" + ",".join(spec.notify).upper().encode()
        self._plain_rcpt = self._notify + b" ORCPT=rfc822;"
        self._message_id = message_id if spec.envid else None

    def add(self, transactions: Iterable[Transaction], work: Work, addresses: Mapping[int, str]) -> None:
        """Have them ask. addresses: of the recipients, by their places in the chunk."""
        for tx in transactions:
            places = [tx.at] if tx.positions is None else tx.positions
            first = places[0]
            envid = self._envid(work.numbers[first], addresses[first])
            ask(tx, (Ask("DSN", self._mail + envid),), [self._rcpt(addresses[place]) for place in places])

    def _envid(self, number: int, address: str) -> bytes:
        whole = (self._message_id(number, address) or "") if self._message_id else ""
        local = whole[1:].partition("@")[0]
        if _plain(local):
            return b" ENVID=" + local.encode()
        try:
            return b" ENVID=" + envelope_id(local)
        except ValueError:  # a ready message's own id may be of any form
            return b""

    def _rcpt(self, address: str) -> bytes:
        if _plain(address):
            return self._plain_rcpt + address.encode()
        try:
            return self._notify + b" ORCPT=" + original_recipient(address)
        except ValueError:  # longer than a parameter may be
            return self._notify
