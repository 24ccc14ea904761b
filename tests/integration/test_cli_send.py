"""`bulkmail send` as a program against real servers: what arrives, what the exit status and the output say of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from email import message_from_bytes
from pathlib import Path

import pytest

from integration.cli_program import SECONDS, bulkmail, refused, start, write_job

STATES = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")


def summary_of(done) -> dict:
    summary = json.loads(done.stdout)
    assert sum(summary[state] for state in STATES) == summary["recipients"]
    return summary


def addresses(server) -> list[str]:
    return sorted(address for mail in server.mails for address in mail.recipients)


def expected(count: int) -> list[str]:
    return sorted(f"r{n}@example.com" for n in range(1, count + 1))


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it never happened"
        time.sleep(0.01)


def finish(process):
    out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_everybody_is_delivered(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = bulkmail("send", write_job(tmp_path, server.url), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    summary = summary_of(done)
    assert (summary["job"], summary["state"], summary["recipients"], summary["delivered"]) == ("news", "finished", 3, 3)
    assert addresses(server) == expected(3)
    subjects = {mail.recipients[0]: message_from_bytes(mail.content)["Subject"] for mail in server.mails}
    assert subjects["r2@example.com"] == "Hello R2"


def test_the_summary_in_words_names_job_and_counts(start_aiosmtpd, tmp_path):
    done = bulkmail("send", write_job(tmp_path, start_aiosmtpd().url), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("news: finished, 3 recipients")
    assert "delivered" in done.stdout


def test_a_refused_recipient_makes_it_1(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd(answers={"RCPT": lambda address: "550 5.1.1 no such user" if "r2@" in address else None})
    done = bulkmail("send", write_job(tmp_path, server.url), "--json", cwd=tmp_path)
    assert done.returncode == 1
    summary = summary_of(done)
    assert (summary["delivered"], summary["failed"]) == (2, 1)
    failed = bulkmail("report", "news.journal", "--state", "failed", cwd=tmp_path)
    line = json.loads(failed.stdout)
    assert (line["recipient"], line["code"], line["enhanced"]) == ("r2@example.com", 550, "5.1.1")


def test_status_and_report_agree_with_the_summary(start_aiosmtpd, tmp_path):
    sent = bulkmail("send", write_job(tmp_path, start_aiosmtpd().url), "--json", cwd=tmp_path)
    status = bulkmail("status", "news.journal", "--json", cwd=tmp_path)
    assert status.returncode == 0
    assert {key: summary_of(status)[key] for key in (*STATES, "job", "state")} == {
        key: summary_of(sent)[key] for key in (*STATES, "job", "state")
    }
    lines = [json.loads(line) for line in bulkmail("report", "news.journal", cwd=tmp_path).stdout.splitlines()]
    assert sorted(line["recipient"] for line in lines) == expected(3)
    assert {line["state"] for line in lines} == {"delivered"}
    table = bulkmail("report", "news.journal", "--format", "csv", "--out", "r.csv", cwd=tmp_path)
    assert (table.returncode, table.stdout) == (0, "")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 4


def test_a_second_send_asks_which_it_should_be(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = write_job(tmp_path, server.url)
    assert bulkmail("send", job, cwd=tmp_path).returncode == 0
    refused(bulkmail("send", job, cwd=tmp_path), "news.journal", "--resume", "--fresh")
    assert len(server.mails) == 3
    assert bulkmail("send", job, "--resume", cwd=tmp_path).returncode == 0
    assert len(server.mails) == 3
    assert bulkmail("send", job, "--fresh", cwd=tmp_path).returncode == 0
    assert len(server.mails) == 6
    assert len(list(tmp_path.glob("*.journal*"))) >= 2


def test_resume_needs_a_journal_and_auto_does_not(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = write_job(tmp_path, server.url)
    refused(bulkmail("send", job, "--resume", cwd=tmp_path), "news.journal")
    for _ in range(2):
        assert bulkmail("send", job, "--auto", cwd=tmp_path).returncode == 0
    assert addresses(server) == expected(3)


def test_a_relay_that_is_down_is_3_and_resume_goes_on(start_aiosmtpd, free_port, tmp_path):
    job = write_job(tmp_path, f"smtp://127.0.0.1:{free_port()}", retry={"patience": "1s"})
    done = bulkmail("send", job, "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert summary_of(done)["state"] == "stopped"
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, retry={"patience": "1s"})
    assert bulkmail("send", job, "--resume", cwd=tmp_path).returncode == 0
    assert addresses(server) == expected(3)


def test_a_refused_login_is_3_and_shows_no_password(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd(auth=True)
    job = write_job(tmp_path, server.url.replace("://", "://news:wr0ngpass@"))
    done = bulkmail("send", job, cwd=tmp_path)
    assert done.returncode == 3
    assert "535" in done.stderr and "wr0ngpass" not in done.stderr + done.stdout
    assert server.mails == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_good_order_and_resume_sends_the_rest_once(start_aiosmtpd, tmp_path, number):
    server = start_aiosmtpd()
    job = write_job(tmp_path, server.url, rows=60, limits={"rate": "40/s"})
    process = start("send", job, "--json", cwd=tmp_path)
    try:
        wait_for(lambda: len(server.mails) >= 5, "mail")
        process.send_signal(number)
        status, out, err = finish(process)
    finally:
        process.kill()
    assert status == 3
    summary = json.loads(out)
    assert summary["state"] == "stopped"
    assert 5 <= summary["delivered"] < 60
    assert summary["delivered"] + summary["pending"] == 60 == summary["recipients"]
    assert "--resume" in err
    assert bulkmail("send", job, "--resume", "--rate", "1000/s", cwd=tmp_path).returncode == 0
    assert addresses(server) == expected(60)


def test_a_second_signal_leaves_at_once(start_aiosmtpd, tmp_path):
    held = threading.Event()
    stuck = start_aiosmtpd(answers={"DATA": lambda number: held.wait(SECONDS) and None})
    job = write_job(tmp_path, stuck.url, rows=2)
    process = start("send", job, "--events", "events.jsonl", cwd=tmp_path)
    try:
        wait_for(lambda: stuck.recorder.sessions > 0, "a session")
        process.send_signal(signal.SIGINT)
        assert "in flight" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        status, _, _ = finish(process)
    finally:
        held.set()
        process.kill()
    assert status == 3
    events = (tmp_path / "events.jsonl").read_text()
    assert events.endswith("\n") and json.loads(events.splitlines()[0])["event"] == "started"


def test_events_can_be_followed_while_the_job_runs(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = write_job(tmp_path, server.url, rows=30, limits={"rate": "20/s"})
    file = tmp_path / "events.jsonl"
    process = start("send", job, "--events", file, cwd=tmp_path)
    try:
        wait_for(lambda: file.exists() and b'"delivered"' in file.read_bytes(), "an event")
        assert process.poll() is None
        assert finish(process)[0] == 0
    finally:
        process.kill()
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert events[0]["event"] == "started" and events[-1]["event"] == "finished"
    assert sorted(e["recipient"] for e in events if e["event"] == "delivered") == expected(30)
    assert all("ts" in event for event in events)


def test_events_on_standard_output_are_all_there_is(start_aiosmtpd, tmp_path):
    done = bulkmail("send", write_job(tmp_path, start_aiosmtpd().url), "--events", "-", cwd=tmp_path)
    assert done.returncode == 0
    assert all("event" in json.loads(line) for line in done.stdout.splitlines())


def test_test_to_delivers_one_message_there_and_leaves_no_journal(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = bulkmail("send", write_job(tmp_path, server.url), "--test-to", "me@example.net", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert addresses(server) == ["me@example.net"]
    assert message_from_bytes(server.mails[0].content)["Subject"] == "Hello R1"
    assert not (tmp_path / "news.journal").exists()


def test_dry_run_connects_nowhere(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = bulkmail("send", write_job(tmp_path, server.url), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "nothing was sent" in done.stdout
    assert server.recorder.sessions == 0


def test_limit_and_variables(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    message = {"from": "news@example.com", "subject": "{{ name }} {{ issue }}", "text": "x"}
    job = write_job(tmp_path, server.url, message=message)
    done = bulkmail("send", job, "--limit", 2, "--set", "issue=47", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary_of(done)["recipients"] == 2
    assert sorted(message_from_bytes(mail.content)["Subject"] for mail in server.mails) == ["R1 47", "R2 47"]


def test_a_wire_log_has_the_dialogue_without_the_message(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = bulkmail("send", write_job(tmp_path, server.url), "--wire-log", "wire.log", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = Path(tmp_path / "wire.log").read_text()
    assert "MAIL FROM:<news@example.com>" in log and "Dear" not in log


def test_recipients_from_standard_input(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    message = {"from": "n@example.com", "subject": "s", "text": "t"}
    job = write_job(tmp_path, server.url, recipients="-", message=message)
    done = bulkmail("send", job, cwd=tmp_path, stdin="r1@example.com\nr2@example.com\n")
    assert done.returncode == 0, done.stderr
    assert addresses(server) == expected(2)


def test_the_starter_job_checks_clean_previews_and_delivers(start_aiosmtpd, tmp_path):
    assert bulkmail("init", "news", cwd=tmp_path).returncode == 0
    checked = bulkmail("check", "news/newsletter.json", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert bulkmail("preview", "news/newsletter.json", "--index", 3, cwd=tmp_path).returncode == 0
    assert "Chloé" in (tmp_path / "preview" / "000003.txt").read_text(encoding="utf-8")
    server = start_aiosmtpd()
    manifest = tmp_path / "news" / "newsletter.json"
    manifest.write_text(manifest.read_text().replace("smtp://127.0.0.1:2525", server.url))
    assert bulkmail("send", manifest, cwd=tmp_path).returncode == 0
    assert len(server.mails) == 3
    assert (tmp_path / "news" / "newsletter.journal").exists()


def test_a_fast_rate_is_kept_to_the_end(start_smtp_sink, tmp_path):
    """Waits shorter than the event loop's clock tick must not lose the job's next turn."""
    job = write_job(tmp_path, start_smtp_sink().url, rows=4000, limits={"rate": "4000/s"})
    done = bulkmail("send", job, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = summary_of(done)
    assert summary["delivered"] == 4000
    assert summary["seconds"] >= 0.85  # the first tenth of a second's worth may leave at once


def test_durability_is_told_on_the_command_line(start_aiosmtpd, tmp_path):
    write_job(tmp_path, start_aiosmtpd().url, durability="process")
    done = bulkmail("send", "news.json", "--durability", "power", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    refused(bulkmail("send", "news.json", "--durability", "never", cwd=tmp_path), "--durability", "'never'")
