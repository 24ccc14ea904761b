"""status and report: every recipient once, with what is known of each, in every state and format."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.detail import DetailBuffer
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import DEFERRED, FAILED, IN_DOUBT, STATES, Advance, Chunk, NewChunk, Trouble
from bulkmail.job.report import COLUMNS, iter_report, status, write_report
from unit.job.journal_tools import OFFSET, PIN, new_journal, read, rows, settle

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
DELIVERED = ord("D")
QUEUED = b"250 2.0.0 Ok: queued as 4ABC\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.journal"


def report(path: Path, state: str | None = None, **more: Any) -> dict[str, dict[str, Any]]:
    """The report by address; each address may stand once."""
    lines = list(iter_report(path, state, **({"read": read} | more)))
    found = {line["recipient"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def pick(line: dict[str, Any], *keys: str) -> list[Any]:
    return [line[key] for key in keys]


def user(number: int) -> str:
    return f"user{number}@example.com"


class Story:
    """A journal of one route, to which things happen."""

    def __init__(self, path: Path, n: int = 10, **create: Any) -> None:
        self.journal = new_journal(path, **create)
        with self.journal.fill() as filler:
            filler.add_chunk("*", rows(1, n), n)
        self.main = self.journal.name_id("main")
        self.proxy = self.journal.name_id("a")
        self.buffer = DetailBuffer()
        (self.chunk,) = self.journal.lease(1, NOW)

    def trouble(self, chunk: Chunk, position: int, outcome: int, time: float, **more: Any) -> Trouble:
        number = chunk.numbers[position]
        return Trouble(
            user(number), number, chunk.no, position, chunk.attempt + 1, outcome, relay=self.main, time=time, **more
        )

    def deliver(self, chunk: Chunk, position: int, time: float, reply: bytes = QUEUED) -> None:
        attempt = chunk.attempt + 1
        self.buffer.add(chunk.no, position, attempt, self.main, self.proxy, time, time + 0.25, 250, reply, DELIVERED)

    def commit(self, chunk: Chunk, outcome: bytes, claimed: int | None = None, **more: Any) -> None:
        self.journal.advance(settle(chunk, outcome, claimed, details=self.buffer.flush(), **more))


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_a_delivery_tells_its_reply_and_its_way(path: Path) -> None:
    story = Story(path, meta={"x": "y"})
    story.deliver(story.chunk, 2, NOW)
    story.commit(story.chunk, b"..D")
    story.journal.close()
    assert report(path, message_id=lambda number, address: f"<{number}.{address}>")[user(3)] == {
        "recipient": user(3),
        "state": "delivered",
        "class": None,
        "code": 250,
        "enhanced": "2.0.0",
        "reply": "2.0.0 Ok: queued as 4ABC",
        "attempts": 1,
        "relay": "main",
        "egress": "a",
        "message_id": "<3.user3@example.com>",
        "first_attempt": "2023-11-14T22:13:20.000Z",
        "last_attempt": "2023-11-14T22:13:20.000Z",
    }


@pytest.mark.parametrize(("shared", "number", "address"), [({}, 1, user(1)), ({"message_id_shared": "1"}, 0, "")])
def test_message_ids_are_those_that_were_sent(path: Path, shared: dict[str, str], number: int, address: str) -> None:
    from bulkmail.message.compiled import make_message_id

    story = Story(path, meta={"message_id_domain": "example.com"} | shared)
    story.commit(story.chunk, b"D")
    story.journal.close()
    assert report(path)[user(1)]["message_id"] == make_message_id("news", number, address, "example.com")
    assert report(path)[user(2)]["message_id"] is None  # not sent yet


def test_who_waits_has_nothing_to_tell(path: Path) -> None:
    story = Story(path)
    story.journal.close()
    line = report(path, message_id=lambda number, address: "<id>")[user(1)]
    assert line.pop("recipient") == user(1)
    assert line.pop("state") == "pending"
    assert line.pop("attempts") == 0
    assert set(line.values()) == {None}


def test_attempts_are_joined_over_retry_chunks(path: Path) -> None:
    story = Story(path, n=3)
    greylisted = [
        story.trouble(story.chunk, i, DEFERRED, NOW + i, class_="greylisted", code=450, enhanced="4.2.0", reply="later")
        for i in range(3)
    ]
    retry = NewChunk("*", rows(1, 3), 3, 1, NOW + 60, story.chunk.no)
    story.commit(story.chunk, b"mmm", troubles=greylisted, retries=[retry])
    (chunk,) = story.journal.lease(1, NOW + 60)
    story.deliver(chunk, 0, NOW + 60)
    refused = story.trouble(chunk, 1, FAILED, NOW + 61, class_="mailbox", code=550, enhanced="5.1.1", reply="unknown")
    story.commit(chunk, b"DF", troubles=[refused])
    story.journal.close()
    found = report(path)
    delivered, failed, waiting = (found[user(number)] for number in (1, 2, 3))
    times = ("first_attempt", "last_attempt")
    assert pick(delivered, "state", "attempts", "code", "class") == ["delivered", 2, 250, None]
    assert pick(delivered, *times) == ["2023-11-14T22:13:20.000Z", "2023-11-14T22:14:20.000Z"]
    assert pick(failed, "state", "attempts", "reply", "class") == ["failed", 2, "unknown", "mailbox"]
    assert pick(failed, *times) == ["2023-11-14T22:13:21.000Z", "2023-11-14T22:14:21.000Z"]
    assert pick(waiting, "state", "attempts", "class") == ["deferred", 1, "greylisted"]
    assert pick(waiting, "code", "enhanced", "relay") == [450, "4.2.0", "main"]


def test_a_deferral_still_in_its_chunk_is_deferred(path: Path) -> None:
    story = Story(path)
    story.commit(story.chunk, b"d", troubles=[story.trouble(story.chunk, 0, DEFERRED, NOW, reply="busy")])
    story.journal.close()
    assert (report(path)[user(1)]["state"], report(path)[user(1)]["attempts"]) == ("deferred", 1)


def test_doubt_is_told_with_and_without_a_row_of_its_own(path: Path) -> None:
    story = Story(path)
    lost = story.trouble(story.chunk, 0, IN_DOUBT, NOW, reply="the connection was lost")
    story.commit(story.chunk, b"?", claimed=2, troubles=[lost])
    assert {line["state"] for line in report(path).values()} == {"in_doubt", "pending"}
    assert report(path)[user(2)]["state"] == "pending"  # under way, while the run lives
    story.journal.close()
    for recovered in (False, True):
        if recovered:
            journal = Journal.open(path)
            journal.recover("skip")
            journal.close()
        found = report(path, "in_doubt")
        assert list(found) == [user(1), user(2)]
        assert (found[user(1)]["reply"], found[user(1)]["attempts"]) == ("the connection was lost", 1)
        assert (found[user(2)]["reply"], found[user(2)]["attempts"]) == (None, 1)


def test_an_old_deferral_is_no_explanation_of_a_later_doubt(path: Path) -> None:
    story = Story(path, n=1)
    busy = story.trouble(story.chunk, 0, DEFERRED, NOW, reply="busy")
    story.commit(story.chunk, b"m", troubles=[busy], retries=[NewChunk("*", rows(1, 1), 1, 1, NOW, 1)])
    (chunk,) = story.journal.lease(1, NOW)
    story.commit(chunk, b"", claimed=1)
    story.journal.close()
    line = report(path)[user(1)]
    assert (line["state"], line["attempts"], line["reply"]) == ("in_doubt", 2, None)
    assert line["first_attempt"] == "2023-11-14T22:13:20.000Z"


def test_who_was_sent_to_again_stands_once(path: Path) -> None:
    story = Story(path, n=2)
    story.commit(story.chunk, b"?D")
    story.journal.close()
    story.journal = Journal.open(path)
    story.journal.recover("resend")
    assert report(path)[user(1)]["state"] == "deferred"
    (chunk,) = story.journal.lease(1, NOW)
    story.deliver(chunk, 0, NOW)
    story.commit(chunk, b"D")
    story.journal.close()
    line = report(path)[user(1)]
    assert (line["state"], line["attempts"]) == ("delivered", 2)


def test_those_decided_before_sending_say_why_and_need_no_source(path: Path) -> None:
    with new_journal(path) as journal, journal.fill() as filler:
        filler.add_chunk("*", rows(1, 2), 2, b"SS", "duplicate")
        bad = filler.add_chunk("*", rows(3, 2), 2, b"FF")
        filler.add_trouble(Trouble("", 3, bad, 0, 0, FAILED, "bad_row", reply="no email", time=NOW))
        filler.add_trouble(Trouble(user(4), 4, bad, 1, 0, FAILED, "message", reply="a line break in name", time=NOW))
    lines = list(iter_report(path, "failed", read=None))  # the pinned list does not exist
    assert [(line["recipient"], line["class"], line["reply"]) for line in lines] == [
        (None, "bad_row", "no email"),
        (user(4), "message", "a line break in name"),
    ]
    assert {(line["attempts"], line["first_attempt"], line["message_id"]) for line in lines} == {(0, None, None)}
    twins = report(path, "suppressed").values()
    assert [pick(line, "state", "class") for line in twins] == [["suppressed", "duplicate"]] * 2


@pytest.mark.parametrize(
    ("raw", "enhanced", "text"),
    [
        (b"250 2.0.0 Ok\r\n", "2.0.0", "2.0.0 Ok"),
        (b"250-2.0.0 two\r\n250 2.0.0 lines\r\n", "2.0.0", "2.0.0 two 2.0.0 lines"),
        (b"2.0.0 without a code", "2.0.0", "2.0.0 without a code"),
        (b"250\r\n", None, None),
        (b"", None, None),
        (b"250 \xff\x1b[31mred\x00\r\n", None, "\N{REPLACEMENT CHARACTER}?[31mred?"),
    ],
)
def test_replies_are_shown_as_text_that_harms_no_terminal(
    path: Path, raw: bytes, enhanced: str | None, text: str | None
) -> None:
    story = Story(path, n=1)
    story.deliver(story.chunk, 0, NOW, raw)
    story.commit(story.chunk, b"D")
    story.journal.close()
    line = report(path)[user(1)]
    assert (line["enhanced"], line["reply"]) == (enhanced, text)


def test_words_with_nul_and_surrogates_are_kept_readable(path: Path) -> None:
    story = Story(path, n=2)
    odd = story.trouble(story.chunk, 0, FAILED, NOW, reply="a\0b\ud800c")
    story.commit(story.chunk, b"FD", troubles=[odd], progress={"relays": {"main": {"last_error": "\ud800"}}})
    story.journal.close()
    assert report(path)[user(1)]["reply"] == "a\N{REPLACEMENT CHARACTER}b?c"
    assert status(path)["relays"]["main"]["last_error"]


# ---- the whole -------------------------------------------------------------------------------------------------------


def every_state(path: Path) -> Story:
    story = Story(path, n=8)
    with_reply = [
        story.trouble(story.chunk, 1, FAILED, NOW, reply="<b>no</b> & \"never\", '=1+1'"),
        story.trouble(story.chunk, 2, DEFERRED, NOW, reply="later"),
    ]
    story.deliver(story.chunk, 0, NOW)
    story.deliver(story.chunk, 5, NOW)
    relays = {"main": {"delivered": 2, "failed": 1, "deferred": 1, "connections": 3, "last_error": "421 bye"}}
    story.commit(story.chunk, b"DFd?SD", troubles=with_reply, progress={"attempts": 5, "bytes": 9, "relays": relays})
    return story


def test_the_report_agrees_with_the_counts(path: Path) -> None:
    story = every_state(path)
    for close in (lambda: None, story.journal.close):
        close()
        summary = status(path)
        assert Counter(line["state"] for line in report(path).values()) == Counter(
            {name: summary[name] for name in STATES if summary[name]}
        )
        for name in STATES:
            assert len(report(path, name)) == summary[name]
    assert summary["recipients"] == 8 == sum(summary[name] for name in STATES)


def test_status_has_the_summarys_keys(path: Path) -> None:
    story = every_state(path)
    summary = status(path, now=NOW)
    assert list(summary) == [
        "job",
        "state",
        "recipients",
        "delivered",
        "failed",
        "deferred",
        "in_doubt",
        "pending",
        "suppressed",
        "attempts",
        "bytes",
        "seconds",
        "messages_per_second",
        "relays",
        "journal",
    ]
    assert summary["relays"]["main"]["connections"] == 3
    assert (summary["job"], summary["attempts"], summary["bytes"]) == ("news", 5, 9)
    story.journal.finish("stopped", "421")
    story.journal.close()
    assert status(path)["state"] == "stopped"
    assert status(path)["relays"] == {
        "main": {"delivered": 2, "failed": 1, "deferred": 1, "connections": 0, "last_error": "421 bye"}
    }
    json.dumps(summary)


def test_status_adds_up_runs(path: Path) -> None:
    every_state(path).journal.close()
    journal = Journal.open(path)
    journal.recover()
    relays = {"main": {"delivered": 1, "connections": 1}, "spare": {"delivered": 4, "last_error": None}}
    journal.finish("finished", None, {"attempts": 11, "bytes": 90, "relays": relays})
    journal.close()
    summary = status(path)
    assert (summary["state"], summary["attempts"], summary["bytes"]) == ("finished", 11, 90)
    assert summary["relays"]["main"] == {
        "delivered": 3,
        "deferred": 1,
        "failed": 1,
        "connections": 0,
        "last_error": "421 bye",
    }
    assert summary["relays"]["spare"]["delivered"] == 4


def egress_figures(**figures: Any) -> dict[str, Any]:
    """What a run's progress has of one egress."""
    zero = dict.fromkeys(("delivered", "deferred", "failed", "connections", "open", "failures"), 0)
    return zero | {"state": "ok", "last_error": None} | figures


