"""`Job` in a program: run, stopped from elsewhere, cancelled, with a listener that fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest

from bulkmail.errors import AuthError, ConfigError, ConnectError, JournalError, ManifestError
from bulkmail.job.job import Job
from bulkmail.job.journal import Journal
from bulkmail.job.report import iter_report, status
from integration.cli_program import write_job


def addresses(server):
    return Counter(address for mail in server.mails for address in mail.recipients)


def expected(count):
    return Counter(f"r{n}@example.com" for n in range(1, count + 1))


def stored(folder):
    """The journal's counts, in which nothing may be left open."""
    found = status(folder / "news.journal")
    return {name: found[name] for name in ("delivered", "failed", "deferred", "in_doubt", "pending") if found[name]}


def test_a_run_has_a_report(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 5))
    assert job.progress() == {}
    report = job.run()
    assert (report.exit_code, report.error) == (0, None)
    assert report.summary["delivered"] == 5
    assert job.progress() == report.summary
    assert str(report).startswith("news: finished. 5 of 5 delivered")
    assert addresses(server) == expected(5)


def test_in_a_running_loop_it_is_awaited(run, start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 5))

    async def main():
        with pytest.raises(RuntimeError, match="async"):
            job.run()
        return await job.run_async(auto=True)

    assert run(main()).summary["delivered"] == 5
    assert addresses(server) == expected(5)


def test_power_level_delivers_the_same(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    assert Job.load(write_job(tmp_path, server.url, 50)).run(power=True).exit_code == 0
    assert addresses(server) == expected(50)


@pytest.mark.parametrize(
    ("manifest", "loaded", "power", "level"),
    [
        ({}, None, False, "process"),
        ({"durability": "power"}, None, False, "power"),
        ({"durability": "power"}, "process", False, "process"),
        ({}, "power", False, "power"),
        ({"durability": "process"}, "process", True, "power"),
    ],
)
def test_the_journal_has_the_durability_that_was_asked_for(
    start_aiosmtpd, tmp_path, monkeypatch, manifest, loaded, power, level
):
    given = []
    create, resume = Journal.create, Journal.open
    monkeypatch.setattr(Journal, "create", lambda *args, **more: given.append(more["level"]) or create(*args, **more))
    monkeypatch.setattr(Journal, "open", lambda *args, **more: given.append(more["level"]) or resume(*args, **more))
    path = write_job(tmp_path, start_aiosmtpd().url, 2, **manifest)
    for _ in range(2):
        assert Job.load(path, durability=loaded).run(auto=True, power=power).exit_code == 0
    assert given == [level, level]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resume": True, "fresh": True}, "exclude"),
        ({"in_doubt": "maybe"}, "maybe"),
        ({"limit": 0}, "at least 1"),
        ({"test_to": "nobody"}, "nobody"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        Job.load(write_job(tmp_path, "smtp://127.0.0.1:1")).run(**options)
    assert not (tmp_path / "news.journal").exists()


def test_errors_before_anything_is_sent_are_raised(tmp_path):
    with pytest.raises(ManifestError):
        Job.load(tmp_path / "none.json")
    job = Job.load(write_job(tmp_path, "smtp://127.0.0.1:1"))
    with pytest.raises(JournalError, match="no journal to resume"):
        job.run(resume=True)
    (tmp_path / "list.jsonl").write_text("{}\n")
    with pytest.raises(ManifestError, match="row 1"):
        job.run()
    assert not (tmp_path / "news.journal").exists()


def test_a_later_stop_is_in_the_report(start_aiosmtpd, tmp_path, free_port):
    report = Job.load(write_job(tmp_path, f"smtp://127.0.0.1:{free_port()}", retry={"patience": 0})).run()
    assert report.exit_code == 3
    assert isinstance(report.error, ConnectError)
    assert "Stopped: relay" in str(report)
    server = start_aiosmtpd(auth=True)
    report = Job.load(write_job(tmp_path, server.url.replace("://", "://news:wrong@"))).run(resume=True)
    assert isinstance(report.error, AuthError)
    assert server.recorder.sessions == 1


# -- stopping


def test_stop_from_another_thread_and_the_same_job_goes_on(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 200, limits={"rate": "300/s"}))
    threading.Timer(0.3, job.stop).start()
    report = job.run()
    assert (report.exit_code, report.error) == (3, None)
    assert 0 < report.summary["delivered"] < 200
    assert report.summary["in_doubt"] == 0
    assert addresses(server).total() == report.summary["delivered"]
    assert job.run(resume=True).exit_code == 0
    assert addresses(server) == expected(200)


def test_a_stop_before_the_run_ends_it_before_anything_is_sent(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 20))
    job.stop()
    report = job.run()
    assert report.exit_code == 3
    assert report.summary["pending"] == 20
    assert server.mails == []
    assert job.run(resume=True).exit_code == 0


def test_a_stop_after_the_end_does_nothing(start_aiosmtpd, tmp_path):
    job = Job.load(write_job(tmp_path, start_aiosmtpd().url))
    assert job.run().exit_code == 0
    job.stop()


def test_a_second_stop_abandons_what_hangs(start_aiosmtpd, tmp_path):
    held = threading.Event()
    server = start_aiosmtpd(answers={"DATA": lambda number: held.wait(30) and None})
    job = Job.load(write_job(tmp_path, server.url + "?connections=3", 20))

    def stop_twice():
        while not server.recorder.sessions:
            time.sleep(0.01)
        time.sleep(0.3)
        job.stop()
        job.stop()

    stopper = threading.Thread(target=stop_twice)
    begun = time.monotonic()
    stopper.start()
    report = job.run()
    stopper.join()
    held.set()
    assert time.monotonic() - begun < 10
    assert report.exit_code == 3
    summary = report.summary
    assert 1 <= summary["in_doubt"] <= 3
    assert summary["in_doubt"] + summary["pending"] == 20
    assert stored(tmp_path) == {"in_doubt": summary["in_doubt"], "pending": summary["pending"]}


