"""A job with several worker processes is one job: its counts, events, limits, orders and signatures are as with one."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bulkmail.job.job import Job
from bulkmail.message.dkim import Dkim
from bulkmail.sink import Server
from crash.test_send_kill import Sink
from integration.arrivals import Arrivals
from integration.cli_program import bulkmail, write_job
from integration.sink_program import sink
from integration.test_control_command import Running, everybody, received, wait_for
from unit.message.dkim_corpus import rsa_key, verdicts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process can be handed a socket")

ROWS = 4000  # for two workers, by share.RECIPIENTS_EACH
JITTER = 0.02  # what a busy machine adds to the way of a command, beside the longest time that the loop was late


def states(folder: Path) -> Counter[str]:
    rows = [json.loads(line) for line in bulkmail("report", "news.journal", cwd=folder).stdout.splitlines()]
    assert len({row["recipient"] for row in rows}) == len(rows)
    return Counter(row["state"] for row in rows)


def test_everybody_has_one_copy_one_event_and_one_row(tmp_path):
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", ROWS, workers=2)
        done = bulkmail("send", "news.json", "--json", "--events", "events", "--log-level", "info", cwd=tmp_path)
        got = Counter(address for envelope in box.envelopes() for address in envelope["to"])
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["delivered"], summary["attempts"], summary["recipients"]) == (ROWS, ROWS, ROWS)
    (relay,) = summary["relays"].values()
    assert relay["delivered"] == ROWS
    assert 2 <= relay["connections"] <= 4
    assert got == everybody(ROWS)
    assert states(tmp_path) == {"delivered": ROWS}
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    told = Counter(event["event"] for event in events)
    assert (told["delivered"], told["started"], told["finished"]) == (ROWS, 1, 1)
    assert Counter(e["recipient"] for e in events if e["event"] == "delivered") == everybody(ROWS)
    assert "workers:" not in done.stderr, "as many as were asked for"


def test_a_relay_on_a_bad_day_costs_nobody_a_second_copy(tmp_path):
    server = Sink(tmp_path, "3")
    try:
        retry = {"delays": ["100ms", "300ms", "1s"], "patience": "20s"}
        write_job(tmp_path, f"smtp://127.0.0.1:{server.port}?connections=6", 2 * ROWS, workers=2, retry=retry)
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
        server.look()
    finally:
        server.end()
    summary = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    counted = {state: summary[state] for state in ("delivered", "failed", "in_doubt") if summary[state]}
    assert sum(counted.values()) == 2 * ROWS
    assert states(tmp_path) == counted
    assert max(server.taken.values()) == 1
    assert sum(server.taken.values()) <= summary["delivered"] + summary["in_doubt"]


class Times(Arrivals):
    def assert_paced(self, key: str, rate: float, burst: int) -> None:
        """In any window at most rate x T + burst: as a bucket that runs empty says, which holds for all windows."""
        debt, before = 0.0, 0.0
        for now in sorted(self.by[key]):
            debt = max(0.0, debt - (now - before) * rate) + 1
            before = now
            assert debt <= burst + (self.late + JITTER) * rate, (key, debt)


def test_limits_are_as_exact_as_with_one_process(run, tmp_path):
    """The job's rate is divided; a.test's belongs to one worker, whole."""
    rows = [f"p{n}@{'a.test' if n % 20 == 0 else 'b.test'}" for n in range(ROWS)]

    async def main():
        times = Times()
        async with Server(times) as server:
            limits = {"rate": "2000/s", "domains": {"a.test": {"rate": "120/s", "burst": 2}}}
            relays = {"url": server.url, "connections": 6}
            path = write_job(
                tmp_path, "", "", recipients=rows, limits=limits, relays=relays, workers=2, defaults={"name": "N"}
            )
            watch = asyncio.create_task(times.watch())
            report = await Job.load(path).run_async()
            watch.cancel()
        return report, times

    report, times = run(main())
    assert report.exit_code == 0 and report.summary["delivered"] == ROWS
    times.assert_paced("job", 2000, 200)
    times.assert_paced("a.test", 120, 2)
    assert len(times.by["a.test"]) == ROWS // 20


def test_it_is_steered_as_one(tmp_path):
    with sink(tmp_path) as box:
        write_job(
            tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", 2 * ROWS, workers=2, limits={"rate": "1000/s"}
        )
        job = Running(tmp_path)
        try:
            job.box = box
            wait_for(lambda: job.status()["delivered"] > 50)
            assert job.order("pause") == "running -> paused\n"
            wait_for(lambda: job.status()["delivered"] == sum(received(job).values()))
            count = sum(received(job).values())
            time.sleep(0.3)  # 300 messages' worth
            assert sum(received(job).values()) == count < 2 * ROWS
            said = bulkmail("set", "news.journal", "rate=15/s", cwd=tmp_path)
            assert said.returncode == 2 and "the 2 workers of this run cannot share less than 20/s" in said.stderr
            assert job.order("set", "rate=100000/s") == "paused\n  rate: 1000/s -> 100000/s\n"
            assert job.order("resume") == "paused -> running\n"
            code, summary, _ = job.end()
        finally:
            job.process.kill()
            job.process.communicate()
        assert (code, summary["delivered"]) == (0, 2 * ROWS)
        assert received(job) == everybody(2 * ROWS)


def test_stop_if_counts_all_workers(tmp_path):
    """None of them alone has so many."""
    server = Sink(tmp_path)
    try:
        text = "{% if number % 4 == 0 %}{{ 1 // 0 }}{% endif %}Dear"
        rows = "".join(f'{{"email":"r{n}@example.com","number":{n}}}\n' for n in range(2 * ROWS))
        message = {"from": "news@example.com", "subject": "s", "text": text}
        write_job(
            tmp_path,
            f"smtp://127.0.0.1:{server.port}?connections=4",
            rows,
            workers=2,
            message=message,
            stop_if={"failed": "20%", "after": 400},
        )
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
    finally:
        server.end()
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["state"]) == (3, "stopped"), done.stderr
    assert "stop_if says 'failed' 20%" in done.stderr
    assert summary["failed"] >= 100
    assert summary["in_doubt"] == 0
    counted = sum(summary[state] for state in ("delivered", "failed", "pending", "deferred"))
    assert counted == 2 * ROWS
    assert {state: count for state, count in states(tmp_path).items()} == {
        state: summary[state] for state in ("delivered", "failed", "pending") if summary[state]
    }


def test_a_list_that_is_read_while_it_is_sent_to_goes_to_all_workers(tmp_path):
    with sink(tmp_path) as box:
        recipients = {"file": "list.jsonl", "validate": False}
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", 3 * ROWS, workers=2, recipients=recipients)
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
        got = Counter(address for envelope in box.envelopes() for address in envelope["to"])
    assert (done.returncode, json.loads(done.stdout)["delivered"]) == (0, 3 * ROWS), done.stderr
    assert got == everybody(3 * ROWS)


def test_each_worker_signs(tmp_path):
    (tmp_path / "rsa.pem").write_text(rsa_key())
    (tmp_path / "rsa.pem").chmod(0o600)
    dkim = {"domain": "example.com", "selector": "s1", "key_file": "rsa.pem"}
    message = {"from": "news@example.com", "subject": "Hi {{ name }}", "text": "Dear {{ name }}\n", "dkim": dkim}
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", ROWS, workers=2, message=message)
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
        assert (done.returncode, json.loads(done.stdout)["delivered"]) == (0, ROWS), done.stderr
        contents = box.contents()
    assert len(contents) == len(set(contents)) == ROWS
    key = (Dkim("example.com", "s1", key=rsa_key()),)
    assert all(verdicts(one, key) == [True] for one in contents[:: ROWS // 50])
    assert all(b"DKIM-Signature:" in one for one in contents)


def test_a_relay_that_nobody_reaches_ends_the_run_with_its_reason(tmp_path):
    write_job(tmp_path, "smtp://127.0.0.1:1", ROWS, workers=2, retry={"patience": "1s"})
    done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["pending"], summary["in_doubt"]) == (ROWS, 0)


def test_a_job_that_cannot_have_so_many_has_fewer_and_says_so(tmp_path):
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", 30, workers=9)
        done = bulkmail("send", "news.json", "--json", "--log-level", "info", "--workers", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 workers: 30 recipients are soon sent to" in done.stderr


def test_what_was_ordered_before_the_workers_were_there_holds(tmp_path):
    with sink(tmp_path) as box:
        job = Job.load(write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", ROWS, workers=2))
        job.set(rate="1500/s")
        report = job.run()
    assert report.exit_code == 0
    assert report.summary["seconds"] >= (ROWS - 150) / 1500 - JITTER


def test_a_time_to_start_at_is_kept_by_all_and_told_once(tmp_path):
    start = time.time() + 3
    date = datetime.fromtimestamp(start, UTC).isoformat()
    told = []
    with sink(tmp_path) as box:
        path = write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", ROWS, workers=2, start_at=date)
        report = Job.load(path).run(on_event=told.append)
    assert (report.exit_code, report.summary["delivered"]) == (0, ROWS)
    assert min(event["ts"] for event in told if event["event"] == "delivered") >= start
    named = Counter(event["event"] for event in told)
    assert (named["throttled"], named["resumed"], named["delivered"]) == (1, 1, ROWS)


def test_a_run_from_a_thread_of_its_own_ends_its_workers(tmp_path):
    """On Linux a worker ends with the thread that started it."""
    with sink(tmp_path) as box:
        job = Job.load(write_job(tmp_path, f"smtp://127.0.0.1:{box.port}?connections=4", ROWS, workers=2))
        with ThreadPoolExecutor(1) as threads:
            report = threads.submit(job.run).result(timeout=60)
    assert (report.exit_code, report.summary["delivered"]) == (0, ROWS)