def progress_of(egresses: dict[str, Any], **relay: Any) -> dict[str, Any]:
    return {"relays": {"main": {"delivered": 0, "connections": 9, "last_error": None} | relay | {"egress": egresses}}}


def test_status_of_a_run_that_is_alive_has_what_is_open_now_and_why_an_egress_is_out(path: Path) -> None:
    story = Story(path)
    out = egress_figures(delivered=1, connections=5, failures=2, state="out", last_error="refused")
    figures = {"a": egress_figures(delivered=2, connections=6, open=3), "b": out, "c": egress_figures()}
    story.commit(story.chunk, b"DDD", progress=progress_of(figures, open=3))
    main = status(path)["relays"]["main"]
    assert main["connections"] == 3
    none = dict.fromkeys(("delivered", "deferred", "failed", "connections", "failures"), 0)
    none |= {"last_error": None, "state": "ok"}
    assert main["egress"] == {
        "a": none | {"delivered": 2, "connections": 3},
        "b": none | {"delivered": 1, "failures": 2, "last_error": "refused", "state": "out"},
        "c": none,
    }
    story.journal.close()


def test_status_between_runs_has_egresses_counted_up_and_nothing_open(path: Path) -> None:
    story = Story(path)
    lost = egress_figures(delivered=1, deferred=1, open=2, failures=2, state="out", last_error="refused")
    story.commit(story.chunk, b"Dd", progress=progress_of({"a": lost, "b": egress_figures(failed=1, open=1)}, open=3))
    story.journal.close()  # without finish(): it died
    with Journal.open(path) as journal:
        assert status(path)["relays"]["main"]["connections"] == 0, "those of the run that died"
        assert status(path)["relays"]["main"]["egress"]["a"]["state"] is None
        journal.recover()
        journal.finish("finished", None, progress_of({"a": egress_figures(delivered=4, failures=1), "z": lost}))
    main = status(path)["relays"]["main"]
    assert {name: (one["delivered"], one["failed"], one["failures"]) for name, one in main["egress"].items()} == {
        "a": (5, 0, 3),
        "b": (0, 1, 0),
        "z": (1, 0, 2),
    }
    assert {(one["connections"], one["state"]) for one in main["egress"].values()} == {(0, None)}
    assert main["egress"]["a"]["last_error"] == "refused" and main["egress"]["b"]["last_error"] is None


