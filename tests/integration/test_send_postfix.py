"""A newsletter through a real Postfix: what each recipient gets, byte by byte, and what the report says of it."""

from __future__ import annotations

import email
import email.policy
import json
import random
import re
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest

from integration.cli_program import bulkmail, write_job

COUNT = 60
NAMES = ["Ann", "Bjørn", "Zoë <b>", "O'Hara & Söhne", "李雷", "x" * 200, '"quoted"', "тест"]
HTML = """<html><body>
<p>Dear {{ name }},</p>
.a line that begins with a dot, and one of exactly one:
.
<p>{% if number > 30 %}second half{% else %}first half{% endif %}: {{ number }}</p>
<img src="cid:logo"> façade, naïve – € 5
</body></html>
"""
TEXT = "Dear {{ name }},\n.\n..dots\nFrom here: {{ number }}\n\n" + "a long line " * 120 + "\n"


def people():
    return [
        {"email": f"reader{n}@example.test", "name": NAMES[n % len(NAMES)], "number": n} for n in range(1, COUNT + 1)
    ]


def write_newsletter(folder, url, **keys):
    chance = random.Random(3)
    (folder / "terms.pdf").write_bytes(b"%PDF-1.4\n" + chance.randbytes(3000))
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chance.randbytes(500))
    (folder / "news.html").write_text(HTML, encoding="utf-8")
    message = {
        "from": "Exämple News <news@example.test>",
        "to": "{{ name }} <{{ email }}>",
        "envelope_from": "bounce+{{ number }}@example.test",
        "subject": "Hello {{ name }}, ünïcode",
        "html": {"file": "news.html"},
        "text": TEXT,
        "attachments": [{"file": "terms.pdf", "type": "application/pdf"}, {"file": "logo.png", "cid": "logo"}],
        "list_unsubscribe": {"url": "https://example.test/u/{{ number }}", "one_click": True},
    }
    rows = "".join(json.dumps(person, ensure_ascii=False) + "\n" for person in people())
    return write_job(folder, url, rows, message=message, **keys)


def without_date(raw):
    return re.sub(rb"(?m)^Date: [^\n]*\n", b"", raw, count=1)


