"""`check` without connecting: every row against the message, what bulk senders are asked for, nothing left behind."""

from __future__ import annotations

import json

import pytest

from bulkmail.job.job import Job

MESSAGE = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "{{ 10 // (n | int) }}"}


def check(folder, rows, **keys):
    (folder / "list.jsonl").write_text(rows)
    manifest = {
        "job": "news",
        "message": MESSAGE,
        "recipients": "list.jsonl",
        "relays": "smtp://relay.example.com",
        "journal": "news.journal",
        **keys,
    }
    (folder / "news.json").write_text(json.dumps(manifest))
    before = sorted(folder.iterdir())
    findings = Job.load(folder / "news.json").check()
    assert sorted(folder.iterdir()) == before
    order = {"error": 0, "warning": 1, "note": 2}
    assert [order[one.severity] for one in findings] == sorted(order[one.severity] for one in findings)
    return findings


def row(number, name="N", n=1):
    return json.dumps({"email": f"r{number}@example.com", "name": name, "n": n}) + "\n"


def of(findings, *kinds):
    return [one for one in findings if one.id in kinds]


def test_good_rows_have_no_findings(tmp_path):
    assert not of(check(tmp_path, row(1) + row(2)), "bad-row", "message", "header-break", "recipients")


def test_every_kind_of_bad_row_is_found_with_its_number(tmp_path):
    rows = row(1) + "oops\n" + row(3, "two\nlines") + row(4, n=0) + '{"email":"r5@example.com","n":1}\n'
    findings = check(tmp_path, rows)
    assert [(one.severity, "row 2" in one.text or "row 5" in one.text) for one in of(findings, "bad-row")] == [
        ("error", True)
    ] * 2
    (broken,) = of(findings, "header-break")
    assert (broken.severity, "row 3" in broken.text) == ("warning", True)
    (failed,) = of(findings, "message")
    assert (failed.severity, "row 4" in failed.text) == ("error", True)
    assert all(one.path == "$.recipients" and one.remedy for one in of(findings, "bad-row", "header-break", "message"))


def test_rows_that_will_be_skipped_are_warnings(tmp_path):
    findings = check(tmp_path, row(1) + "oops\n", recipients={"file": "list.jsonl", "bad_rows": "skip"})
    assert [one.severity for one in of(findings, "bad-row")] == ["warning"]


def test_the_same_trouble_in_every_row_is_shown_a_few_times(tmp_path):
    found = of(check(tmp_path, "".join(row(number, n=0) for number in range(5000))), "message")
    assert len(found) == 21
    assert "4980 more" in found[-1].text
    assert found[-1].severity == "error"


def test_who_is_left_out_is_counted(tmp_path):
    (tmp_path / "gone.txt").write_text("r3@example.com\n")
    recipients = {"file": "list.jsonl", "deduplicate": True, "suppress": ["gone.txt"]}
    (note,) = of(check(tmp_path, row(1) + row(1) + row(3), recipients=recipients), "suppressed")
    assert note.severity == "note"
    assert note.text.startswith("2 ")


@pytest.mark.parametrize("rows", ["", "\n\n"])
def test_no_recipients_is_an_error(tmp_path, rows):
    (found,) = of(check(tmp_path, rows), "recipients")
    assert found.severity == "error"


def test_a_list_that_cannot_be_read_is_an_error_and_not_an_exception(tmp_path):
    findings = check(tmp_path, "\n", recipients={"file": "list.jsonl", "format": "csv"})
    assert of(findings, "recipients")[0].severity == "error"


def test_standard_input_is_not_read(tmp_path):
    findings = check(tmp_path, "", recipients="-")
    assert [one.severity for one in of(findings, "recipients-stdin")] == ["note"]


def test_a_shared_message_is_not_composed_for_each(tmp_path):
    message = {"from": "news@example.com", "subject": "x", "text": "x"}
    assert not of(
        check(tmp_path, "r1@example.com\n" * 3, recipients={"file": "list.jsonl", "format": "text"}, message=message),
        "message",
    )


def test_what_bulk_senders_are_asked_for(tmp_path):
    bare = {"from": "news@example.com", "subject": " ", "html": "<p>{{ name }}</p>"}
    findings = check(tmp_path, row(1), message=bare, relays="smtp://relay.example.com?tls=never")
    assert {one.id for one in findings} >= {"one-click", "text-part", "subject", "tls"}
    whole = {
        **bare,
        "subject": "x",
        "text": "x",
        "list_unsubscribe": {"url": "https://example.com/u", "one_click": True},
    }
    left = {one.id for one in check(tmp_path, row(1), message=whole)}
    assert not left & {"one-click", "text-part", "subject", "tls"}
