"""Notices find the recipient whom a job sent to, by each way there is, and nobody who made one up finds anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.bounces.collect import Collector, settle_journal
from bulkmail.bounces.matching import JobRecord, Match, Verp, unwrapped, variants
from bulkmail.bounces.notice import Notice
from bulkmail.bounces.suppress import add_to_file
from bulkmail.errors import ConfigError, JournalError
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import Advance, NewChunk, pack
from bulkmail.job.recipients import Source
from bulkmail.job.report import iter_report, status
from bulkmail.message.compiled import make_message_id

DOMAIN = "example.com"


class SentJob:
    """A job of some recipients and its journal, whose outcomes are given by letter."""

    def __init__(
        self,
        folder: Path,
        outcome: bytes,
        *,
        rows: list[dict[str, Any]] | None = None,
        shared: bool = False,
        **meta: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        n = len(outcome)
        self.rows = rows or [{"email": f"user{i}@example.net", "id": f"u{i}"} for i in range(1, n + 1)]
        source = folder / "list.jsonl"
        source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows), encoding="utf-8")
        self.path = folder / "news.journal"
        with Source(source) as opened:
            found = [row for batch in opened.scan() for row in zip(batch.numbers, batch.offsets, strict=True)]
            pin = opened.pin
        numbers, self.offsets = (list(part) for part in zip(*found, strict=True))
        meta = {"message_id_domain": DOMAIN, "message_id_shared": str(int(shared))} | meta
        self.job = folder.name
        with Journal.create(self.path, job=self.job, manifest_digest="", pin=pin, meta=meta) as journal:
            with journal.fill() as filler:
                filler.add_chunk("*", pack(numbers, self.offsets), n)
            (chunk,) = journal.lease(1, 0)
            self.advance(journal, chunk, outcome)
            journal.finish("stopped")

    def advance(self, journal: Journal, chunk: Any, outcome: bytes) -> None:
        moved = [i for i, byte in enumerate(outcome) if byte == ord("m")]
        retry = [
            NewChunk("*", pack([i + 1 for i in moved], [self.offsets[i] for i in moved]), len(moved), 1, 0.0, chunk.no)
        ]
        claimed = len(outcome.rstrip(b"."))  # "!": claimed, and then the run was killed
        row = (chunk.no, chunk.fence, claimed, outcome.replace(b"!", b"."))
        journal.advance(Advance([row], retries=retry if moved else []))
        if b"." in outcome and b"!" not in outcome:
            journal.release([(chunk.no, 0.0)])

    def id(self, number: int, address: str | None = None) -> str:
        return make_message_id(self.job, number, address or self.rows[number - 1]["email"], DOMAIN)


def bounce(*recipients: str, kind: str = "bounce", **more: Any) -> Notice:
    return Notice(kind, list(recipients), status="5.1.1", **more)


def match(job: JobRecord, notice: Notice) -> Match | None:
    return (job.by_ids({0: notice}) or job.by_addresses({0: notice})).get(0)


@pytest.fixture
def job(tmp_path: Path) -> SentJob:
    return SentJob(tmp_path / "november", b"DDF?mS.")


def test_a_message_id_names_the_row(job: SentJob) -> None:
    found = match(JobRecord(job.path), bounce("elsewhere@forward.example", message_ids=["<x@y>", job.id(2)]))
    assert found is not None
    assert (found.number, found.recipient, found.how, found.state) == (
        2,
        "user2@example.net",
        "message_id",
        "delivered",
    )


def test_an_envid_names_the_row(job: SentJob) -> None:
    envid = job.id(3).strip("<>").partition("@")[0]
    found = match(JobRecord(job.path), bounce(envid=envid))
    assert found is not None
    assert (found.number, found.how, found.state) == (3, "envid", "failed")


def test_who_moved_to_a_retry_chunk_is_found_there(job: SentJob) -> None:
    found = match(JobRecord(job.path), bounce(message_ids=[job.id(5)]))
    assert found is not None
    assert (found.chunk, found.position, found.state) == (2, 0, "deferred")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("example.com", "example.org"),
        lambda text: text[:-14] + ("1" if text[-14] != "1" else "2") + text[-13:],  # another row
        lambda text: "<a" + text[2:],  # another job
        lambda text: text.replace(".", ".zzzzzzzzzzzzzz", 1),
        lambda text: text.replace("@", "é@"),
        lambda text: text.replace("@", "z" * 400 + "@"),
        lambda text: text.replace("@", "-1@"),
    ],
)
def test_an_id_that_was_made_up_finds_nobody(job: SentJob, change: Any) -> None:
    given = job.id(2)
    assert change(given) != given
    assert match(JobRecord(job.path), bounce(message_ids=[change(given)])) is None


def test_another_jobs_id_finds_nobody_here(tmp_path: Path, job: SentJob) -> None:
    other = SentJob(tmp_path / "december", b"DD")
    assert match(JobRecord(job.path), bounce(message_ids=[other.id(1)])) is None
    collector = Collector([JobRecord(job.path), JobRecord(other.path)], lambda item: None)
    from bulkmail.bounces.collect import _Read

    one = _Read("x", bounce("user1@example.net", message_ids=[other.id(1)]), None)
    collector._match([one])
    assert one.match is not None and one.match.job == "december"  # though the first has the address too


def test_an_address_finds_who_was_sent_to(job: SentJob) -> None:
    record = JobRecord(job.path)
    found = match(record, bounce("nobody@example.net", "USER1@Example.NET"))
    assert found is not None and (found.number, found.how) == (1, "address")
    assert match(record, bounce("nobody@example.net")) is None
    assert match(record, bounce("user6@example.net")) is None  # suppressed: nothing was sent
    assert match(record, bounce("user7@example.net")) is None  # still waits


def test_a_domain_beyond_ascii_is_found_in_either_form(tmp_path: Path) -> None:
    job = SentJob(
        tmp_path / "idn", b"DD", rows=[{"email": "ann@bücher.example"}, {"email": "bob@xn--bcher-kva.example"}]
    )
    record = JobRecord(job.path)
    for address, number in (("ann@xn--bcher-kva.example", 1), ("bob@bücher.example", 2)):
        found = match(record, bounce(address))
        assert found is not None and found.number == number
    assert variants("Ann@" + "x" * 300) == {"ann@" + "x" * 300}


def test_one_address_on_the_list_twice_is_who_was_sent_to(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "twice", b"SD", rows=[{"email": "ann@example.net"}] * 2)
    found = match(JobRecord(job.path), bounce("ann@example.net"))
    assert found is not None and found.number == 2


@pytest.mark.parametrize(
    ("template", "sender"),
    [
        ("bounce+{{ id }}@bounces.example.com", "bounce+u2@bounces.example.com"),
        ("bounce+{{ id }}@bounces.example.com", "BOUNCE+U2@Bounces.Example.Com"),
        ("b-{{ id|upper }}-{{ email|replace('@', '=') }}@b.example", "b-U2-user2=example.net@b.example"),
        ("bounce+{{ id }}@bounces.example.com", "prvs=1234abcd=bounce+u2@bounces.example.com"),
        ("bounce+{{ id }}@bounces.example.com", "SRS0=abCD=XY=bounces.example.com=bounce+u2@forward.example"),
        ("{{ tag }}-{{ id }}@b.example", "nov-u2@b.example"),
    ],
)
def test_the_sender_made_for_one_recipient_finds_that_one(tmp_path: Path, template: str, sender: str) -> None:
    job = SentJob(tmp_path / "verp", b"DDD", envelope_from=template, envelope_values='{"tag": "nov"}')
    found = match(JobRecord(job.path), bounce("user1@example.net", sent_to=["x@y.example", sender]))
    assert found is not None and (found.number, found.how) == (2, "verp")
    assert match(JobRecord(job.path), bounce(sent_to=["bounce+u9@bounces.example.com"])) is None


def test_a_template_from_the_manifest_is_used_where_the_journal_has_none(job: SentJob) -> None:
    record = JobRecord(job.path, Verp("b+{{ id }}@b.example", {}))
    found = match(record, bounce(sent_to=["b+u4@b.example"]))
    assert found is not None and (found.number, found.state) == (4, "in_doubt")


def test_a_constant_sender_finds_nobody(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "constant", b"DD", envelope_from="bounces@example.com")
    assert match(JobRecord(job.path), bounce(sent_to=["bounces@example.com"])) is None


def test_of_a_shared_message_the_id_names_the_job_and_the_address_the_recipient(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "shared", b"DDD", shared=True)
    own = make_message_id("shared", 0, "", DOMAIN)
    found = match(JobRecord(job.path), bounce("user3@example.net", message_ids=[own]))
    assert found is not None and (found.number, found.how) == (3, "message_id")
    assert match(JobRecord(job.path), bounce(message_ids=[own])) is None


def test_a_list_that_was_changed_is_told(job: SentJob) -> None:
    (job.path.parent / "list.jsonl").write_text('{"email":"new@example.net"}\n')
    with pytest.raises(JournalError, match=r"list\.jsonl is not the file"):
        match(JobRecord(job.path), bounce(message_ids=[job.id(1)]))


def test_forwarders_wraps_are_undone() -> None:
    assert unwrapped("prvs=0a1b2c=x@y.example") == "x@y.example"
    assert unwrapped("SRS0+HH=TT=y.example=x=z@fwd.example") == "x=z@y.example"
    assert unwrapped("x@y.example") == "x@y.example"


# ---- in doubt ----------------------------------------------------------------------------------------------------


def in_doubt(job: SentJob, number: int) -> Match:
    found = match(JobRecord(job.path), bounce(message_ids=[job.id(number)]))
    assert found is not None and found.state == "in_doubt"
    return found


def test_a_bounce_settles_who_was_in_doubt_and_the_report_says_why(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "late", b"D???")
    late = bounce("user2@example.net", code=550, reply="5.1.1 no such user")
    confirmed = bounce(kind="delivered")
    assert settle_journal(job.path, [(in_doubt(job, 2), late), (in_doubt(job, 3), confirmed)]) == 2
    summary = status(job.path)
    assert [summary[key] for key in ("state", "delivered", "failed", "in_doubt")] == ["stopped", 2, 1, 1]
    (failed,) = iter_report(job.path, "failed")
    assert (failed["recipient"], failed["class"], failed["code"]) == ("user2@example.net", "bad_recipient", 550)
    assert failed["reply"] == "5.1.1 no such user"


def test_a_killed_jobs_claims_are_settled_too(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "killed", b"D!!.")
    assert status(job.path)["in_doubt"] == 2
    assert settle_journal(job.path, [(in_doubt(job, 3), bounce())]) == 1
    summary = status(job.path)
    assert [summary[key] for key in ("delivered", "failed", "in_doubt", "pending")] == [1, 1, 1, 1]


def test_what_was_settled_once_stays(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "once", b"?")
    found = in_doubt(job, 1)
    assert settle_journal(job.path, [(found, bounce())]) == 1
    assert settle_journal(job.path, [(found, bounce(kind="delivered"))]) == 0
    assert status(job.path)["failed"] == 1


def test_a_running_job_is_left_alone(tmp_path: Path) -> None:
    job = SentJob(tmp_path / "running", b"?.")
    found = in_doubt(job, 1)
    with Journal.open(job.path) as journal:
        journal.recover()
        with pytest.raises(JournalError, match="its job is running"):
            settle_journal(job.path, [(found, bounce())])
        journal.finish("stopped")


# ---- suppression -------------------------------------------------------------------------------------------------


def test_a_suppression_file_grows_without_doubling_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "bounced.txt"
    path.write_text("# by hand\nZoe@example.net\nexample.org")
    path.chmod(0o640)
    assert add_to_file(path, ["bob@example.net", "zoe@example.net", "Ann@example.net", "ann@example.net"]) == 2
    text = "# by hand\nZoe@example.net\nexample.org\nann@example.net\nbob@example.net\n"
    assert path.read_text() == text
    assert add_to_file(path, ["ann@example.net"]) == 0
    assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["bounced.txt"]


def test_a_new_suppression_file_is_there_even_if_nobody_is_in_it(tmp_path: Path) -> None:
    assert add_to_file(tmp_path / "new.txt", []) == 0
    assert (tmp_path / "new.txt").read_text() == ""


def test_a_suppression_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the suppression file"):
        add_to_file(tmp_path / "no" / "new.txt", ["a@b.example"])
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        add_to_file(tmp_path / "bad.txt", ["a@b.example"])


def test_a_suppression_file_of_windows_keeps_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "bounced.txt"
    path.write_bytes(b"\xef\xbb\xbfAnn@example.net\r\nbob@example.net\r\n")
    assert add_to_file(path, ["ann@example.net", "zoe@example.net"]) == 1
    assert path.read_bytes() == b"\xef\xbb\xbfAnn@example.net\r\nbob@example.net\r\nzoe@example.net\n"
