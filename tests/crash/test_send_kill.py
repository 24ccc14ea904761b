"""kill -9 in the middle of a job: nobody is lost, nobody is sent to twice, and in doubt is only what may be.

The truth is what a server that knows nothing of us wrote down. Incident each test answers: a mailer that marked a batch
as sent before it was, and lost it; or sent it again after a restart; or could not go on at all.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.stock import COMMIT_RECIPIENTS, SHARED_AHEAD
from integration.cli_program import bulkmail, start

RECIPIENTS = 20_000
CONNECTIONS = 20
# What a connection holds at most: a window that waits (session.pyx, MAX_WINDOW) and two transactions under way.
HELD = 16 + 2
# docs/architecture.md, "How much can be in doubt": what the connections hold and what one commit claims.
MOST_IN_DOUBT = CONNECTIONS * HELD + COMMIT_RECIPIENTS
SECONDS = 60.0


class Sink:
    """A recording sink that runs; what it took is counted as its log grows."""

    def __init__(self, folder: Path, *seed: str) -> None:
        """seed: of its faults; none without it."""
        self._path = folder / "taken.log"
        self._path.touch()
        self._read = 0
        self.taken: Counter[str] = Counter()
        program = Path(__file__).with_name("recording_sink.py")
        self.process = subprocess.Popen([sys.executable, program, self._path, *seed], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def look(self) -> int:
        """How many recipients have the message by now."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        self.taken.update(whole.decode().split())
        return sum(self.taken.values())

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    running = Sink(tmp_path)
    yield running
    running.end()


