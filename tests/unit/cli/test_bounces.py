"""`bulkmail bounces`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.cli import main
from bulkmail.job.suppression import RecipientFilter
from unit.bounces.test_matching import SentJob

CORPUS = Path(__file__).parent.parent / "bounces" / "corpus"


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bounces", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def job(tmp_path: Path) -> SentJob:
    rows = [{"email": "ann@example.net", "id": 42}, {"email": "bob@example.net", "id": 43}]
    return SentJob(tmp_path / "november", b"?D", rows=rows, envelope_from="bounce+{{ id }}@bounces.example.com")


def test_the_corpus_adds_up(capsys: pytest.CaptureFixture[str], job: SentJob, tmp_path: Path) -> None:
    listed, lines = tmp_path / "bounced.txt", tmp_path / "items.jsonl"
    status, out, err = run(
        capsys, CORPUS, "--journal", job.path, "--suppress", listed, "--out", lines, "--settle", "--json"
    )
    assert (status, err) == (0, "")
    result = json.loads(out)
    items = result.pop("items")
    assert result["messages"] == len(list(CORPUS.glob("*.eml")))
    assert [result[key] for key in ("complaints", "auto_replies", "delivered", "delayed", "unreadable")] == [
        3,
        2,
        1,
        1,
        0,
    ]
    assert result["bounces"] == result["hard"] + result["soft"] + result["blocked"]
    assert sum(
        result[key] for key in ("bounces", "complaints", "auto_replies", "delivered", "delayed", "other")
    ) == len(items)
    assert [json.loads(line) for line in lines.read_text().splitlines()] == items
    assert set(result["matched_by"]) == {"verp", "address"}
    assert result["matched"] == sum(result["matched_by"].values()) == sum(item["number"] is not None for item in items)
    assert listed.read_text() == "ann@example.net\n"
    assert (result["suppressed"], result["settled"]) == (1, 1)


def test_for_people_it_is_a_table(capsys: pytest.CaptureFixture[str], job: SentJob, tmp_path: Path) -> None:
    file = CORPUS / "gmail.eml"
    status, out, _ = run(capsys, file, "--journal", job.path, "--suppress", tmp_path / "b.txt")
    assert status == 0
    words = [line.split(maxsplit=1) for line in out.splitlines()]
    assert words[:3] == [["messages", "1"], ["bounces", "1"], ["hard", "1"]]
    assert words[3:] == [["matched", "1  by verp 1"], ["suppressed", f"1  new in {tmp_path / 'b.txt'}"]]


def test_whom_no_journal_knows_is_not_suppressed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = SentJob(tmp_path / "other", b"D", rows=[{"email": "zoe@example.org"}])
    listed = tmp_path / "b.txt"
    _, out, _ = run(capsys, CORPUS / "gmail.eml", "--journal", job.path, "--suppress", listed, "--json")
    assert (json.loads(out)["matched"], listed.read_text()) == (0, "")
    run(capsys, CORPUS / "gmail.eml", "--suppress", listed)  # nothing to hold it against
    assert listed.read_text() == "ann@example.net\n"


@pytest.mark.parametrize("named", ["a@b@@c.example", '"*"@*.example.com', "x@y..z", "@@@", "a@-"])
def test_whom_a_stranger_makes_up_does_not_spoil_the_suppression_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, named: str
) -> None:
    notice = (CORPUS / "gmail.eml").read_text().replace("ann@example.net", named)
    (tmp_path / "a.eml").write_text(notice)
    listed = tmp_path / "b.txt"
    _, out, _ = run(capsys, tmp_path / "a.eml", CORPUS / "gmail.eml", "--suppress", listed, "--json")
    assert (json.loads(out)["hard"], listed.read_text()) == (2, "ann@example.net\n")
    assert RecipientFilter(suppress=[listed]).filter("ann@example.net")


def test_soft_and_blocked_are_never_suppressed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ("sendmail-8", "outlook-blocked", "postfix-delayed", "vacation-sieve", "arf-not-spam", "postfix-success")
    listed = tmp_path / "b.txt"
    run(capsys, *(CORPUS / f"{name}.eml" for name in names), "--suppress", listed)
    assert listed.read_text() == ""


def test_what_cannot_be_read_is_a_line_of_the_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(b"")
    (tmp_path / "b.eml").write_bytes(b"\xff\x00" * 1000)
    status, out, _ = run(capsys, tmp_path, "--json")
    result = json.loads(out)
    assert (status, result["messages"], result["unreadable"], result["other"]) == (0, 2, 1, 1)
    assert [item["reason"] for item in result["items"]] == ["it is empty", None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no such file or folder"),
        ([CORPUS, "--journal", "nowhere.journal"], "nowhere.journal"),
        ([CORPUS, "--settle"], "--settle has nothing to do without --journal FILE"),
        ([CORPUS, "--manifest", "news.json"], "--manifest has nothing to do without --journal FILE"),
        ([], "PATH"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[Any], said: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1