def as_sent(raw):
    """What Postfix delivered, without the lines that it put on top."""
    assert raw.startswith(b"Return-Path:")
    return raw[re.search(rb"(?m)^(?!Return-Path:|X-Original-To:|Delivered-To:|Received:|\s)", raw).start() :]


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_a_personalised_newsletter_arrives_byte_by_byte(start_postfix, certificates, tmp_path, tls):
    server = start_postfix(tls=tls)
    url = server.url.replace("127.0.0.1", "localhost") + f"?ca_file={certificates.ca_file}&connections=4"
    job = write_newsletter(tmp_path, url)
    done = bulkmail("send", job, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    got = {email.message_from_bytes(raw)["Delivered-To"]: raw for raw in server.wait_for(COUNT)}
    assert set(got) == {person["email"] for person in people()}
    report = {
        row["recipient"]: row
        for row in map(json.loads, bulkmail("report", "news.journal", cwd=tmp_path).stdout.splitlines())
    }
    for person in people():
        check_message(got[person["email"]], person, report[person["email"]], tmp_path, server)


def check_message(raw, person, row, folder, server):
    number, name = person["number"], person["name"]
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["Return-Path"] == f"<bounce+{number}@example.test>"
    assert message["Subject"] == f"Hello {name}, ünïcode"
    # the library's parser of addresses leaves blanks between encoded words (RFC 2047 section 6.2 takes them out)
    phrase, address = parseaddr(email.message_from_bytes(raw)["To"])
    assert (str(make_header(decode_header(phrase))), address) == (name, person["email"])
    assert message["From"].addresses[0].display_name == "Exämple News"
    assert message["List-Unsubscribe"] == f"<https://example.test/u/{number}>"
    half = "second half" if number > 30 else "first half"
    escaped = (
        name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;").replace('"', "&#34;")
    )
    html = message.get_body(("html",)).get_content()
    assert (
        f"<p>Dear {escaped},</p>\n.a line that begins with a dot, and one of exactly one:\n.\n<p>{half}: {number}</p>"
        in html
    )
    assert "façade, naïve – € 5" in html
    text = message.get_body(("plain",)).get_content()
    assert text == TEXT.replace("{{ name }}", name).replace("{{ number }}", str(number))
    files = {part.get_filename(): part for part in message.walk() if part.get_filename()}
    assert files["terms.pdf"].get_content() == (folder / "terms.pdf").read_bytes()
    assert files["logo.png"].get_content() == (folder / "logo.png").read_bytes()
    assert files["logo.png"]["Content-ID"] == "<logo>"
    assert all(len(line) <= 998 for line in raw.split(b"\n"))
    assert (row["state"], row["code"], row["attempts"]) == ("delivered", 250, 1)
    assert row["message_id"] == message["Message-ID"]
    queued = re.search(r"queued as (\w+)", row["reply"])[1]
    assert f"{queued}: message-id={message['Message-ID']}" in server.log()


def test_preview_is_what_is_sent(start_postfix, tmp_path):
    server = start_postfix()
    job = write_newsletter(tmp_path, server.url)
    assert bulkmail("send", job, "--limit", 9, cwd=tmp_path).returncode == 0
    server.wait_for(9)
    for number in (1, 2, 5, 8):
        assert bulkmail("preview", job, "--index", number, "--out", "eml", cwd=tmp_path).returncode == 0
        eml = (tmp_path / "eml" / f"{number:06d}.eml").read_bytes()
        raw = next(raw for raw in server.contents() if b"Delivered-To: reader%d@" % number in raw)
        assert b"\r\n" in eml
        assert without_date(as_sent(raw)) == without_date(eml.replace(b"\r\n", b"\n"))


def test_a_shared_message_goes_to_many_at_a_time(start_postfix, tmp_path):
    server = start_postfix(
        settings={
            "smtpd_recipient_restrictions": "check_recipient_access inline:{reader7@example.test=REJECT}, "
            "permit_mynetworks, reject"
        }
    )
    message = {"from": "news@example.test", "to": "list@example.test", "subject": "Same", "text": "For all.\n"}
    rows = "".join(f"reader{n}@example.test\n" for n in range(1, 251))
    write_job(tmp_path, server.url, rows, message=message, recipients={"file": "list.jsonl", "format": "text"})
    done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["delivered"], summary["failed"]) == (249, 1)
    got = [email.message_from_bytes(raw) for raw in server.wait_for(249)]
    assert len({message["Delivered-To"] for message in got}) == 249
    assert len({message["Message-ID"] for message in got}) == 1
    queued = set(re.findall(r"(\w+): message-id=", server.log()))
    assert 3 <= len(queued) <= 5
    report = [json.loads(line) for line in bulkmail("report", "news.journal", cwd=tmp_path).stdout.splitlines()]
    assert {re.search(r"queued as (\w+)", row["reply"])[1] for row in report if row["state"] == "delivered"} == queued
    assert {row["message_id"] for row in report} == {got[0]["Message-ID"]}
    assert [row["recipient"] for row in report if row["state"] == "failed"] == ["reader7@example.test"]


def test_a_server_that_takes_fewer_recipients_at_a_time_gets_the_rest_later(start_postfix, tmp_path):
    server = start_postfix(settings={"smtpd_recipient_limit": "20"})
    message = {"from": "news@example.test", "subject": "Same", "text": "For all.\n"}
    rows = "".join(f"reader{n}@example.test\n" for n in range(1, 61))
    keys = {
        "message": message,
        "recipients": {"file": "list.jsonl", "format": "text"},
        "retry": {"delays": ["100ms"] * 4},
    }
    write_job(tmp_path, server.url, rows, **keys)
    done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["delivered"] == 60
    assert len(server.wait_for(60)) == 60
