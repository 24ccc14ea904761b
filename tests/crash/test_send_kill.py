"""kill -9 in the middle of a job: nobody is lost, nobody is sent to twice, and in doubt is only what may be.

The truth is what a sink in another process wrote down. Incident each test answers: a mailer that marked a batch as sent
before it was, and lost it; or sent it again after a restart.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

RECIPIENTS = 20_000
CONNECTIONS = 20
# What may be in doubt: what the sessions hold (a window and two transactions under way each) and what two commits cover.
MOST_IN_DOUBT = CONNECTIONS * (16 + 2) + 2 * 512
BULKMAIL = [sys.executable, "-m", "bulkmail"]


@pytest.fixture
def sink(tmp_path):
    """(port, function that gives a Counter of the addresses that got the message so far)."""
    store = tmp_path / "store"
    process = subprocess.Popen(
        [*BULKMAIL, "sink", "--listen", "127.0.0.1:0", "--store", str(store)], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield int(line.rsplit(":", 1)[1]), lambda: received(store)
    finally:
        process.terminate()
        process.wait(timeout=20)


def received(store: Path) -> Counter:
    lines = (store / "envelopes.jsonl").read_bytes().splitlines() if (store / "envelopes.jsonl").exists() else []
    return Counter(address for line in lines if line.endswith(b"}") for address in json.loads(line)["to"])


def write_job(folder: Path, port: int, **more) -> Path:
    with (folder / "recipients.jsonl").open("w") as file:
        for i in range(RECIPIENTS):
            file.write(json.dumps({"email": f"user{i}@example.test", "name": f"Name {i}"}) + "\n")
    manifest = {
        "job": "kill",
        "message": {
            "from": "news@example.com",
            "subject": "Hello {{ name }}",
            "text": "Dear {{ name }},\n" + "words " * 200,
        },
        "recipients": "recipients.jsonl",
        "relays": [{"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": CONNECTIONS}],
        **more,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


def send(manifest: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*BULKMAIL, "send", str(manifest), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), err
    return json.loads(out)


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the condition did not come about"
        time.sleep(0.005)


def states(journal: Path) -> dict[str, str]:
    report = subprocess.run([*BULKMAIL, "report", str(journal)], capture_output=True, text=True, check=True, timeout=60)
    rows = [json.loads(line) for line in report.stdout.splitlines()]
    assert len(rows) == RECIPIENTS
    found = {row["recipient"]: row["state"] for row in rows}
    assert len(found) == RECIPIENTS
    return found


def kill_at(process: subprocess.Popen, got, count: int) -> None:
    wait_until(lambda: sum(got().values()) >= count, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_lost_and_nobody_is_sent_to_twice(tmp_path, sink, seed):
    port, got = sink
    manifest = write_job(tmp_path, port)
    chance = random.Random(seed)
    options: list[str] = []
    doubt = 0
    for kill in sorted(chance.sample(range(200, RECIPIENTS - 4000), 2)):
        process = send(manifest, *options)
        kill_at(process, got, kill)
        doubt += MOST_IN_DOUBT
        options = ["--resume"]
    summary = finish(send(manifest, "--resume"))
    truth, said = got(), states(tmp_path / "kill.journal")
    assert max(truth.values()) == 1, "somebody was sent to twice"
    assert summary["delivered"] + summary["in_doubt"] == RECIPIENTS == summary["recipients"]
    assert summary["in_doubt"] <= doubt
    for address, state in said.items():
        assert state in ("delivered", "in_doubt")
        if state == "delivered":
            assert truth[address] == 1, f"{address} is called delivered and is not"
    assert Counter(said.values())["in_doubt"] == summary["in_doubt"]


def test_resend_sends_again_only_to_those_in_doubt(tmp_path, sink):
    port, got = sink
    manifest = write_job(tmp_path, port)
    kill_at(send(manifest), got, 3000)
    status = subprocess.run(
        [*BULKMAIL, "status", str(tmp_path / "kill.journal"), "--json"], capture_output=True, check=True
    )
    in_doubt = json.loads(status.stdout)["in_doubt"]
    assert 0 < in_doubt <= MOST_IN_DOUBT
    summary = finish(send(manifest, "--resume", "--in-doubt", "resend"))
    truth = got()
    assert summary["delivered"] == RECIPIENTS
    assert len(truth) == RECIPIENTS
    assert sum(truth.values()) <= RECIPIENTS + in_doubt
    assert max(truth.values()) <= 2


def test_a_slow_job_leaves_hardly_anyone_in_doubt(tmp_path, sink):
    port, got = sink
    manifest = write_job(tmp_path, port, limits={"rate": "100/s"})
    kill_at(send(manifest), got, 30)
    status = subprocess.run(
        [*BULKMAIL, "status", str(tmp_path / "kill.journal"), "--json"], capture_output=True, check=True
    )
    assert json.loads(status.stdout)["in_doubt"] <= 2 * (100 * 0.05 + 1) + CONNECTIONS


def test_the_first_signal_finishes_what_is_in_flight_and_leaves_nobody_in_doubt(tmp_path, sink):
    port, got = sink
    manifest = write_job(tmp_path, port)
    process = send(manifest)
    wait_until(lambda: sum(got().values()) >= 1000, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    summary = json.loads(out)
    assert summary["state"] == "stopped"
    assert summary["in_doubt"] == 0
    assert summary["delivered"] == sum(got().values())
    assert summary["pending"] == RECIPIENTS - summary["delivered"]
    assert finish(send(manifest, "--resume"))["delivered"] == RECIPIENTS
    assert max(got().values()) == 1


def test_a_second_run_is_kept_out_and_told_by_whom(tmp_path, sink):
    port, got = sink
    manifest = write_job(tmp_path, port, limits={"rate": "200/s"})
    first = send(manifest)
    try:
        wait_until(lambda: sum(got().values()) >= 10, first)
        second = send(manifest, "--resume")
        _, err = second.communicate(timeout=20)
        assert second.returncode == 2
        assert str(first.pid) in err
    finally:
        first.kill()
        first.communicate()
    assert os.path.exists(tmp_path / "kill.journal")
