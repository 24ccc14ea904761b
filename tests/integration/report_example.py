"""A journal of a job that never ran, for reports of it: some domains, two egresses, refusals of several kinds."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path

from bulkmail.job.detail import DetailBuffer
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import DEFERRED, DELIVERED, FAILED, MOVED, NONE, Advance, Chunk, NewChunk, Trouble, pack
from bulkmail.job.recipients import Source

BEGAN = 1_795_600_800.0  # 2026-11-25T10:00:00Z
SECONDS = 5400.0
RETRY_AFTER = 900.0

DOMAINS = {
    "gmail.com": 31, "yahoo.com": 11, "outlook.com": 10, "hotmail.com": 7, "gmx.de": 6, "web.de": 5, "icloud.com": 4,
    "orange.fr": 3, "comcast.net": 3, "libero.it": 2,
} | {f"company{n}.example": 0.2 for n in range(90)}  # fmt: skip
# how often, outcome, class, code, enhanced, reply
REFUSALS = [
    (90, FAILED, "bad_recipient", 550, "5.1.1", "5.1.1 <{to}>: Recipient address rejected: User unknown"),
    (30, FAILED, "mailbox_full", 552, "5.2.2", "5.2.2 <{to}>: user is over quota"),
    (9, FAILED, "blocked", 554, "5.7.1", "5.7.1 Client host [192.0.2.4] blocked, see https://bl.example/{id}"),
    (60, DEFERRED, "greylisted", 450, "4.2.0", "4.2.0 <{to}>: Greylisted, try again in {n} s"),
    (110, DEFERRED, "throttled", 421, "4.7.28", "4.7.28 Our system has detected an unusual rate of mail. {id} - gsmtp"),
]  # fmt: skip
REFUSED = 0.03


def write_example(folder: Path, recipients: int, chance: random.Random) -> Path:
    """Write the recipients' file and its journal into `folder`; the journal's path. 50 are not sent to."""
    source = folder / "subscribers.jsonl"
    chosen = chance.choices(list(DOMAINS), list(DOMAINS.values()), k=recipients)
    source.write_text("".join(f'{{"email":"reader{n}@{name}","id":{n}}}\n' for n, name in enumerate(chosen, 1)))
    path = folder / "november-news.journal"
    with Source(source) as opened:
        rows = [row for batch in opened.scan() for row in zip(batch.numbers, batch.offsets, strict=True)]
        pin = opened.pin
    meta = {"message_id_domain": "example.com", "message_id_shared": "0"}
    with Journal.create(path, job="november-news", manifest_digest="", pin=pin, meta=meta, now=BEGAN) as journal:
        _fill(journal, rows)
        _Sending(journal, chosen, chance).run()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE run SET seen_at = ?, ended = ?", (BEGAN + SECONDS + RETRY_AFTER,) * 2)
    return path


def _fill(journal: Journal, rows: list[tuple[int, int]]) -> None:
    with journal.fill() as filler:
        for at in range(0, len(rows), 1000):
            numbers, offsets = zip(*rows[at : at + 1000], strict=True)
            filler.add_chunk("*", pack(numbers, offsets), len(numbers))


class _Sending:
    def __init__(self, journal: Journal, domains: list[str], chance: random.Random) -> None:
        self.journal, self.domains, self.chance = journal, domains, chance
        self.relay = journal.name_id("main")
        self.egresses = [journal.name_id(name) for name in ("a", "b")]
        self.buffer = DetailBuffer()
        self.attempts = self.delivered = 0

    def run(self) -> None:
        count = len(self.domains)
        while chunks := self.journal.lease(1, BEGAN + SECONDS + RETRY_AFTER):
            self.chunk(chunks[0], count)
        relay = {"delivered": self.delivered, "deferred": 0, "failed": 0, "connections": 20}
        error = "421 4.7.28 Gmail has detected an unusual rate of mail from your IP address"
        relays = {"main": relay | {"last_error": error}}
        self.journal.finish("finished", None, {"attempts": self.attempts, "bytes": 21_400 * count, "relays": relays})

    def chunk(self, chunk: Chunk, count: int) -> None:
        outcome, troubles, moved = bytearray(chunk.outcome), [], []
        for place, number in enumerate(chunk.numbers):
            if not chunk.attempt and number > count - 50:
                break  # the run was stopped
            when = BEGAN + SECONDS * self._progress(number / count) + chunk.attempt * RETRY_AFTER
            egress = self.chance.choices(self.egresses, (3, 1))[0]
            self.attempts += 1
            if self.chance.random() > REFUSED:
                took = self.chance.lognormvariate(-1.9, 0.7)
                reply = b"250 2.0.0 Ok: queued as %X\r\n" % self.chance.getrandbits(40)
                self.buffer.add(
                    chunk.no, place, chunk.attempt + 1, self.relay, egress, when - took, when, 250, reply, DELIVERED
                )
                outcome[place] = DELIVERED
                self.delivered += 1
                continue
            trouble = self._refusal(chunk, place, number, egress, when)
            troubles.append(trouble)
            outcome[place] = FAILED if trouble.outcome == FAILED else MOVED
            if trouble.outcome == DEFERRED:
                moved.append((number, chunk.offsets[place]))
        claimed = outcome.index(NONE) if NONE in outcome else chunk.n
        retries = []
        if moved:
            numbers, offsets = zip(*moved, strict=True)
            retries = [NewChunk("*", pack(numbers, offsets), len(moved), chunk.attempt + 1, BEGAN, chunk.no)]
        row = (chunk.no, chunk.fence, claimed, bytes(outcome))
        self.journal.advance(Advance([row], self.buffer.flush(), troubles, retries))
        if claimed < chunk.n:
            self.journal.release([(chunk.no, BEGAN + 1e9)])

    def _progress(self, part: float) -> float:
        """Slow at first, then steady: a ramp."""
        return part**0.7

    def _refusal(self, chunk: Chunk, place: int, number: int, egress: int, when: float) -> Trouble:
        _, outcome, kind, code, enhanced, reply = self.chance.choices(REFUSALS, [row[0] for row in REFUSALS])[0]
        to = f"reader{number}@{self.domains[number - 1]}"
        text = reply.format(to=to, id=f"{self.chance.getrandbits(40):x}", n=self.chance.randint(60, 300))
        attempt = chunk.attempt + 1
        return Trouble(
            to, number, chunk.no, place, attempt, outcome, kind, code, enhanced, text, self.relay, egress, when
        )
