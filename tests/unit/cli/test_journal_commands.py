"""`status` and `report` over a stand-in for bulkmail.job.report; `schema` over one for the manifest."""

from __future__ import annotations

import json
import os
import sys
import time
import types

import pytest

from bulkmail.cli import status as status_module
from bulkmail.cli.output import rate, summary_text, waiting_text
from bulkmail.errors import JournalError
from bulkmail.values import duration


@pytest.fixture
def journal(monkeypatch):
    """.summaries: what status() returns, one after the other; .written: how write_report was called."""
    module = types.ModuleType("bulkmail.job.report")
    module.summaries, module.written = [], []

    def status(path):
        if path == "none.journal":
            raise JournalError("none.journal: no such journal")
        return module.summaries.pop(0)

    def write_report(path, form, out, state=None):
        module.written.append((path, form, state))
        out.write("line é\n")

    module.status, module.write_report = status, write_report
    monkeypatch.setitem(sys.modules, "bulkmail.job.report", module)
    monkeypatch.setattr(status_module, "WATCH_SECONDS", 0.0)
    return module


SUMMARY = {
    "job": "news", "state": "running", "recipients": 1500, "delivered": 1200, "failed": 0, "deferred": 4, "in_doubt": 1,
    "pending": 295, "suppressed": 0, "attempts": 1210, "bytes": 1, "seconds": 185.0, "messages_per_second": 6.5,
    "relays": {
        "main": {"delivered": 1200, "deferred": 4, "failed": 0, "connections": 5, "last_error": "421 \x1b[2Jbusy"}
    },
    "journal": "news.journal",
}  # fmt: skip


def test_the_summary_in_words():
    assert summary_text(SUMMARY).splitlines() == [
        "news: running, 1,500 recipients in 3:05, 6.5/s",
        "  delivered          1,200",
        "  deferred               4",
        "  in doubt               1",
        "  pending              295",
        r"  relay main: delivered 1,200, deferred 4, connections 5; last error: 421 \x1b[2Jbusy",
        "  journal    news.journal",
    ]


def egresses():
    calm = {"deferred": 0, "failed": 0, "failures": 0, "last_error": None}
    return {
        "a": calm | {"delivered": 1200, "connections": 4, "state": "ok"},
        "b": calm
        | {"delivered": 7, "connections": 0, "failures": 3, "state": "out", "last_error": "socks5h://u:***@b"},
        "c": calm
        | {"delivered": 0, "connections": 1, "failures": 1, "state": "on trial", "last_error": "\x1b[2Jreset"},
        "d": calm | {"delivered": 5, "connections": 1, "failures": 1, "state": "ok", "last_error": "421 busy"},
        "e": calm | {"delivered": 0, "connections": 0, "state": None},
    }


def test_each_egress_has_a_line_with_its_state_and_why_it_is_out():
    main = SUMMARY["relays"]["main"] | {"last_error": None, "egress": egresses()}
    lines = summary_text(SUMMARY | {"relays": {"main": main}}).splitlines()
    assert lines[-7:-1] == [
        "  relay main: delivered 1,200, deferred 4, connections 5",
        "    egress a: ok; delivered 1,200, connections 4",
        "    egress b: out; delivered 7, failures 3; why: socks5h://u:***@b",
        r"    egress c: on trial; connections 1, failures 1; why: \x1b[2Jreset",
        "    egress d: ok; delivered 5, connections 1, failures 1; last error: 421 busy",
        "    egress e: nothing yet",
    ]


def test_watching_draws_over_the_egresses_lines_too():
    shown = SUMMARY | {"relays": {"main": SUMMARY["relays"]["main"] | {"egress": egresses()}}}
    assert status_module.show(shown, False, 0) == len(summary_text(shown).splitlines()) == 12


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system has one time zone for all programs")
def test_a_time_that_is_waited_for_says_its_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert waiting_text({"until": 1796022000.0, "why": "x"}) == "waits until 2026-11-30 08:00 CET (x)"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_words_for_numbers():
    assert [duration(s) for s in (0.04, 59.94, 60, 3599, 93785)] == ["0.0 s", "59.9 s", "1:00", "59:59", "26:03:05"]
    assert [rate(r) for r in (0.25, 9.9, 10, 12345.6)] == ["0.2/s", "9.9/s", "10/s", "12,346/s"]


def test_status(call, journal):
    journal.summaries = [SUMMARY, SUMMARY]
    assert call("status", "news.journal").stdout == summary_text(SUMMARY) + "\n"
    assert json.loads(call("status", "news.journal", "--json").stdout) == SUMMARY


def test_watching_ends_with_the_job(call, journal):
    journal.summaries = [SUMMARY, {**SUMMARY, "delivered": 1300}, {**SUMMARY, "state": "finished"}, SUMMARY]
    result = call("status", "news.journal", "--watch", "--json")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["running", "running", "finished"]
    assert len(journal.summaries) == 1


