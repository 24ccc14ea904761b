"""`preview`: the message as it is sent and its parts, for whom, in the browser; the fields and who lacks them."""

from __future__ import annotations

import base64
import gzip
import json
import re
import webbrowser
from email import message_from_bytes
from email.policy import SMTP

import pytest

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
MESSAGE = {
    "from": "News <news@example.com>",
    "to": "{{ name }} <{{ email }}>",
    "subject": "Grüße, {{ name }}",
    "html": "<html><head></head><p>Dear {{ name }} in {{ city | default('town') }} <img src='cid:logo'>",
    "text": ".Dear {{ name }}\n",
    "attachments": [
        {"base64": base64.b64encode(PNG).decode(), "name": "logo.png", "cid": "logo"},
        {"content": "<p>other", "name": "other.html"},
    ],
}
ROWS = "".join(f'{{"email": "r{n}@example.com", "name": "R&D {n}", "unread": {n}}}\n' for n in range(1, 31))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(rows, message=..., **keys) -> manifest; the test runs in its folder."""
    monkeypatch.chdir(tmp_path)

    def write(rows=ROWS, name="list.jsonl", message=MESSAGE, **keys):
        (tmp_path / name).write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        job = {"message": message, "recipients": name, "relays": "smtp://127.0.0.1:9", **keys}
        (tmp_path / "news.json").write_text(json.dumps(job), encoding="utf-8")
        return "news.json"

    return write


@pytest.fixture
def opened(monkeypatch):
    """The URLs that a browser was asked to open."""
    urls = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) or True)
    return urls


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- the files


def test_the_first_recipients_message_and_its_parts_are_written(call, write, tmp_path):
    result = call("preview", write())
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [f"preview/000001{ending}" for ending in (".eml", ".txt", ".html")]
    eml = message_from_bytes((tmp_path / "preview" / "000001.eml").read_bytes(), policy=SMTP)
    assert str(eml["To"]) == "R&D 1 <r1@example.com>" and str(eml["Subject"]) == "Grüße, R&D 1"
    assert (tmp_path / "preview" / "000001.txt").read_text() == ".Dear R&D 1\n"
    assert "<p>Dear R&amp;D 1 in town <img src='cid:logo'>" in (tmp_path / "preview" / "000001.html").read_text()


def test_what_is_written_is_what_goes_out(call, write, tmp_path):
    from bulkmail.job.job import Job

    assert call("preview", write(), "--index", 7).exit_code == 0
    eml = (tmp_path / "preview" / "000007.eml").read_bytes()
    date = re.search(rb"^Date: (.*)\r$", eml, re.M)[1]
    row = {"email": "r7@example.com", "name": "R&D 7", "unread": 7}
    compiled = Job.load("news.json").compiled
    ((_, _, body),) = compiled.compose([row], [7], date)
    wire = body if isinstance(body, bytes) else b"".join(body)
    assert wire == re.sub(rb"(?m)^\.", b"..", eml) + b".\r\n"


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--index", "3"], [3]),
        (["--index", "3", "--index", "5-7", "--index", "6-8"], [3, 5, 6, 7, 8]),
        (["--recipient", "R30@Example.com"], [30]),
        (["--recipient", "r9@example.com", "--recipient", "r2@example.com", "--index", "1"], [1, 2, 9]),
        (["--recipient", "r2@example.com", "--index", "2"], [2]),
        (["--index", "29-30"], [29, 30]),
    ],
)
def test_recipients_are_chosen_by_place_range_and_address(call, write, tmp_path, options, numbers):
    result = call("preview", write(), "--out", "out", *options)
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path / "out") == sorted(f"{n:06}{end}" for n in numbers for end in (".eml", ".html", ".txt"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index", "31"], "recipient 31: not in the list"),
        (["--index", "29-40"], "recipients 31-40: not in the list"),
        (["--index", "1", "--recipient", "x@example.com"], "x@example.com: not in the list"),
        (["--index", "0"], "'0' is empty"),
        (["--index", "5-3"], "'5-3' is empty"),
        (["--index", "-3"], "'-3' is neither"),
        (["--index", "3-"], "'3-' is neither"),
        (["--index", "a"], "'a' is neither"),
        (["--open", "--index", "1-11"], "at most 10"),
    ],
)
def test_who_is_not_there_is_named(call, write, options, words):
    result = call("preview", write(), *options)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_a_bad_row_matters_only_to_who_asks_for_it(call, write, tmp_path):
    rows = ROWS.replace('"r2@example.com"', '"nobody"').replace(', "name": "R&D 3"', "")
    write(rows)
    assert call("preview", "news.json", "--index", "1", "--index", "4-5").exit_code == 0
    for number, words in ((2, "no @"), (3, 'no "name"')):
        result = call("preview", "news.json", "--index", str(number))
        assert result.exit_code == 2 and words in result.stderr and "row" in result.stderr


def test_a_message_that_cannot_be_composed_is_an_error_with_its_recipient(call, write):
    write('{"email": "a@example.com", "name": "x\\nBcc: y@example.com"}\n')
    result = call("preview", "news.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("bulkmail: ") and "recipient 1 (a@example.com): to: 'name'" in result.stderr


def test_a_part_that_is_no_longer_there_leaves_no_file_behind(call, write, tmp_path):
    assert call("preview", write()).exit_code == 0
    assert call("preview", write(message={k: v for k, v in MESSAGE.items() if k != "html"})).exit_code == 0
    assert files(tmp_path / "preview") == ["000001.eml", "000001.txt"]


def test_a_ready_message_has_its_parts_too(call, write, tmp_path):
    raw = (
        b"From: a@example.com\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: text/html\r\n\r\n<p>not this\r\n"
        b"--x\r\nContent-Type: text/html\r\nContent-Disposition: attachment\r\n\r\n<p>nor this\r\n"
        b"--x\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n<p>Gr\xfc\xdfe\r\n"
        b"--x\r\nContent-Type: text/plain; charset=klingon\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
        b"--x\r\nContent-Type: text/x-amp-html\r\n\r\n<html amp4email>\r\n"
        b"--x\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n\r\n--x--\r\n"
    )
    (tmp_path / "raw.eml").write_bytes(raw)
    assert call("preview", write(message={"raw": "raw.eml"})).exit_code == 0
    found = {path.name[6:]: path.read_bytes() for path in (tmp_path / "preview").iterdir()}
    assert found == {
        ".eml": raw,
        ".html": "<p>Grüße".encode(),
        ".txt": "Grüße".encode(),
        ".amp.html": b"<html amp4email>",
        ".ics": b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n",
    }


def test_a_ready_message_that_nobody_can_read_is_written_as_it_is(call, write, tmp_path):
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000))
    (tmp_path / "raw.eml").write_bytes(b"From: a@example.com\r\n" + deep)
    result = call("preview", write(message={"raw": "raw.eml"}))
    assert result.exit_code == 0 and (tmp_path / "preview" / "000001.eml").read_bytes().endswith(deep)


def test_one_json_object_names_the_files(call, write):
    result = call("preview", write(), "--index", "2-3", "--json")
    assert json.loads(result.stdout) == {
        "messages": [
            {
                "index": n,
                "recipient": f"r{n}@example.com",
                "files": [f"preview/00000{n}{ending}" for ending in (".eml", ".txt", ".html")],
            }
            for n in (2, 3)
        ]
    }


# ---- in the browser


def test_open_shows_a_copy_of_the_html_that_has_its_images(call, write, opened, tmp_path):
    result = call("preview", write(), "--open", "--index", "4")
    assert result.exit_code == 0, result.stderr
    page = tmp_path / "preview" / "000004.browser.html"
    assert opened == [page.as_uri()]
    text = page.read_text()
    assert f"<img src='data:image/png;base64,{base64.b64encode(PNG).decode()}'>" in text
    assert text.startswith("<html><head><meta charset=") and "script-src 'none'" in text
    assert "cid:logo" in (tmp_path / "preview" / "000004.html").read_text()


def test_without_html_the_text_is_opened(call, write, opened, tmp_path):
    message = {"from": "a@example.com", "text": "Hi {{ name }}"}
    assert call("preview", write(message=message), "--open", "--index", "1-2").exit_code == 0
    assert opened == [(tmp_path / "preview" / f"00000{n}.txt").as_uri() for n in (1, 2)]


def test_a_machine_without_a_browser_is_told_where_the_page_is(call, write, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    result = call("preview", write(), "--open")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "bulkmail: no browser could be started; preview/000001.browser.html is what it would have shown\n"
    )


# ---- the fields


def test_all_fields_says_what_the_message_uses_and_who_lacks_it(call, write, tmp_path):
    rows = "email;name;city;unread\na@example.com;Ann;Bonn;1\nb@example.com;;;1\nnobody;Cid;;1\nd@example.com;Dan;;1\n"
    write(rows, "list.csv", defaults={"plan": "free", "gone": "x" * 60}, message=MESSAGE | {
        "subject": "{{ name }} {{ season }} {{ points }} {{ plan }} {{ gone }}",
    })  # fmt: skip
    result = call("preview", "news.json", "--all-fields", "--set", "season=autumn")
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "preview").exists()
    lines = [re.split(r"  +", line) for line in result.stdout.splitlines()]
    assert lines == [
        ["field", "needed", "missing", "empty", "used in"],
        ["city", "optional", "0", "2", "html"],
        ["email", "required", "0", "0", "to, line 1"],
        ["gone", f'defaults: "{"x" * 36}...', "3", "0", "subject, line 1"],
        ["name", "required", "0", "1", "to, line 1; subject, line 1; text, line 1; html, line 1"],
        ["plan", 'defaults: "free"', "3", "0", "subject, line 1"],
        ["points", "required", "3", "0", "subject, line 1"],
        ["season", '--set: "autumn"', "3", "0", "subject, line 1"],
        ["not used: unread"],
        ["3 recipients; bad rows, not counted: 1"],
    ]


def test_all_fields_as_json_and_with_a_message(call, write, tmp_path):
    write(gzip.compress(ROWS.encode()), "list.jsonl.gz")
    result = call("preview", "news.json", "--all-fields", "--index", "2", "--json")
    found = json.loads(result.stdout)
    assert [message["index"] for message in found["messages"]] == [2]
    assert found["fields"]["recipients"] == 30 and found["fields"]["unused"] == ["unread"]
    city, email, name = found["fields"]["fields"]
    assert city == {
        "name": "city", "places": ["html"], "required": False, "given": None, "value": None, "missing": 30, "empty": 0,
    }  # fmt: skip
    assert name["required"] and name["missing"] == 0 and email["required"]


def test_the_unsubscribe_url_is_no_field_but_what_it_uses_is(call, write):
    message = {
        "from": "a@example.com",
        "text": "{{ unsubscribe_url }}",
        "list_unsubscribe": {"url": "https://example.com/{{ id }}"},
    }
    result = call("preview", write(message=message), "--all-fields")
    assert result.exit_code == 0 and "unsubscribe_url" not in result.stdout
    assert re.search(r"^id +required +30 +0 +list_unsubscribe.url, line 1$", result.stdout, re.M)


def test_names_in_a_list_do_not_drive_the_terminal(call, write):
    result = call("preview", write('{"email": "a@example.com", "name": "x", "\\u001b[2J": 1}\n'), "--all-fields")
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "not used: \\x1b[2J" in result.stdout