def test_a_relay_without_egresses_has_no_word_of_them(path: Path) -> None:
    every_state(path).journal.close()
    assert "egress" not in status(path)["relays"]["main"]


def test_seconds_are_those_of_the_runs_not_of_the_pause_between(path: Path) -> None:
    new_journal(path, now=1000.0).close()
    journal = Journal.open(path, now=5000.0)
    journal._db.execute("UPDATE run SET seen_at = started + 10, ended = NULL")
    assert status(path, now=5012.0)["seconds"] == 22.0
    journal.close()
    assert status(path, now=9999.0)["seconds"] == 20.0


# ---- formats ---------------------------------------------------------------------------------------------------------


def written(path: Path, format: str, state: str | None = None) -> str:
    out = io.StringIO()
    count = write_report(path, format, out, state, read=read)
    assert count == len(report(path, state))
    return out.getvalue()


def test_json_lines(path: Path) -> None:
    every_state(path).journal.close()
    lines = [json.loads(line) for line in written(path, "jsonl").splitlines()]
    assert lines == list(report(path).values())
    assert list(lines[0]) == list(COLUMNS)


def test_csv_has_the_same_columns(path: Path) -> None:
    every_state(path).journal.close()
    lines = list(csv.DictReader(io.StringIO(written(path, "csv", "failed"))))
    assert list(lines[0]) == list(COLUMNS)
    assert (lines[0]["recipient"], lines[0]["attempts"], lines[0]["code"]) == (user(2), "1", "")
    assert lines[0]["reply"] == "<b>no</b> & \"never\", '=1+1'"


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_one_page_that_escapes_everything(path: Path) -> None:
    story = every_state(path)
    story.journal.close()
    text = written(path, "html")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.tags["b"] == 0
    assert "<b>no</b> & \"never\", '=1+1'" in [one.strip() for one in page.text]
    assert {user(number) for number in range(1, 9)} <= set(page.text)
    assert not re.search(r"(?:src|href|url)\s*[=(]|<script", text)
    expected = {
        "state": "stopped",
        "recipients": "8",
        "delivered": "2",
        "failed": "1",
        "deferred": "1",
        "in doubt": "1",
        "pending": "2",
        "suppressed": "1",
    }
    sums = re.search(r'<dl id="sums">(.*?)</dl>', text, re.S)
    assert sums is not None
    found = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", sums[1]))
    assert {key: found[key] for key in expected} == expected


