"""Input that `send` refuses before anything is sent: exit status 2, the place and the remedy named, no journal left."""

from __future__ import annotations

import json

import pytest

from integration.cli_program import bulkmail, refused, write_job

MESSAGE = {"from": "news@example.com", "subject": "Hello", "text": "Dear {{ name }}"}
NOBODY = "smtp://127.0.0.1:1"  # a relay that nothing may be asked of: nothing listens there


def assert_refused(folder, *names, args=()):
    refused(bulkmail("send", "news.json", *args, cwd=folder), *names)
    assert not (folder / "news.journal").exists()


def test_no_manifest(tmp_path):
    assert_refused(tmp_path, "news.json")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"job": "x",\n  oops}', ["news.json", "line 2", "column 3"]),
        ("", ["news.json"]),
        ("[]", ["news.json"]),
        ('{"job": "a", "job": "b"}', ["job"]),
    ],
)
def test_not_a_manifest(tmp_path, text, names):
    (tmp_path / "news.json").write_text(text)
    assert_refused(tmp_path, *names)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"recipient": "list.jsonl"}, ["recipient", "recipients"]),
        ({"message": {**MESSAGE, "subjekt": "x"}}, ["$.message", "subjekt", "subject"]),
        ({"limits": {"connections": "many"}}, ["$.limits.connections", "many"]),
        ({"limits": {"rate": "300/fortnight"}}, ["$.limits.rate", "300/fortnight"]),
        ({"retry": {"delays": ["soon"]}}, ["$.retry.delays[0]", "soon"]),
        ({"relays": [{"name": "main", "url": "smtp://u:${BULKMAIL_TEST_UNSET}@127.0.0.1"}]},
         ["BULKMAIL_TEST_UNSET", "$.relays[0].url"]),
        ({"message": {**MESSAGE, "html": {"file": "none.html"}}}, ["none.html", "$.message.html"]),
        ({"message": {**MESSAGE, "attachments": [{"file": "none.pdf"}]}}, ["none.pdf", "$.message.attachments[0]"]),
        ({"message": {**MESSAGE, "subject": "{{ nmae }}"}}, ["nmae"]),
        ({"message": {**MESSAGE, "text": "{% if %}"}}, ["$.message.text"]),
        ({"recipients": "none.csv"}, ["none.csv"]),
        ({"recipients": []}, ["recipients"]),
        ({"journal": "none/news.journal"}, ["none"]),
        ({"message": {**MESSAGE, "dkim": [{"domain": "example.com", "selector": "s", "key_file": "k"}]}},
         ["$.message.dkim[0].key_file", "cannot read the file"]),
        ({"relays": "smtp://127.0.0.1?conections=5"}, ["conections", "connections"]),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be(tmp_path, keys, names):
    write_job(tmp_path, NOBODY, **keys)
    assert_refused(tmp_path, *names)


def test_all_problems_at_once(tmp_path):
    write_job(tmp_path, NOBODY, limits={"rate": "x"}, retry={"delays": ["y"]}, speed=9)
    done = bulkmail("send", "news.json", cwd=tmp_path)
    refused(done, "$.limits.rate", "$.retry.delays[0]", "speed")
    assert len(done.stderr.splitlines()) >= 3


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ("", ["list.jsonl"]),
        ('{"email":"a@example.com","name":"A"}\n{"name":"B"}\n', ["list.jsonl", "row 2", "email"]),
        ('{"email":"a@example.com","name":"A"}\n{"email":"b@@example.com","name":"B"}\n', ["list.jsonl", "row 2"]),
        ('{"email":"a@example.com"}\n', ["list.jsonl", "row 1", "name"]),
        ('{"email":"a@example.com","name":"A"}\nnot json\n', ["list.jsonl", "row 2"]),
    ],
)
def test_a_row_that_cannot_be(tmp_path, rows, names):
    write_job(tmp_path, NOBODY, rows)
    assert_refused(tmp_path, *names)


def test_rows_that_are_not_utf_8(tmp_path):
    write_job(tmp_path, NOBODY)
    (tmp_path / "list.jsonl").write_bytes(b'{"email":"a@example.com","name":"caf\xe9"}\n')
    assert_refused(tmp_path, "list.jsonl", "row 1", "UTF-8")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--rate", "fast"], ["fast"]),
        (["--rate", "0/s"], ["0/s"]),
        (["--test-to", "nobody"], ["nobody"]),
        (["--set", "oops"], ["oops", "NAME=VALUE"]),
        (["--resume", "--auto"], ["--resume", "--auto"]),
    ],
)
def test_options_that_cannot_be(tmp_path, args, names):
    write_job(tmp_path, NOBODY)
    assert_refused(tmp_path, *names, args=args)


def test_a_journal_of_another_manifest_or_another_list(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    job = write_job(tmp_path, server.url)
    assert bulkmail("send", job, cwd=tmp_path).returncode == 0
    write_job(tmp_path, server.url, message={**MESSAGE, "subject": "another"})
    refused(bulkmail("send", job, "--resume", cwd=tmp_path), "news.journal", "manifest")
    write_job(tmp_path, server.url, 4)
    refused(bulkmail("send", job, "--resume", cwd=tmp_path), "news.journal", "list.jsonl")
    assert len(server.mails) == 3


def test_what_is_no_journal(tmp_path):
    (tmp_path / "a.journal").write_text("hello")
    for command in ("status", "report"):
        refused(bulkmail(command, "a.journal", cwd=tmp_path), "a.journal")
        refused(bulkmail(command, "none.journal", cwd=tmp_path), "none.journal")
    assert not (tmp_path / "none.journal").exists()


def test_check_has_all_of_it_as_findings(tmp_path):
    write_job(tmp_path, NOBODY, limits={"rate": "x"}, speed=9)
    done = bulkmail("check", "news.json", "--json", cwd=tmp_path)
    assert done.returncode == 2
    findings = json.loads(done.stdout)["findings"]
    assert {"$.limits.rate", "$.speed"} <= {finding["path"] for finding in findings}
    assert {finding["severity"] for finding in findings} == {"error"}
    assert bulkmail("check", "news.json", cwd=tmp_path).returncode == 2


def test_a_break_in_a_header_fails_that_recipient_alone(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    rows = '{"email":"r1@example.com","name":"A"}\n{"email":"r2@example.com","name":"B\\r\\nBcc: all@example.com"}\n'
    done = bulkmail("send", write_job(tmp_path, server.url, rows), "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["delivered"], summary["failed"]) == (1, 1)
    assert [mail.recipients for mail in server.mails] == [["r1@example.com"]]
