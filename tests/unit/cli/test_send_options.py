"""`send`: what reaches the job, what comes back as exit status and output."""

from __future__ import annotations

import json
import logging

import pytest

from bulkmail.cli.logs import log_to_stderr
from bulkmail.errors import AuthError, ConfigError, ConnectError, JournalError


def test_a_plain_send_asks_for_nothing_special(call, job):
    assert call("send", "m.json").exit_code == 0
    assert job.loaded == ("m.json", {"variables": {}})
    assert job.ran == {
        "resume": False, "fresh": False, "auto": False, "in_doubt": "skip",
        "limit": None, "dry_run": False, "test_to": None,
    }  # fmt: skip


def test_every_option_reaches_the_job(call, job, tmp_path):
    result = call(
        "send", "m.json", "--auto", "--in-doubt", "resend", "--dry-run", "--limit", "5", "--events", tmp_path / "e",
        "--set", "a=1", "--set", "b=x=y", "--set", "a=2", "--rate", "300/s", "--connections", "7",
        "--wire-log", "w.log", "--no-progress",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert job.loaded == (
        "m.json",
        {"variables": {"a": "2", "b": "x=y"}, "rate": "300/s", "connections": 7, "wire_log": "w.log"},
    )
    assert callable(job.ran.pop("on_event"))
    assert job.ran == {
        "resume": False, "fresh": False, "auto": True, "in_doubt": "resend",
        "limit": 5, "dry_run": True, "test_to": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--resume", "--fresh"], ["--resume", "--fresh"]),
        (["--fresh", "--auto"], ["--fresh", "--auto"]),
        (["--test-to", "me@example.com", "--fresh"], ["--test-to", "--fresh"]),
        (["--set", "novalue"], ["novalue", "NAME=VALUE"]),
        (["--set", "=x"], ["=x", "NAME=VALUE"]),
        (["--set", "a b=x"], ["a b=x", "NAME=VALUE"]),
        (["--connections", "many"], ["--connections", "many"]),
    ],
)
def test_options_that_cannot_be(call, job, args, names):
    result = call("send", "m.json", *args)
    assert result.exit_code == 2
    assert job.ran is None
    assert len(result.stderr.splitlines()) == 1 and all(name in result.stderr for name in names)


def test_the_reports_status_is_the_exit_status(call, job):
    for status in (0, 1, 3):
        job.report.exit_code = status
        assert call("send", "m.json").exit_code == status


def test_why_a_job_stopped_and_how_to_go_on_is_on_stderr(call, job):
    job.report.exit_code, job.report.error = 3, AuthError("relay main: 535 5.7.8 no")
    result = call("send", "m.json")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == "bulkmail: relay main: 535 5.7.8 no"
    assert "bulkmail send m.json --resume" in result.stderr
    assert "news: finished" in result.stdout


def test_json_is_one_object_and_nothing_else(call, job):
    result = call("send", "m.json", "--json")
    assert json.loads(result.stdout) == job.report.summary
    assert result.stdout.count("\n") == 1


def test_events_on_stdout_leave_no_room_for_words(call, job):
    assert call("send", "m.json", "--events", "-").stdout == ""


@pytest.mark.parametrize(
    "error", [JournalError("news.journal exists: --resume or --fresh"), ConfigError("no recipients")]
)
def test_what_the_job_refuses_before_sending_is_status_2(call, job, error):
    job.run_error = error
    result = call("send", "m.json")
    assert result.exit_code == 2
    assert result.stderr == f"bulkmail: {error}\n"
    assert result.stdout == ""


def test_what_breaks_after_sending_began_is_status_3(call, job):
    job.live = {"attempts": 1}
    for error in (ConnectError("gone"), RuntimeError("a bug")):
        job.run_error = error
        result = call("send", "m.json")
        assert result.exit_code == 3
        assert str(error) in result.stderr


def test_events_are_appended_a_line_each(call, job, tmp_path):
    file = tmp_path / "events.jsonl"
    job.events = [{"event": "delivered", "recipient": f"a{n}@example.com"} for n in range(1000)]
    assert call("send", "m.json", "--events", file).exit_code == 0
    assert call("send", "m.json", "--events", file).exit_code == 0
    assert [json.loads(line) for line in file.read_text().splitlines()] == job.events * 2


def test_an_events_file_that_cannot_be_opened_is_refused_before_anything_is_sent(call, job, tmp_path):
    result = call("send", "m.json", "--events", tmp_path / "none" / "events.jsonl")
    assert result.exit_code == 2
    assert "events.jsonl: No such file" in result.stderr
    assert job.ran is None


def test_log_level_writes_bulkmails_log_to_stderr(call, job):
    import logging

    logger = logging.getLogger("bulkmail")
    before = (list(logger.handlers), logger.level, logger.propagate)
    job.during = lambda: logging.getLogger("bulkmail.pool").info("opened a connection")
    try:
        result = call("send", "m.json", "--log-level", "info")
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
    assert "INFO bulkmail.pool: opened a connection" in result.stderr
    assert "opened" not in result.stdout


def test_a_warning_is_a_line_like_an_errors(monkeypatch, capsys):
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    log_to_stderr(None)
    logging.lastResort.handle(logging.LogRecord("bulkmail.x", logging.WARNING, "", 0, "it is %s", ("so",), None))
    assert capsys.readouterr().err == "bulkmail: it is so\n"
