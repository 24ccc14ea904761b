"""A job against Postfix's smtp-sink with its fault switches: exit status, counts, and that a resumed run goes on.

smtp-sink(1): -f refuses a command with 5xx, -r with 4xx, -q hangs up at it, -Q says 421 and hangs up; "." is the end of
data.
"""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.job.job import Job
from bulkmail.job.report import iter_report, status
from integration.cli_program import write_job

STATES = ("delivered", "failed", "deferred", "in_doubt", "pending", "suppressed")
RETRY = {"delays": ["100ms"], "patience": "400ms"}
FEW, MANY = 30, 250  # fewer and more than the refusals in a row that mean that a relay refuses everyone


def send(folder, url, rows, keys=None, **options):
    """(exit status, counts above 0, why it stopped)"""
    job = Job.load(write_job(folder, url, rows, **{"retry": RETRY, **(keys or {})}))
    report = job.run(**options)
    summary, kept = report.summary, status(folder / "news.journal")
    assert sum(summary[state] for state in STATES) == summary["recipients"] == rows
    assert {state: kept[state] for state in STATES} == {state: summary[state] for state in STATES}
    assert kept["state"] == summary["state"] == ("stopped" if report.exit_code == 3 else "finished")
    return report.exit_code, {state: summary[state] for state in STATES if summary[state]}, str(report.error or "")


def resume(folder, server, rows):
    """The same job by a relay that works (relays may change): (exit status, counts). Nobody gets it twice from it."""
    code, counts, why = send(folder, server.url, rows, resume=True)
    assert why == ""
    got = Counter(address for mail in server.mails for address in mail.recipients)
    assert max(got.values(), default=1) == 1
    return code, counts, got


def expected(rows):
    return {f"r{n}@example.com" for n in range(1, rows + 1)}


# -- it works


@pytest.mark.parametrize(
    "switches",
    [[], ["-p"], ["-8"], ["-e"], ["-f", "ehlo"], ["-q", "quit"], ["-Q", "quit"], ["-f", "quit"]],
    ids=" ".join,
)
def test_everybody_is_delivered(start_smtp_sink, tmp_path, switches):
    sink = start_smtp_sink(*switches, keep=True)
    assert send(tmp_path, sink.url, MANY) == (0, {"delivered": MANY}, "")
    assert len(sink.dumped()) == MANY


@pytest.mark.parametrize("delay", [["-w", "1"], ["-H", "1"]], ids=" ".join)
def test_a_slow_relay_is_waited_for(start_smtp_sink, tmp_path, delay):
    assert send(tmp_path, start_smtp_sink(*delay).url, 5) == (0, {"delivered": 5}, "")


# -- it refuses for good


@pytest.mark.parametrize("phase", ["rcpt", "data", "."])
def test_a_few_who_are_refused_have_failed(start_smtp_sink, tmp_path, phase):
    sink = start_smtp_sink("-f", phase, keep=True)
    assert send(tmp_path, sink.url, FEW)[:2] == (1, {"failed": FEW})
    assert phase == "." or sink.dumped() == []  # it keeps what it refuses at the end of data
    report = list(iter_report(tmp_path / "news.journal"))
    assert {row["state"] for row in report} == {"failed"}
    assert all(500 <= row["code"] < 600 and row["attempts"] == 1 and row["relay"] for row in report)


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "."])
def test_a_relay_that_refuses_everyone_is_3_and_burns_nobody(start_smtp_sink, start_aiosmtpd, tmp_path, phase):
    sink = start_smtp_sink("-f", phase)
    code, counts, why = send(tmp_path, sink.url, MANY)
    assert (code, counts) == (3, {"pending": MANY})
    assert "refuses" in why
    code, counts, got = resume(tmp_path, start_aiosmtpd(), MANY)
    assert (code, counts) == (0, {"delivered": MANY})
    assert set(got) == expected(MANY)


