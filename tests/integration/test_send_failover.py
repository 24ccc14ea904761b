"""Several relays, one of which is not as it should be: real jobs, against sinks with faults."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.job import Job
from bulkmail.job.report import iter_report
from integration.cli_program import bulkmail, write_job
from integration.sink_program import Sink, sink

RETRY = {"delays": ["200ms", "400ms"], "jitter": 0}


def everybody(rows: int) -> set[str]:
    return {f"r{n}@example.com" for n in range(1, rows + 1)}


def got(server: Sink) -> set[str]:
    """Whom it took a message for; each once."""
    taken = Counter(to for envelope in server.envelopes() for to in envelope["to"])
    assert max(taken.values(), default=1) == 1
    return set(taken)


class Relays:
    """Sinks by name, each with its faults."""

    def __init__(self, folder: Path, **faults: list[str]) -> None:
        self.folder, self.faults, self._stack = folder, faults, ExitStack()
        self.servers: dict[str, Sink] = {}

    def __enter__(self) -> Relays:
        for name, faults in self.faults.items():
            (self.folder / name).mkdir()
            rules = [part for rule in faults for part in (rule if rule.startswith("--") else f"--fault={rule}",)]
            self.servers[name] = self._stack.enter_context(sink(self.folder / name, "--seed=5", *rules))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, name: str, login: str = "") -> str:
        return f"smtp://{login}127.0.0.1:{self.servers[name].port}"

    def got(self, name: str) -> set[str]:
        return got(self.servers[name])


def send(folder: Path, relays: list[Any], rows: int, **keys: Any) -> tuple[Any, list[dict[str, Any]]]:
    """(report, events)."""
    events: list[dict[str, Any]] = []
    resume = keys.pop("resume", False)
    path = write_job(folder, relays, rows, **{"retry": RETRY, **keys})  # type: ignore[arg-type]
    return Job.load(path).run(on_event=events.append, resume=resume), events


def about(events: list[dict[str, Any]], scope: str) -> list[str]:
    return [one["event"] for one in events if one.get("scope") == scope]


def test_the_backup_does_it_all_when_nobody_is_there(tmp_path: Path, free_port: Any) -> None:
    with Relays(tmp_path, spare=[]) as relays:
        nobody = {"name": "main", "url": f"smtp://127.0.0.1:{free_port()}"}
        spare = {"name": "spare", "url": relays.url("spare"), "backup": True}
        report, events = send(tmp_path, [nobody, spare], 200)
        assert (report.exit_code, relays.got("spare")) == (0, everybody(200))
    assert about(events, "relay main") == ["throttled"]
    assert report.summary["relays"]["main"]["delivered"] == 0


def test_the_backup_hears_nothing_while_the_relay_works(tmp_path: Path) -> None:
    with Relays(tmp_path, main=[], spare=[]) as relays:
        main, spare = ({"name": name, "url": relays.url(name)} for name in ("main", "spare"))
        report, events = send(tmp_path, [main, spare | {"backup": True}], 300)
        assert (report.exit_code, relays.got("main")) == (0, everybody(300))
        assert relays.servers["spare"].end()["connections"] == 0
    assert about(events, "relay spare") == []


@pytest.mark.parametrize("backup", [False, True])
def test_a_refused_login_is_tried_once_and_the_other_carries_on(tmp_path: Path, backup: bool) -> None:
    with Relays(tmp_path, main=["--auth=user:right"], other=[]) as relays:
        main = {"name": "main", "url": relays.url("main", "user:wrong@"), "connections": 10}
        other = {"name": "other", "url": relays.url("other"), "backup": backup}
        report, _ = send(tmp_path, [main, other], 300)
        assert (report.exit_code, relays.got("other")) == (0, everybody(300))
        assert relays.servers["main"].end()["connections"] == 1


def test_a_broken_content_filter_defers_few(tmp_path: Path) -> None:
    with Relays(tmp_path, main=["body:451 4.3.0 content filter is not there"], other=[]) as relays:
        main, other = ({"name": name, "url": relays.url(name)} for name in ("main", "other"))
        report, events = send(tmp_path, [main, other], 1000, retry={"delays": ["200ms"] * 9})
        assert (report.exit_code, relays.got("other")) == (0, everybody(1000))
    deferred = [one for one in events if one["event"] == "deferred"]
    assert 0 < len(deferred) < 200
    assert about(events, "relay main")[:1] == ["throttled"]


def test_shares_by_weight(tmp_path: Path) -> None:
    with Relays(tmp_path, a=[], b=[]) as relays:
        a, b = ({"name": name, "url": relays.url(name), "weight": w} for name, w in (("a", 3), ("b", 1)))
        report, _ = send(tmp_path, [a, b], 400)
        assert report.exit_code == 0
        assert len(relays.got("a")) == pytest.approx(300, abs=10)
        assert relays.got("a") | relays.got("b") == everybody(400)


def test_a_retry_goes_by_the_next_relay(tmp_path: Path) -> None:
    with Relays(tmp_path, a=["rcpt:451 4.7.1 Later"], b=[]) as relays:
        a, b = ({"name": name, "url": relays.url(name)} for name in ("a", "b"))
        report, events = send(tmp_path, [a, b], 20, retry=RETRY | {"delays": ["200ms"], "relay": "next"})
        assert (report.exit_code, relays.got("b")) == (0, everybody(20))
    deferred = {one["recipient"] for one in events if one["event"] == "deferred"}
    assert deferred
    rows = {row["recipient"]: row for row in iter_report(tmp_path / "news.journal")}
    assert {rows[who]["relay"] for who in deferred} == {"b"}
    with closing(sqlite3.connect(tmp_path / "news.journal")) as db:
        assert {route for (route,) in db.execute("SELECT DISTINCT route FROM chunks")} == {"*", "* !a"}


def test_retries_by_class(tmp_path: Path) -> None:
    faults = ["rcpt:450 4.2.0 Greylisted@r1@*", "rcpt:452 4.2.2 mailbox full@r2@*", "rcpt:450 4.7.1 denied@r3@*"]
    with Relays(tmp_path, main=faults) as relays:
        classes = {"greylisted": {"delays": ["100ms"] * 4}, "mailbox_full": "never"}
        report, _ = send(tmp_path, [relays.url("main")], 9, retry=RETRY | {"classes": classes})
        assert report.exit_code == 1
    rows = {row["recipient"]: row for row in iter_report(tmp_path / "news.journal")}
    found = [(row["state"], row["class"], row["attempts"]) for row in (rows[f"r{n}@example.com"] for n in (1, 2, 3))]
    assert found == [("failed", "greylisted", 5), ("failed", "mailbox_full", 1), ("failed", "policy", 3)]


def test_a_time_that_the_server_names_is_waited_for(tmp_path: Path) -> None:
    with Relays(tmp_path, main=["rcpt:451 4.7.1 try again in 2 seconds@1/5"]) as relays:
        report, events = send(tmp_path, [relays.url("main")], 5)
        assert report.exit_code == 0
    first = next(one for one in events if one["event"] == "deferred")
    again = next(one for one in events if one["event"] == "delivered" and one["attempt"] == 2)
    assert again["ts"] - first["ts"] >= 1.9


def test_a_job_stops_before_more_harm_is_done_and_can_be_resumed(tmp_path: Path) -> None:
    rule = {"failed": "5%", "after": 100}
    with Relays(tmp_path, main=["rcpt:550 5.1.1 No such user@r?5?@*", "rcpt:550 5.1.1 No such user@r?5@*"]) as relays:
        keys = {"limits": {"rate": "300/s"}}
        report, events = send(tmp_path, [relays.url("main")], 999, stop_if=rule, **keys)
        assert report.exit_code == 3 and report.summary["state"] == "stopped"
        assert report.summary["pending"] > 100 and report.summary["failed"] >= 5
        stopped = events[-1]
        assert stopped["event"] == "stopped" and "'failed' 5%" in stopped["why"] and stopped["why"] == str(report.error)
        with closing(sqlite3.connect(tmp_path / "news.journal")) as db:
            assert db.execute("SELECT why FROM run").fetchone() == (stopped["why"],)
        done = bulkmail("send", "news.json", "--resume", "--json", cwd=tmp_path)
        assert done.returncode == 3 and "stop_if says 'failed' 5%" in done.stderr, "the list is as bad as it was"
        again, _ = send(tmp_path, [relays.url("main")], 999, resume=True, stop_if={"failed": 900}, **keys)
        assert again.exit_code == 1 and again.summary["pending"] == 0
    assert json.loads(done.stdout)["failed"] >= report.summary["failed"]