@pytest.fixture
def told(monkeypatch):
    """What the run answers; None: it does not."""
    answers = []

    def ask(journal, request, seconds):
        assert request == {"do": "status"}
        if answers[0] is None:
            raise JournalError("no run holds it")
        return answers[0]

    monkeypatch.setattr("bulkmail.job.control_socket.ask", ask)
    return answers


LIVE = {"limits": {"rate": "500/s"}, "limited_by": {"by": "rate", "scope": "job", "rate": 500.0}, "state": "running"}


def test_what_only_the_run_knows_is_asked_of_it(call, journal, told):
    told.append(LIVE | {"webhook": None})
    journal.summaries = [SUMMARY, SUMMARY]
    found = json.loads(call("status", "news.journal", "--json").stdout)
    assert found == SUMMARY | {name: LIVE[name] for name in ("limits", "limited_by")}
    assert call("status", "news.journal").stdout.splitlines()[1] == "  held by the rate of the job, 500/s"


def test_watching_shows_the_rate_now_and_what_is_left(call, journal, told):
    told.append(LIVE)
    journal.summaries = [SUMMARY, {**SUMMARY, "delivered": 1300, "pending": 195}, {**SUMMARY, "state": "finished"}]
    result = call("status", "news.journal", "--watch", "--json")
    first, second, last = map(json.loads, result.stdout.splitlines())
    assert "rate_now" not in first and "rate_now" not in last and "limits" not in last
    assert second["rate_now"] > 0 and second["seconds_left"] is not None


def test_watching_ends_with_a_run_that_answers_no_more(call, journal, told):
    told.append(None)
    journal.summaries = [SUMMARY, SUMMARY, {**SUMMARY, "state": "stopped"}]
    assert call("status", "news.journal", "--watch").exit_code == 0


def test_a_paused_job_is_said_to_be(call, journal, told):
    told.append({"limited_by": {"by": "paused"}})
    journal.summaries = [SUMMARY | {"paused": True}]
    lines = call("status", "news.journal").stdout.splitlines()
    assert lines[0].startswith("news: paused, 1,500 recipients") and "held by" not in lines[1]


def test_on_a_terminal_no_line_wraps_and_none_is_above_its_top(monkeypatch, capsys):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 5)))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    drawn = status_module.show(SUMMARY, False, 0)
    lines = capsys.readouterr().out.splitlines()
    assert drawn == len(lines) == 4 and max(map(len, lines)) < 30
    status_module.show(SUMMARY, False, drawn)
    assert capsys.readouterr().out.startswith("\x1b[4A\x1b[J")


def test_no_journal(call, journal):
    result = call("status", "none.journal")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "bulkmail: none.journal: no such journal\n")


def test_report_to_stdout_and_to_a_file(call, journal, tmp_path):
    assert call("report", "news.journal").stdout == "line é\n"
    out = tmp_path / "r.csv"
    assert call("report", "news.journal", "--format", "csv", "--state", "in_doubt", "--out", out).stdout == ""
    assert out.read_bytes() == "line é\n".encode()
    assert journal.written == [("news.journal", "jsonl", None), ("news.journal", "csv", "in_doubt")]


def test_a_report_that_fails_leaves_the_earlier_file(call, journal, tmp_path):
    def fail(path, form, out, state=None):
        out.write("half a line")
        raise JournalError("news.journal: damaged")

    journal.write_report = fail
    out = tmp_path / "r.csv"
    out.write_text("earlier")
    assert call("report", "news.journal", "--out", out).exit_code == 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("r.csv", "earlier")]


def test_a_report_is_not_written_over_a_journal(call, journal, tmp_path):
    out = tmp_path / "other.journal"
    out.write_bytes(b"SQLite format 3\0 and what follows")
    result = call("report", "news.journal", "--out", out)
    assert result.exit_code == 2 and "other.journal is a database" in result.stderr
    assert out.read_bytes() == b"SQLite format 3\0 and what follows"
    assert [path.name for path in tmp_path.iterdir()] == ["other.journal"]


def test_a_report_to_a_named_pipe_goes_through_it(call, journal, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert call("report", "news.journal", "--out", tmp_path / "pipe").exit_code == 0
        assert os.read(reader, 100) == "line é\n".encode()
    finally:
        os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_report_refuses_a_state_that_is_none(call, journal):
    assert call("report", "news.journal", "--state", "sent").exit_code == 2
    assert journal.written == []


def test_schema_is_json(call, monkeypatch):
    module = types.ModuleType("bulkmail.job.manifest")
    module.manifest_schema = lambda: {"type": "object"}
    monkeypatch.setitem(sys.modules, "bulkmail.job.manifest", module)
    assert json.loads(call("schema").stdout) == {"type": "object"}
