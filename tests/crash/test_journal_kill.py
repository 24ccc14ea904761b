"""kill -9 at random moments of a process that hammers a journal: what was acknowledged is there, nothing half there.

The child's work follows from a seed, so the parent can do the same to the model in memory, as far as the child had
acknowledged. The journal must then be what the model is, or one commit further: that one had no time to say so.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.blobs import unpack_details
from bulkmail.job.detail import DetailBuffer, decode
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import (
    DEFERRED,
    DELIVERED,
    FAILED,
    IN_DOUBT,
    MOVED,
    NONE,
    Advance,
    Chunk,
    Ledger,
    NewChunk,
    Trouble,
    pack,
)
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.report import status
from unit.job.journal_tools import new_journal, rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")

CHUNKS, SIZE = 40, 50
OUTCOMES, WEIGHTS = [DELIVERED, FAILED, DEFERRED, IN_DOUBT, NONE], [60, 5, 10, 5, 20]
TESTS = Path(__file__).parents[1]
COMMITS = 250  # before the kill at most; the work takes some 400
LONGEST = 0.002  # seconds that the child runs on: some twenty commits


# ---- the work, the same in child and parent --------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    with ledger.fill() as filler:
        for i in range(CHUNKS):
            filler.add_chunk("ab"[i % 2], rows(1 + i * SIZE, SIZE), SIZE)
        filler.set_total(CHUNKS * SIZE)


def hammer(ledger: Ledger, seed: int, acknowledge: Callable[[], bool]) -> None:
    """Commit until all is done, or `acknowledge`, which is called after each commit, says to stop."""
    chance, hand, now = random.Random(seed), list[Chunk](), 1000.0
    while True:
        if len(hand) < 3:
            hand += ledger.lease(3 - len(hand), now)
        if not hand:
            due = ledger.next_due(now)
            if due is None:
                return
            now = due
            continue
        ledger.advance(next_advance(hand, chance, now))
        hand = [chunk for chunk in hand if b"." in chunk.outcome or b"d" in chunk.outcome]
        if not acknowledge():
            return


def next_advance(hand: list[Chunk], chance: random.Random, now: float) -> Advance:
    batch, details = Advance(), DetailBuffer()
    for chunk in hand:
        moved = []
        for i in range(chunk.claimed):
            if chunk.outcome[i] == NONE:
                chunk.outcome[i] = chance.choices(OUTCOMES, WEIGHTS)[0]
                note(chunk, i, now, batch, details)
            elif chunk.outcome[i] == DEFERRED:
                chunk.outcome[i] = MOVED
                moved.append(i)
        if moved:
            packed = pack([chunk.numbers[i] for i in moved], [chunk.offsets[i] for i in moved])
            batch.retries.append(NewChunk(chunk.route, packed, len(moved), chunk.attempt + 1, now + 60, chunk.no))
        chunk.claimed = min(chunk.n, chunk.claimed + chance.randrange(8))
        batch.chunks.append((chunk.no, chunk.fence, chunk.claimed, bytes(chunk.outcome)))
    batch.details = details.flush()
    return batch


def note(chunk: Chunk, i: int, now: float, batch: Advance, details: DetailBuffer) -> None:
    number, outcome = chunk.numbers[i], chunk.outcome[i]
    if outcome == DELIVERED:
        details.add(chunk.no, i, chunk.attempt + 1, 1, 0, now, now + 1, 250, b"250 ok %d\r\n" % number, outcome)
    elif outcome != NONE:
        address = f"user{number}@example.com"
        batch.troubles.append(Trouble(address, number, chunk.no, i, chunk.attempt + 1, outcome, "x", 450, time=now))


def child_main(path: str, seed: int, how: str, level: str) -> None:
    """Say "." after every step that has come back."""

    def acknowledge() -> bool:
        os.write(1, b".")
        return True

    if how == "resume":
        journal = Journal.open(path, level=level)
        acknowledge()
        journal.recover("resend")
    else:
        journal = new_journal(Path(path), level=level)
        acknowledge()
        fill(journal)
    acknowledge()
    hammer(journal, seed, acknowledge)


# ---- the parent ------------------------------------------------------------------------------------------------------


def run_and_kill(path: Path, seed: int, steps: int, *, how: str = "create", level: str = "process") -> int:
    """Start the child, kill it a moment after `steps` acknowledgements; how many it gave, or -1 if it had finished."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    code = f"from crash.test_journal_kill import child_main; child_main({str(path)!r}, {seed}, {how!r}, {level!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None
    said = b""
    try:
        while len(said) < steps and (part := os.read(child.stdout.fileno(), 1)):
            said += part
        time.sleep(random.Random(seed).random() * LONGEST)  # the moment is what is random: nothing to wait for
    finally:
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
        child.stdout.close()
        ended = child.wait(10)
    assert ended in (-signal.SIGKILL, 0), "the child died by itself"
    return len(said) if ended else -1


def dump(journal: Journal) -> dict[str, Any]:
    def rows_of(query: str) -> list[Any]:
        return journal._db.execute(query).fetchall()

    blobs = rows_of("SELECT blob FROM detail ORDER BY id")
    parts = [(no, part) for (blob,) in blobs for no, found in unpack_details(blob).items() for part in found]
    return {
        "chunks": rows_of("SELECT no, n, attempt, claimed, outcome FROM chunk ORDER BY no"),
        "troubles": rows_of("SELECT number, chunk, position, attempt, outcome FROM trouble ORDER BY id"),
        "details": [(no, *record) for no, part in parts for record in decode(part)],
    }


def dump_model(model: MemoryLedger) -> dict[str, Any]:
    return {
        "chunks": [(c.no, c.n, c.attempt, c.claimed, bytes(c.outcome)) for c in model.chunks.values()],
        "troubles": [(t.number, t.chunk, t.position, t.attempt, t.outcome) for t in model.troubles],
        "details": [(no, *record) for no, part in model.details for record in decode(part)],
    }


def replay(seed: int, commits: int) -> dict[str, Any]:
    """What the ledger is after so many commits."""
    model, left = MemoryLedger(), commits
    fill(model)

    def count() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    if commits:
        hammer(model, seed, count)
    return dump_model(model)


@pytest.mark.parametrize("level", ["process", "power"])
@pytest.mark.parametrize("seed", range(6))
def test_the_journal_is_what_was_acknowledged_or_one_commit_further(tmp_path: Path, seed: int, level: str) -> None:
    path = tmp_path / "news.journal"
    commits = run_and_kill(path, seed, 2 + random.Random(seed).randrange(COMMITS), level=level) - 2
    assert commits >= 0, "the work was too short"
    assert status(path)["state"] == "stopped"
    with Journal.open(path) as journal:
        found = dump(journal)
        assert found in (replay(seed, commits), replay(seed, commits + 1))
        waiting = sum(outcome[:claimed].count(b".") + outcome.count(b"?") for *_, claimed, outcome in found["chunks"])
        assert journal.recover("skip") == waiting
        assert journal.counts().recipients == CHUNKS * SIZE


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_while_the_journal_is_made_leaves_none_or_a_whole_one(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "news.journal"
    said = run_and_kill(path, 1000 + seed, seed % 2)
    if said == 0 and not path.exists():
        return
    with Journal.open(path) as journal:
        if not journal.filled:
            assert (said, journal.counts().recipients) == (1, 0)
            fill(journal)
        journal.recover("skip")
        assert journal.counts().recipients == CHUNKS * SIZE


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_every_recipient_has_one_state_and_nobody_is_lost(tmp_path: Path, seed: int) -> None:
    """Crash, resume with resend, crash, ... until it is done; claims never fall between runs."""
    path = tmp_path / "news.journal"
    run_and_kill(path, seed, 30)
    claims: dict[int, int] = {}
    for again in range(4):
        run_and_kill(path, 100 * seed + again, again * 20, how="resume")
        counts = status(path)
        assert counts["recipients"] == CHUNKS * SIZE
        with Journal.open(path) as journal:
            for no, _, _, claimed, _ in dump(journal)["chunks"]:
                assert claimed >= claims.get(no, 0)
                claims[no] = claimed
    with Journal.open(path) as journal:
        journal.recover("resend")
        hammer(journal, seed, lambda: True)
        after = journal.counts()
        assert (after.pending, after.deferred, after.recipients) == (0, 0, CHUNKS * SIZE)