def test_html_with_a_hostile_job_name(path: Path) -> None:
    new_journal(path, job="</title><script>alert(1)</script>").close()
    assert "<script" not in written(path, "html")


def test_unknown_words_are_refused(path: Path) -> None:
    new_journal(path).close()
    with pytest.raises(ValueError, match="xml"):
        write_report(path, "xml", io.StringIO())
    with pytest.raises(ValueError, match="sent"):
        list(iter_report(path, "sent"))


# ---- the source ------------------------------------------------------------------------------------------------------


def test_addresses_are_read_again_from_the_pinned_list(tmp_path: Path, path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{user(number)}\n".ljust(OFFSET - 1, " ") + "\n" for number in range(1, 11)))
    lines = source.read_bytes()
    places = [i for i in range(len(lines)) if lines.startswith(b"user", i)]
    stat = source.stat()
    pin = PIN._replace(path=str(source), format="text", size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    with new_journal(path, pin=pin) as journal, journal.fill() as filler:
        from bulkmail.job.ledger import pack

        filler.add_chunk("*", pack(range(1, 11), places), 10)
    assert [line["recipient"] for line in iter_report(path)] == [user(number) for number in range(1, 11)]
    source.write_text("somebody@else.example\n")
    with pytest.raises(JournalError, match=r"list\.txt"):
        list(iter_report(path))


def test_a_report_of_a_journal_that_is_written_meanwhile_goes_on(path: Path) -> None:
    journal = new_journal(path)
    with journal.fill() as filler:
        for i in range(5):
            filler.add_chunk("*", rows(1 + i, 1), 1)
    lines = iter_report(path, read=read)
    first = next(lines)
    for chunk in journal.lease(9, NOW):
        journal.advance(Advance([(chunk.no, chunk.fence, 1, b"D")]))
    assert [first["state"]] + [line["state"] for line in lines] == ["pending"] + ["delivered"] * 4
    journal.close()
