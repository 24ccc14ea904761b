"""`events` of the manifest: what a real job tells its file and its webhook, and what it does when nobody listens."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections import Counter

import pytest
from standardwebhooks.webhooks import Webhook as ForeignWebhook

from integration.cli_program import SECONDS, bulkmail, refused, start, write_job
from integration.sink_program import sink
from unit.job.hook_server import HookServer

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def box(tmp_path):
    with sink(tmp_path, "--fault", "rcpt:550 5.1.1 no such user@r7@*", store=False) as box:
        yield f"smtp://127.0.0.1:{box.port}"


def outcomes(events):
    return Counter((event["event"], event["recipient"]) for event in events if "recipient" in event)


def expected(count):
    return Counter(("failed" if n == 7 else "delivered", f"r{n}@example.com") for n in range(1, count + 1))


def test_file_and_webhook_are_told_every_outcome_once(box, tmp_path):
    with HookServer() as hook:
        webhook = {"url": hook.url, "secret": "${HOOK}", "batch": 100, "every": "100ms"}
        write_job(tmp_path, box, 700, events={"file": "told.jsonl", "webhook": webhook})
        done = bulkmail("send", "news.json", "--json", "--events", "own.jsonl", cwd=tmp_path, HOOK=SECRET)
    assert done.returncode == 1, done
    summary = json.loads(done.stdout)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert outcomes(told) == outcomes(hook.events()) == expected(700)
    assert (tmp_path / "told.jsonl").read_text() == (tmp_path / "own.jsonl").read_text()
    assert hook.events() == told
    assert (told[0]["event"], told[-1]["event"]) == ("started", "finished")
    assert summary["webhook"] == {"delivered": len(told), "waiting": 0, "dropped": 0, "last_error": None}
    for request in hook.requests:
        data = ForeignWebhook(SECRET).verify(request.body, request.headers)["data"]
        assert (data["job"], data["journal"]) == ("news", str(tmp_path / "news.journal"))
    assert len(hook.requests) < 60
    assert not (tmp_path / "news.journal.events").exists()
    for text in (done.stdout, done.stderr, *(p.read_bytes().decode("latin-1") for p in tmp_path.glob("news.journal*"))):
        assert "sesame" not in text and SECRET not in text


def test_a_receiver_that_is_down_delays_nobody_and_hears_of_it_in_the_next_run(box, tmp_path):
    with HookServer(lambda number: 503) as down:
        write_job(tmp_path, box, 300, events={"webhook": {"url": down.url, "secret": SECRET, "events": ["delivered"]}})
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["delivered"] == 299
    assert json.loads(done.stdout)["webhook"]["waiting"] == 299
    assert "299 events wait for the next run" in done.stderr and "sesame" not in done.stderr
    with HookServer() as hook:
        write_job(tmp_path, box, 300, events={"webhook": {"url": hook.url, "secret": SECRET, "events": ["delivered"]}})
        again = bulkmail("send", "news.json", "--auto", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["webhook"] == {"delivered": 299, "waiting": 0, "dropped": 0, "last_error": None}
    assert outcomes(hook.events()) == Counter({one: 1 for one in expected(300) if one[0] == "delivered"})
    assert not (tmp_path / "news.journal.events").exists()


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_job_hears_no_event_twice_under_another_id(box, tmp_path):
    """What was told before the kill may come again, as the same request; what was not is in the journal only."""
    with HookServer() as hook:
        webhook = {"url": hook.url, "secret": SECRET, "batch": 20, "every": "50ms"}
        write_job(tmp_path, box, 2000, limits={"rate": "1000/s"}, events={"webhook": webhook})
        process = start("send", "news.json", cwd=tmp_path)
        deadline = 0
        while len(hook.requests) < 10 and process.poll() is None and deadline < SECONDS * 50:
            deadline += 1
            hook.ending.wait(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = bulkmail("send", "news.json", "--resume", "--json", cwd=tmp_path)
    summary = json.loads(again.stdout)
    told = outcomes(hook.events())
    assert not [one for one, times in told.items() if times > 1]
    assert sum(told.values()) >= summary["webhook"]["delivered"] - 20 > 0
    assert told.keys() <= expected(2000).keys()


def test_an_events_file_that_cannot_be_written_is_bad_usage_and_leaves_no_journal(box, tmp_path):
    (tmp_path / "told").mkdir()
    write_job(tmp_path, box, 3, events="told")
    refused(bulkmail("send", "news.json", cwd=tmp_path), "$.events", "told")
    os.chmod(tmp_path / "told", 0o500)
    if os.geteuid():
        write_job(tmp_path, box, 3, events="told/e")
        refused(bulkmail("send", "news.json", cwd=tmp_path), "told/e", "Permission denied")
    assert not (tmp_path / "news.journal").exists()


def test_dry_runs_and_tests_tell_nobody(box, tmp_path):
    with HookServer() as hook:
        write_job(tmp_path, box, 3, events={"file": "told", "webhook": {"url": hook.url, "secret": SECRET}})
        assert bulkmail("send", "news.json", "--dry-run", cwd=tmp_path).returncode == 0
        assert bulkmail("send", "news.json", "--test-to", "me@example.com", cwd=tmp_path).returncode == 0
    assert not hook.requests and not (tmp_path / "told").exists()
