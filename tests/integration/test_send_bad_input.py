"""What `send` refuses names the place and the remedy, asks nothing of the relay and leaves the folder as it was."""

from __future__ import annotations

import gzip

import pytest

from integration.cli_program import bulkmail, refused, write_job

MESSAGE = {"from": "news@example.com", "subject": "Hello", "text": "Dear {{ name }}"}
GOOD = '{"email":"a@example.com","name":"A"}\n'


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_refused(folder, server, *names, args=()):
    before = everything(folder)
    done = bulkmail("send", "news.json", *args, cwd=folder)
    refused(done, *names)
    assert everything(folder) == before
    assert server.recorder.sessions == 0
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ("", ["list.jsonl", "no recipients"]),
        ("\n\n", ["list.jsonl", "no recipients"]),
        (GOOD + "{}\n", ["list.jsonl, row 2", "email"]),
        (GOOD * 5000 + '{"email":"oops","name":"x"}\n', ["list.jsonl, row 5001", "oops", "no @"]),
        (GOOD + '{"email":"a@b..example","name":"x"}\n', ["list.jsonl, row 2", "a@b..example"]),
        (GOOD + '{"email":"a@example.com","name":"\\u0000"}\n', ["list.jsonl, row 2", "NUL"]),
        (GOOD + '{"email":"a@example.com","name":"\\ud800"}\n', ["list.jsonl, row 2", "surrogate"]),
        (GOOD + "[1]\n", ["list.jsonl, row 2", "JSON object", "[1]"]),
        (GOOD + '{"email":"a@example.com"}\n', ["list.jsonl, row 2", '"name"', "defaults"]),
    ],
)
def test_rows(start_aiosmtpd, tmp_path, rows, names):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, rows)
    assert len(assert_refused(tmp_path, server, *names)) == 1


def test_many_bad_rows_are_counted_and_the_way_out_is_named(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, '{"email":"oops","name":"x"}\n' * 3000)
    lines = assert_refused(
        tmp_path, server, "3000 bad rows", '"bad_rows": "skip"', "row 1:", "row 20:", "and 2980 more"
    )
    assert len(lines) == 22


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("l.csv", b"email,name\n", ["l.csv", "no recipients"]),
        ("l.csv", b"mail,name\na@example.com,A\n", ["l.csv", "email", "header"]),
        ("l.csv", b"email,name\na@example.com,A\nb@example.com\n", ["l.csv, row 2", "line 3", "1 field"]),
        ("l.csv", b'email,name\na@example.com,"A\n', ["l.csv, row 1", "line 2", "never closed"]),
        ("l.csv", b"email,name\na@example.com,caf\xe9\n", ["l.csv, row 1", "UTF-8"]),
        ("l.jsonl", b'{"email":"a@example.com","name":"caf\xe9"}\n', ["l.jsonl, row 1", "UTF-8"]),
        ("l.jsonl.gz", gzip.compress(GOOD.encode() * 100)[:-10], ["l.jsonl.gz", "cut off"]),
        ("l.jsonl.gz", b"not gzip", ["l.jsonl.gz", "not a gzip file"]),
        ("l.jsonl.gz", gzip.compress(GOOD.encode() + b"oops\n"), ["l.jsonl.gz, row 2"]),
    ],
)
def test_files(start_aiosmtpd, tmp_path, name, content, names):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, recipients=name)
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path, server, *names)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"recipients": {"file": "list.jsonl", "suppress": ["none.txt"]}}, ["$.recipients.suppress[0]", "none.txt"]),
        ({"recipients": "."}, ["$.recipients", "folder"]),
        ({"journal": "."}, ["journal", "--fresh"]),
        ({"mode": "shared"}, ["$.mode", "template marks"]),
        ({"relays": []}, ["$.relays", "at least one"]),
        ({"relays": "http://127.0.0.1"}, ["$.relays", "smtp://"]),
        ({"message": {**MESSAGE, "from": "nobody"}}, ["$.message.from", "no @"]),
        ({"message": {**MESSAGE, "html": {"file": "broken.html"}}}, ["$.message.html", "broken.html, line 2"]),
        ({"message": {**MESSAGE, "subject": "{{ name | frob }}"}}, ["$.message.subject", "frob"]),
        ({"message": {**MESSAGE, "cc": "x@example.com"}}, ["$.message.cc", "recipients"]),
        ({"retry": {"patience": "-5s"}}, ["$.retry.patience", "-5s"]),
        ({"retry": {"give_up_after": "soon"}}, ["$.retry.give_up_after", "soon", "'2h'"]),
    ],
)
def test_keys(start_aiosmtpd, tmp_path, keys, names):
    server = start_aiosmtpd()
    (tmp_path / "broken.html").write_text("<p>\n{% if name %}\n")
    write_job(tmp_path, server.url, **keys)
    assert len(assert_refused(tmp_path, server, *names)) == 1


def test_a_template_name_that_no_row_has(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, message={**MESSAGE, "subject": "{{ nmae }}"})
    assert_refused(tmp_path, server, "nmae", "row 1", "defaults")


@pytest.mark.parametrize("args", [[], ["--resume"], ["--fresh"], ["--auto"]])
def test_a_file_that_is_no_journal_is_not_touched(start_aiosmtpd, tmp_path, args):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url)
    (tmp_path / "news.journal").write_text("my diary")
    lines = assert_refused(tmp_path, server, "news.journal", args=args)
    assert "journal" in lines[0]


@pytest.mark.parametrize("args", [["--wire-log", "."], ["--events", "."]])
def test_output_that_cannot_be_written(start_aiosmtpd, tmp_path, args):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url)
    assert_refused(tmp_path, server, "irectory", args=args)


def test_a_dry_run_refuses_the_same(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, GOOD + "oops\n")
    assert_refused(tmp_path, server, "list.jsonl, row 2", args=["--dry-run"])
    write_job(tmp_path, server.url, "")
    assert_refused(tmp_path, server, "no recipients", args=["--dry-run"])


def test_bad_rows_that_are_skipped_have_failed_and_the_rest_is_sent(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    write_job(tmp_path, server.url, GOOD + "oops\n{}\n", recipients={"file": "list.jsonl", "bad_rows": "skip"})
    done = bulkmail("send", "news.json", cwd=tmp_path)
    assert done.returncode == 1
    assert [mail.recipients for mail in server.mails] == [["a@example.com"]]
    report = bulkmail("report", "news.journal", "--state", "failed", cwd=tmp_path).stdout
    assert report.count("\n") == 2 and "not JSON" in report and "email" in report


def test_a_line_break_in_the_address_or_a_header_fails_that_recipient_alone(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    rows = GOOD + '{"email":"b@example.com\\r\\nRCPT TO:<c@example.com>","name":"B"}\n'
    rows += '{"email":"d@example.com","name":"D\\nBcc: e@example.com"}\n'
    message = {**MESSAGE, "subject": "For {{ name }}"}
    write_job(tmp_path, server.url, rows, message=message)
    assert bulkmail("send", "news.json", cwd=tmp_path).returncode == 1
    assert [mail.recipients for mail in server.mails] == [["a@example.com"]]
    assert bulkmail("report", "news.journal", "--state", "failed", cwd=tmp_path).stdout.count("\n") == 2