def write_job(folder: Path, port: int, **more: Any) -> Path:
    with (folder / "recipients.jsonl").open("w") as file:
        for i in range(RECIPIENTS):
            file.write(json.dumps({"email": f"user{i}@example.test", "name": f"Name {i}"}) + "\n")
    text = "Dear {{ name }},\n" + "words " * 200
    manifest = {
        "job": "kill",
        "message": {"from": "news@example.com", "subject": "Hello {{ name }}", "text": text},
        "recipients": "recipients.jsonl",
        "relays": [{"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": CONNECTIONS}],
        "journal": "kill.journal",
        **more,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


def send(manifest: Path, *options: str) -> subprocess.Popen[str]:
    return start("send", manifest, "--json", *options, cwd=manifest.parent)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The summary of a run that gets to its end."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 1), err
    return json.loads(out)


def kill_when(process: subprocess.Popen[str], condition: Any) -> None:
    """kill -9 as soon as `condition()` holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the condition did not come about"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def status(journal: Path) -> dict[str, Any]:
    done = bulkmail("status", journal, "--json", cwd=journal.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def states(journal: Path, recipients: int = RECIPIENTS) -> dict[str, str]:
    """Address -> state, each once, from `bulkmail report`."""
    done = bulkmail("report", journal, cwd=journal.parent)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == recipients
    found = {row["recipient"]: row["state"] for row in rows}
    assert len(found) == recipients
    return found


def account(sink: Sink, summary: dict[str, Any], journal: Path) -> None:
    """Every recipient against the truth: nobody twice, nobody called delivered who is not, nobody lost."""
    sink.look()
    assert max(sink.taken.values()) == 1, "somebody was sent to twice"
    assert summary["delivered"] + summary["in_doubt"] == RECIPIENTS == summary["recipients"]
    said = states(journal)
    assert Counter(said.values()) == {state: summary[state] for state in ("delivered", "in_doubt") if summary[state]}
    for address, state in said.items():
        assert state == "in_doubt" or sink.taken[address] == 1, f"{address} is called delivered and is not"
    assert set(sink.taken) <= set(said)


@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_lost_and_nobody_is_sent_to_twice(tmp_path, sink, seed):
    """Two kills at random moments at full speed, then a run to the end."""
    manifest, journal = write_job(tmp_path, sink.port), tmp_path / "kill.journal"
    doubt, options = [0], []
    for kill in sorted(random.Random(seed).sample(range(200, RECIPIENTS - 4000), 2)):
        kill_when(send(manifest, *options), lambda kill=kill: sink.look() >= kill)
        doubt.append(status(journal)["in_doubt"])
        assert doubt[-1] - doubt[-2] <= MOST_IN_DOUBT
        options = ["--resume"]
    summary = finish(send(manifest, "--resume"))
    assert summary["in_doubt"] == doubt[-1]
    account(sink, summary, journal)
    print(f"in doubt after each kill: {[b - a for a, b in itertools.pairwise(doubt)]}, allowed {MOST_IN_DOUBT}")


@pytest.mark.parametrize("seed", range(3))
def test_a_relay_on_a_bad_day_and_kills_together(tmp_path, seed):
    """Connections drop, recipients are refused for now or for good, replies are lost; and then the mailer is killed."""
    sink = Sink(tmp_path, str(seed))
    try:
        retry = {"delays": ["100ms", "300ms", "1s"], "patience": "20s"}
        manifest, journal = write_job(tmp_path, sink.port, retry=retry), tmp_path / "kill.journal"
        for kill in sorted(random.Random(seed).sample(range(200, RECIPIENTS - 6000), 2)):
            kill_when(send(manifest, "--auto"), lambda kill=kill: sink.look() >= kill)
        summary = finish(send(manifest, "--resume"))
        sink.look()
        said = states(journal)
    finally:
        sink.end()
    assert max(sink.taken.values()) == 1, "somebody was sent to twice"
    assert summary["delivered"] + summary["failed"] + summary["in_doubt"] == RECIPIENTS
    assert summary["failed"] > 0
    for address, state in said.items():
        assert state == "in_doubt" or sink.taken[address] == (state == "delivered"), (address, state)
    print(f"delivered {summary['delivered']}, failed {summary['failed']}, in doubt {summary['in_doubt']}")


def test_a_shared_message_is_as_safe(tmp_path, sink):
    """A transaction carries up to 100 recipients, so doubt comes by the hundred."""
    message = {"from": "news@example.com", "to": "list@example.com", "subject": "Hello", "text": "words " * 200}
    manifest, journal = write_job(tmp_path, sink.port, message=message), tmp_path / "kill.journal"
    kill_when(send(manifest), lambda: sink.look() >= 3000)
    doubt = status(journal)["in_doubt"]
    assert doubt <= 100 * (CONNECTIONS * HELD + SHARED_AHEAD)
    summary = finish(send(manifest, "--resume"))
    assert summary["in_doubt"] == doubt
    account(sink, summary, journal)
    print(f"shared, in doubt: {doubt}")


def test_seeds_and_variants_come_through_kills(tmp_path, sink):
    """The journal names rows of two sources; whose variant is which is worked out anew by each run."""
    text = "Dear {{ name }},\n" + "words " * 200
    message = {
        "from": "news@example.com",
        "subject": "s",
        "text": text,
        "variants": [{}, {"subject": "b", "weight": 2}],
    }
    seeds = [f"seed{i}@example.test" for i in range(300)]
    recipients = {"file": "recipients.jsonl", "always_include": [{"email": seed, "name": "S"} for seed in seeds]}
    recipients |= {"where": "name != 'Name 3'", "sample": "50%"}
    manifest, journal = (
        write_job(tmp_path, sink.port, message=message, recipients=recipients),
        tmp_path / "kill.journal",
    )
    kill_when(send(manifest), lambda: sink.look() >= 100)
    kill_when(send(manifest, "--resume"), lambda: sink.look() >= 2000)
    killed = copies(journal)
    summary = finish(send(manifest, "--resume"))
    sink.look()
    assert summary["recipients"] == RECIPIENTS + 2 * len(seeds)
    assert abs(summary["suppressed"] - RECIPIENTS / 2) < 5 * (RECIPIENTS / 4) ** 0.5
    assert summary["delivered"] + summary["in_doubt"] + summary["suppressed"] == summary["recipients"]
    said = copies(journal)
    assert len(said) == summary["recipients"]
    assert said.keys() == killed.keys(), "somebody is in another variant than before"
    delivered = Counter(address for (address, _), state in said.items() if state == "delivered")
    meant = Counter(address for (address, _), state in said.items() if state != "suppressed")
    assert {meant[seed] for seed in seeds} == {2}
    for address in meant | sink.taken:
        assert delivered[address] <= sink.taken[address] <= meant[address], address


def copies(journal: Path) -> dict[tuple[str, str | None], str]:
    """(Address, variant) -> state; no variant for who is left out."""
    rows = [json.loads(line) for line in bulkmail("report", journal, cwd=journal.parent).stdout.splitlines()]
    return {(row["recipient"], row["variant"]): row["state"] for row in rows}


def test_resend_sends_again_only_to_those_in_doubt(tmp_path, sink):
    manifest, journal = write_job(tmp_path, sink.port), tmp_path / "kill.journal"
    kill_when(send(manifest), lambda: sink.look() >= 3000)
    in_doubt = status(journal)["in_doubt"]
    assert 0 < in_doubt <= MOST_IN_DOUBT
    summary = finish(send(manifest, "--resume", "--in-doubt", "resend"))
    sink.look()
    assert summary["delivered"] == RECIPIENTS == len(sink.taken)
    twice = sum(count - 1 for count in sink.taken.values())
    assert twice <= in_doubt
    assert max(sink.taken.values()) <= 2
    print(f"in doubt: {in_doubt}, of which sent to twice: {twice}")


def test_a_slow_job_leaves_hardly_anyone_in_doubt(tmp_path, sink):
    rate = 100
    manifest, journal = write_job(tmp_path, sink.port, limits={"rate": f"{rate}/s"}), tmp_path / "kill.journal"
    kill_when(send(manifest), lambda: sink.look() >= 30)
    # claimed ahead: a twentieth of a second; under way: what left within some milliseconds
    assert status(journal)["in_doubt"] <= 2 * rate * 0.05


def test_killed_while_the_recipients_are_read_in_nothing_was_sent(tmp_path, sink):
    """A long list, nearly all of it suppressed: reading it in takes longer than sending."""
    rows, wanted = 150_000, 300
    with (tmp_path / "long.jsonl").open("w") as file:
        file.writelines(
            f'{{"email":"u{i}@{"wanted" if i % (rows // wanted) == 0 else "gone"}.test","name":"N"}}\n'
            for i in range(rows)
        )
    (tmp_path / "gone.txt").write_text("gone.test\n")
    recipients = {"file": "long.jsonl", "suppress": ["gone.txt"]}
    manifest, journal = write_job(tmp_path, sink.port, recipients=recipients), tmp_path / "kill.journal"
    chance = random.Random(1)
    for how in ("--resume", "--fresh", "--auto"):
        for attempt in range(20):
            before = sink.look()
            process, soon = send(manifest), soon_after(journal, chance.uniform(0, 0.15 / (1 + attempt)))
            kill_when(process, lambda run=process, soon=soon: soon() or run.poll() is not None)
            if not is_filled(journal):
                break
            finish(send(manifest, "--resume"))  # it was too quick for us
            remove_journal(tmp_path)
        assert sink.look() == before
        summary = finish(send(manifest, how))
        assert (summary["delivered"], summary["suppressed"]) == (wanted, rows - wanted)
        assert sink.look() == before + wanted
        remove_journal(tmp_path)


def soon_after(journal: Path, seconds: float) -> Callable[[], bool]:
    """A condition that holds so long after the journal has come up."""
    moment = [0.0]

    def holds() -> bool:
        if journal.exists() and not moment[0]:
            moment[0] = time.monotonic() + seconds
        return bool(moment[0]) and time.monotonic() >= moment[0]

    return holds


def is_filled(journal: Path) -> bool:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT filled FROM job").fetchone()[0])


def remove_journal(folder: Path) -> None:
    for leftover in folder.glob("kill*.journal*"):
        leftover.unlink()


def test_the_first_signal_finishes_what_is_in_flight_and_leaves_nobody_in_doubt(tmp_path, sink):
    manifest = write_job(tmp_path, sink.port)
    for wanted in (1000, 4000, 7000):
        process = send(manifest, "--auto")
        end = time.monotonic() + SECONDS
        while sink.look() < wanted:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 3, err
        summary = json.loads(out)
        assert summary["state"] == "stopped"
        assert summary["in_doubt"] == 0
        assert summary["delivered"] == sink.look()
        assert summary["pending"] == RECIPIENTS - summary["delivered"]
    assert finish(send(manifest, "--resume"))["delivered"] == RECIPIENTS
    sink.look()
    assert len(sink.taken) == RECIPIENTS
    assert max(sink.taken.values()) == 1


def test_a_second_run_is_kept_out_and_told_by_whom(tmp_path, sink):
    manifest = write_job(tmp_path, sink.port, limits={"rate": "200/s"})
    first = send(manifest)
    try:
        end = time.monotonic() + SECONDS
        while sink.look() < 10:
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        for option in ("--resume", "--auto", "--fresh"):
            second = send(manifest, option)
            _, err = second.communicate(timeout=SECONDS)
            assert second.returncode == 2
            assert str(first.pid) in err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert os.path.exists(tmp_path / "kill.journal")