# -- it refuses for now


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "."])
def test_refused_for_now_each_time_has_failed_in_the_end(start_smtp_sink, tmp_path, phase):
    code, counts, _ = send(tmp_path, start_smtp_sink("-r", phase).url, FEW)
    assert (code, counts) == (1, {"failed": FEW})
    report = list(iter_report(tmp_path / "news.journal"))
    assert {row["attempts"] for row in report} == {2}
    assert all(400 <= row["code"] < 500 for row in report)


def test_421_to_the_end_of_data_is_a_refusal_for_now(start_smtp_sink, tmp_path):
    code, counts, _ = send(tmp_path, start_smtp_sink("-Q", ".").url, 5)
    assert (code, counts) == (1, {"failed": 5})


# -- it hangs up, or is not there


@pytest.mark.parametrize(
    "switches",
    [
        *(["-q", phase] for phase in ("connect", "ehlo", "mail", "rcpt", "data")),
        *(["-Q", phase] for phase in ("connect", "ehlo", "mail", "rcpt", "data")),
        ["-f", "connect"],
        ["-r", "connect"],
        ["-r", "ehlo"],
        ["-f", "ehlo,helo"],
    ],
    ids=" ".join,
)
def test_a_relay_that_ends_every_connection_is_3_and_burns_nobody(start_smtp_sink, start_aiosmtpd, tmp_path, switches):
    code, counts, why = send(tmp_path, start_smtp_sink(*switches).url, MANY)
    assert code == 3
    assert set(counts) <= {"pending", "deferred"}
    assert "given up" in why
    code, counts, got = resume(tmp_path, start_aiosmtpd(), MANY)
    assert (code, counts) == (0, {"delivered": MANY})
    assert set(got) == expected(MANY)


def test_a_relay_that_hangs_up_at_the_end_of_data_leaves_few_in_doubt(start_smtp_sink, start_aiosmtpd, tmp_path):
    code, counts, why = send(tmp_path, start_smtp_sink("-q", ".").url, MANY)
    assert code == 3
    assert 1 <= counts["in_doubt"] <= 60
    assert counts["in_doubt"] + counts["pending"] == MANY
    assert "given up" in why
    skipped, counts, got = resume(tmp_path, start_aiosmtpd(), MANY)
    assert skipped == 1
    assert counts["delivered"] == len(got)
    assert counts["delivered"] + counts["in_doubt"] == MANY


def test_those_in_doubt_are_sent_to_again_if_asked(start_smtp_sink, start_aiosmtpd, tmp_path):
    _, counts, _ = send(tmp_path, start_smtp_sink("-q", ".").url, MANY)
    assert counts["in_doubt"] >= 1
    server = start_aiosmtpd()
    assert send(tmp_path, server.url, MANY, resume=True, in_doubt="resend")[:2] == (0, {"delivered": MANY})
    assert {address for mail in server.mails for address in mail.recipients} == expected(MANY)
    assert len(server.mails) == MANY


# -- several relays


@pytest.mark.parametrize("switches", [["-q", "connect"], ["-f", "mail"], ["-f", "rcpt"], ["-q", "mail"]], ids=" ".join)
def test_the_other_relay_does_it_all(start_smtp_sink, tmp_path, switches):
    bad, good = start_smtp_sink(*switches), start_smtp_sink(keep=True)
    relays = [{"name": "bad", "url": bad.url}, {"name": "good", "url": good.url}]
    code, counts, _ = send(tmp_path, bad.url, MANY * 4, {"relays": relays})
    assert (code, counts) == (0, {"delivered": MANY * 4})
    assert len(good.dumped()) == MANY * 4


def test_a_relay_where_nobody_listens_leaves_it_to_the_other(start_smtp_sink, free_port, tmp_path):
    good = start_smtp_sink()
    relays = [{"name": "down", "url": f"smtp://127.0.0.1:{free_port()}"}, {"name": "good", "url": good.url}]
    assert send(tmp_path, good.url, MANY, {"relays": relays})[0] == 0
    relays = status(tmp_path / "news.journal")["relays"]
    assert relays["good"]["delivered"] == MANY
    assert relays["good"]["last_error"] is None
    assert (relays["down"]["delivered"], relays["down"]["connections"]) == (0, 0)
    assert "refused" in relays["down"]["last_error"].lower()
