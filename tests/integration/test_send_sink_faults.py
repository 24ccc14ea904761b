"""A job against our own sink and its faults: every recipient ends once, as the sink has it. (test_send_faulty_relays.py
has the same against a foreign server.)"""

from __future__ import annotations

import fnmatch
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.job import Job
from bulkmail.job.report import iter_report
from integration.cli_program import write_job
from integration.sink_program import sink

ROWS = 120
RETRY = {"delays": ["20ms"] * 20, "patience": "60s"}


def outcome(
    folder: Path, *faults: str, flags: tuple[str, ...] = (), scheme: str = "smtp", **keys: Any
) -> dict[str, set[str]]:
    """The addresses by state. Asserts that the delivered are those whose message the sink has, each once."""
    rules = [part for rule in faults for part in ("--fault", rule)]
    with sink(folder, *rules, "--seed", "3", *flags) as server:
        job = write_job(folder, f"{scheme}://127.0.0.1:{server.port}", ROWS, **{"retry": RETRY, **keys})
        report = Job.load(job).run()
        counts = server.end()
        kept = Counter(to for envelope in server.envelopes() for to in envelope["to"])
    states: dict[str, set[str]] = {}
    for row in iter_report(folder / "news.journal"):
        states.setdefault(row["state"], set()).add(row["recipient"])
    assert sum(map(len, states.values())) == ROWS
    assert sum(report.summary[state] for state in states) == ROWS
    assert set(kept) == states.get("delivered", set())
    assert max(kept.values(), default=1) == 1
    assert counts["recipients"] == len(kept)
    return states


def everybody(pattern: str = "*") -> set[str]:
    return {email for n in range(1, ROWS + 1) if fnmatch.fnmatchcase(email := f"r{n}@example.com", pattern)}


ENDS = ["connect:drop@1/3", "mail:reset@1/29", "rcpt:drop@1/31", "data:reset@1/37"]
PASSING = {
    "refusals for now": ["mail:451 4.3.0 Later@10%", "rcpt:451 4.7.1 Later@20%", "data:452 4.3.1 Full@10%",
                         "body:451 4.3.0 Later@10%"],
    "421 everywhere": ["greeting:421 4.3.2 Busy@1/3", "mail:421 Gone@1/29", "rcpt:421 Gone@1/31", "data:421 Gone@1/37",
                       "body:421 Gone@1/41"],
    "slowly": ["greeting:delay=50ms", "ehlo:drip=5000/s", "mail:delay=20ms@1/10", "rcpt:drip=1000/s@1/10",
               "body:delay=20ms@1/10"],
    "at the edges": ["ehlo:421 Busy@1/2", "quit:drop"],
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_keeps_nobody_from_delivery(tmp_path: Path, name: str) -> None:
    assert outcome(tmp_path, *PASSING[name]) == {"delivered": everybody()}


def test_connections_that_end_keep_nobody_from_delivery(tmp_path: Path) -> None:
    assert outcome(tmp_path, *ENDS, flags=("--without", "CHUNKING")) == {"delivered": everybody()}


def test_with_chunks_a_message_may_have_been_sent_when_its_connection_ends(tmp_path: Path) -> None:
    states = outcome(tmp_path, *ENDS)
    assert set(states) <= {"delivered", "in_doubt"}


def test_who_is_refused_for_good_has_failed_and_nobody_else(tmp_path: Path) -> None:
    states = outcome(tmp_path, "rcpt:550 5.1.1 No such user@R1?@example.com", "body:451 4.3.0 Later@1/10")
    assert states == {"failed": everybody("r1?@*"), "delivered": everybody() - everybody("r1?@*")}
    for row in iter_report(tmp_path / "news.journal"):
        if row["state"] == "failed":
            assert (row["code"], row["attempts"]) == (550, 1)


@pytest.mark.parametrize("end", ["drop", "reset"])
def test_whose_message_was_lost_at_its_end_is_in_doubt(tmp_path: Path, end: str) -> None:
    """And those whose messages were pipelined behind it: they had been sent, and nobody answered for them."""
    states = outcome(tmp_path, f"body:{end}@r?5@*")
    assert set(states) == {"delivered", "in_doubt"}
    assert states["in_doubt"] >= everybody("r?5@*")


def test_lmtp_tells_recipients_of_a_message_apart(tmp_path: Path) -> None:
    states = outcome(
        tmp_path,
        "body:450 4.2.2 Full@10%",
        "body:550 5.2.1 Off@*7@*",
        "rcpt:451 Later@1/9",
        flags=("--lmtp",),
        scheme="lmtp",
    )
    assert states == {"failed": everybody("*7@*"), "delivered": everybody() - everybody("*7@*")}