def test_a_cancelled_run_records_what_it_knows(run, start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 400, limits={"rate": "200/s"}))

    async def main():
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(job.run_async(auto=True))
        while len(server.mails) < 20:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before

    run(main())
    kept = stored(tmp_path)
    assert status(tmp_path / "news.journal")["state"] == "stopped"
    assert kept["delivered"] <= len(server.mails) <= kept["delivered"] + kept.get("in_doubt", 0)
    assert kept.get("in_doubt", 0) <= 5
    assert sum(kept.values()) == 400
    job = Job.load(write_job(tmp_path, server.url, 400))
    assert job.run(resume=True).exit_code in (0, 1)
    assert max(addresses(server).values()) == 1
    assert len(addresses(server)) >= 395


# -- events


def test_a_listener_that_fails_stops_the_run_in_good_order_and_is_heard_of(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 300, limits={"rate": "500/s"}))
    seen = []

    def listen(event):
        seen.append(event)
        if len([one for one in seen if one["event"] == "delivered"]) == 10:
            raise LookupError("my own bug")

    with pytest.raises(LookupError, match="my own bug"):
        job.run(on_event=listen)
    kept = stored(tmp_path)
    assert kept["delivered"] == len(server.mails) < 300
    assert kept["pending"] == 300 - kept["delivered"]
    assert job.run(resume=True).exit_code == 0
    assert addresses(server) == expected(300)


def test_a_listener_may_stop_the_run(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = Job.load(write_job(tmp_path, server.url, 300, limits={"rate": "500/s"}))
    told = []

    def listen(event):
        told.append(event["event"])
        if told.count("delivered") == 1 and told[-1] == "delivered":
            job.stop()

    report = job.run(on_event=listen)
    assert report.exit_code == 3
    assert report.summary["in_doubt"] == 0
    assert addresses(server).total() == report.summary["delivered"] < 300


def test_events_of_a_job_with_everything_in_it(start_aiosmtpd, tmp_path):
    """Each recipient once an attempt, what was decided before sending too; first `started`, last how it ended."""
    answers = {
        "RCPT": lambda address: {"r2@example.com": "550 5.1.1 no", "r3@example.com": "451 4.3.0 later"}.get(address)
    }
    server = start_aiosmtpd(answers=answers)
    rows = "".join(f'{{"email":"r{n}@example.com","name":"R{n}"}}\n' for n in range(1, 7))
    rows += '{"email":"R1@example.com","name":"again"}\n{"email":"x@gone.test","name":"G"}\n'
    rows += '{"email":"broken@example.com","name":"B\\nBcc: x"}\nnot json\n'
    (tmp_path / "gone.txt").write_text("gone.test\n")
    recipients = {"file": "list.jsonl", "suppress": ["gone.txt"], "deduplicate": True, "bad_rows": "skip"}
    job = Job.load(write_job(tmp_path, server.url, rows, recipients=recipients, retry={"delays": ["100ms"]}))
    events = []
    report = job.run(on_event=events.append)
    assert report.exit_code == 1
    told = [event["event"] for event in events]
    assert (told[0], told[-1]) == ("started", "finished")
    assert told.index("connected") < told.index("delivered")
    assert told.count("connected") == told.count("disconnected")
    mine = [event for event in events if "recipient" in event]
    assert Counter(event["event"] for event in mine) == {"delivered": 4, "deferred": 1, "failed": 4, "suppressed": 2}
    keys = {"ts", "event", "recipient", "attempt", "relay", "egress", "code", "enhanced", "reply", "message_id", "ms"}
    assert all(set(event) == keys for event in mine)
    by_address = {}
    for event in mine:
        by_address.setdefault(event["recipient"], []).append((event["event"], event["attempt"], event["code"]))
    assert by_address["r2@example.com"] == [("failed", 1, 550)]
    assert by_address["r3@example.com"] == [("deferred", 1, 451), ("failed", 2, 451)]
    assert by_address["broken@example.com"] == [("failed", 0, None)]
    assert by_address["x@gone.test"] == [("suppressed", 0, None)]
    assert by_address["R1@example.com"] == [("suppressed", 0, None)]
    assert by_address[None] == [("failed", 0, None)]
    summary = {key: events[-1][key] for key in report.summary}
    assert summary == report.summary
    assert events[0]["state"] == "running" and events[0]["recipients"] == 10
    sent = {mail.recipients[0]: mail.content for mail in server.mails}
    for event in mine:
        if event["event"] == "delivered":
            assert event["message_id"].encode() in sent[event["recipient"]]
            assert event["relay"] and event["ms"] > 0
    for row in iter_report(tmp_path / "news.journal", "delivered"):
        assert row["message_id"].encode() in sent[row["recipient"]]


def test_a_resumed_run_does_not_tell_again_what_was_decided_before(start_aiosmtpd, tmp_path):
    rows = '{"email":"a@example.com","name":"A"}\n{"email":"a@example.com","name":"A"}\n'
    recipients = {"file": "list.jsonl", "deduplicate": True}
    job = Job.load(write_job(tmp_path, start_aiosmtpd().url, rows, recipients=recipients))
    for options, suppressed in (({}, 1), ({"resume": True}, 0)):
        events = []
        assert job.run(on_event=events.append, **options).exit_code == 0
        assert [event["event"] for event in events].count("suppressed") == suppressed
