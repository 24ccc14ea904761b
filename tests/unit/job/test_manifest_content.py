"""What a manifest says of forms, attachments, images and headers becomes the message; each file is read once."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.job import Job
from bulkmail.job.manifest import load_manifest
from bulkmail.message.compile import compile_message
from bulkmail.message.raw import from_wire

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20 + b"IEND\xaeB`\x82"
EVENT = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nSUMMARY:{{ name }}\nEND:VCALENDAR\n"
ROW = {"email": "ann@example.net", "name": "Ann"}


def written(folder: Path, relays: Any = "smtp://relay.example", **message: Any) -> Path:
    path = folder / "news.json"
    content = {"from": "n@example.com", "to": "{{ email }}", **message}
    path.write_text(json.dumps({"message": content, "recipients": [ROW], "relays": relays}))
    return path


def composed(job: Job) -> Any:
    ((_, _, body),) = job.compiled.compose([ROW], [1], b"Sun, 01 Nov 2026 08:00:00 +0000")
    return message_from_bytes(from_wire(body if isinstance(body, bytes) else b"".join(body)), policy=SMTP)


def refused(path: Path) -> list[tuple[str, str]]:
    with pytest.raises(ManifestError) as caught:
        Job.load(path, environ={})
    return [(place, sentence) for place, sentence in caught.value.problems]


def kinds(message: Any) -> list[str]:
    return [part.get_content_type() for part in message.walk() if not part.is_multipart()]


def test_every_key_of_the_content_reaches_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html amp4email>{{ name }}")
    (tmp_path / "e.ics").write_text(EVENT)
    (tmp_path / "f.md").write_text("# {{ name }}")
    (tmp_path / "p.mime").write_bytes(b"Content-Type: text/x-own\n\nready\n")
    path = written(
        tmp_path,
        text="Hi {{ name }}",
        html="<p>{{ name }}",
        amp={"file": "a.html"},
        watch="<b>{{ name }}",
        calendar={"method": "REQUEST", "file": "e.ics", "name": "invite.ics"},
        alternatives=[{"type": "text/markdown", "file": "f.md"}, {"type": "text/x-b", "content": "b"}],
        attachments=[{"part": {"file": "p.mime"}}, {"part": "Content-Type: text/x-two\n\n2\n"}],
        headers={"X-A": ["1", {"value": "=?utf-8?q?=C3=BC?=", "prepared": True}], "X-B": "{{ name }}"},
        priority="low",
        in_reply_to="<1@example.com>",
        references="<0@example.com> <1@example.com>",
        encoding="base64",
    )
    message = composed(Job.load(path, environ={}))
    assert kinds(message) == [
        "text/plain", "text/watch-html", "text/x-amp-html", "text/html", "text/calendar", "text/markdown", "text/x-b",
        "application/ics", "text/x-own", "text/x-two",
    ]  # fmt: skip
    texts = [part for part in message.walk() if part["Content-Transfer-Encoding"]]
    assert {part["Content-Transfer-Encoding"] for part in texts} == {"base64"} and len(texts) == 8
    assert message.get_body(("html",)).get_content() == "<p>Ann\r\n"
    assert [str(value) for value in message.get_all("X-A")] == ["1", "ü"] and message["X-B"] == "Ann"
    assert (message["Importance"], message["In-Reply-To"]) == ("Low", "<1@example.com>")
    assert message["References"] == "<0@example.com> <1@example.com>"


def test_a_file_is_read_once_and_may_be_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF 1")
    (tmp_path / "logo.png").write_bytes(PNG)
    path = written(
        tmp_path, html="<p>{{ name }} <img src='logo.png'>", embed_images=True, attachments=[{"file": "a.pdf"}]
    )
    manifest = load_manifest(path, environ={})
    (tmp_path / "a.pdf").write_bytes(b"%PDF 2, longer")
    (tmp_path / "logo.png").unlink()
    (attached, image) = manifest.message.attachments
    assert attached.loaded is not None and attached.loaded.data == b"%PDF 1"
    assert image.loaded is not None and image.loaded.data == PNG
    changed = [sentence for _, sentence in refused(path)]
    assert len(changed) == 1 and "there is no image" in changed[0] and str(tmp_path / "logo.png") in changed[0]
    (tmp_path / "logo.png").write_bytes(PNG)
    assert load_manifest(path, environ={}).digest != manifest.digest
    (tmp_path / "a.pdf").write_bytes(b"%PDF 1")
    assert load_manifest(path, environ={}).digest == manifest.digest
    (tmp_path / "logo.png").write_bytes(PNG + b"\0")
    assert load_manifest(path, environ={}).digest != manifest.digest


def test_two_attachments_of_one_name_both_count(tmp_path: Path) -> None:
    first = load_manifest(written(tmp_path, attachments=[{"content": c, "name": "a"} for c in "xy"]), environ={})
    for other in ("xz", "zy"):
        path = written(tmp_path, attachments=[{"content": c, "name": "a"} for c in other])
        assert load_manifest(path, environ={}).digest != first.digest


def test_images_are_found_beside_the_html_and_are_parts(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "news.html").write_text("<p>{{ name }} <img src='logo.png'>")
    (tmp_path / "mail" / "logo.png").write_bytes(PNG)
    message = composed(Job.load(written(tmp_path, html={"file": "mail/news.html"}, embed_images=True), environ={}))
    page, image = message.iter_parts()
    assert f"cid:{image['Content-ID'].strip('<>')}" in page.get_content() and image.get_content() == PNG
    (tmp_path / "mail" / "logo.png").write_bytes(PNG[:20])
    ((place, sentence),) = refused(tmp_path / "news.json")
    assert place == "$.message.html" and "'logo.png' is no whole image" in sentence


DATA = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("relays", "taken"),
    [
        ("smtp://a.example?allow_urls=true", True),
        ({"url": "smtp://a.example", "allow_urls": True}, True),
        (["smtp://a.example?allow_urls=true", {"url": "smtp://b.example", "allow_urls": True}], True),
        (["smtp://a.example?allow_urls=true", "smtp://b.example"], False),
        ({"url": "smtp://a.example?allow_urls=true", "allow_urls": False}, False),
        ("smtp://a.example", False),
    ],
)
def test_urls_need_every_relays_leave(tmp_path: Path, relays: Any, taken: bool) -> None:
    path = written(tmp_path, relays, text="t", attachments=[{"url": DATA, "cid": "x"}])
    if taken:
        attached = list(composed(Job.load(path, environ={})).iter_attachments())
        assert [part.get_content() for part in attached] == [PNG]
    else:
        ((place, sentence),) = refused(path)
        assert place == "$.message.attachments[0]" and "URLs, data: included, are off" in sentence


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"text": {"file": "a.txt"}}, "$.message.text.file"),
        ({"amp": {"file": "a.txt"}}, "$.message.amp.file"),
        ({"calendar": {"file": "a.txt"}}, "$.message.calendar.file"),
        ({"alternatives": [{"type": "text/x", "file": "a.txt"}]}, "$.message.alternatives[0].file"),
        ({"text": "t", "attachments": [{"file": "a.txt"}]}, "$.message.attachments[0]"),
        ({"text": "t", "attachments": [{"part": {"file": "a.txt"}}]}, "$.message.attachments[0].part"),
        ({"html": "<img src='a.txt'>", "embed_images": True}, "$.message.html"),
        ({"text": "{% include 'a.txt' %}"}, "$.message.text"),
        ({"html": "{% extends 'a.txt' %}"}, "$.message.html"),
        ({"html": "{% set n = 'a.txt' %}{% include n %}x"}, None),
        ({"raw": "a.txt", "from": None, "to": None}, "$.message.raw"),
    ],
)
def test_no_file_is_read_where_a_relay_forbids_it(tmp_path: Path, message: dict[str, Any], place: str | None) -> None:
    (tmp_path / "a.txt").write_text("From: a@example.com\n\nsecret words\n")
    for relays in (
        "smtp://a.example?allow_files=false",
        ["smtp://b.example", {"url": "smtp://a.example", "allow_files": False}],
    ):
        path = written(tmp_path, relays, **message)
        if place is None:
            (made,) = Job.load(path, environ={}).compiled.compose([ROW], [1], b"")
            assert "cannot" in str(made) or "no loader" in str(made), made
            continue
        found = refused(path)
        assert [where for where, _ in found] == [place]
        assert "secret" not in found[0][1]


@pytest.mark.parametrize(
    ("message", "place", "words"),
    [
        ({"calendar": {}}, "$.message.calendar", "one of 'file' and 'text' is expected"),
        ({"calendar": {"text": "x", "method": "INVITE"}}, "$.message.calendar", "'INVITE', expected one of PUBLISH"),
        ({"calendar": "x"}, "$.message.calendar", "expected an object"),
        ({"calendar": {"file": "gone.ics"}}, "$.message.calendar.file", "cannot read the file"),
        ({"alternatives": [{"content": "x"}]}, "$.message.alternatives[0].type", "the key is missing"),
        ({"alternatives": [{"type": "text", "content": "x"}]}, "$.message.alternatives[0]", "expected a content type"),
        ({"alternatives": [{"type": "text/x"}]}, "$.message.alternatives[0]", "one of 'file' and 'content'"),
        ({"headers": {"X-A": 5}}, '$.message.headers["X-A"]', "a string, a list of strings"),
        ({"headers": {"X-A": []}}, '$.message.headers["X-A"]', "an empty list"),
        ({"headers": {"X-A": ["a", "b\nc"]}}, '$.message.headers["X-A"][1]', "a line break"),
        ({"headers": {"X-A": {"value": "a\nb"}}}, '$.message.headers["X-A"]', "a prepared value"),
        ({"headers": {"X-A": {"value": "a", "raw": True}}}, '$.message.headers["X-A"].raw', "unknown key"),
        ({"headers": {"X-Priority": "1"}, "priority": "low"}, "$.message.headers.X-Priority", "use 'priority'"),
        ({"priority": "urgent"}, "$.message.priority", "expected 'high', 'normal' or 'low'"),
        ({"encoding": "binary"}, "$.message.encoding", "expected '7bit'"),
        ({"in_reply_to": "x"}, "$.message.in_reply_to", "expected message ids"),
        ({"attachments": [{"part": "no header"}]}, "$.message.attachments[0]", "is no header field"),
        ({"attachments": [{"part": 5}]}, "$.message.attachments[0].part", "expected a string"),
        ({"attachments": [{"part": "A: b\n\nx", "name": "x"}]}, "$.message.attachments[0]", "no 'name' beside it"),
        ({"attachments": [{"file": "gone.pdf"}]}, "$.message.attachments[0].file", "gone.pdf"),
        (
            {"attachments": [{"content": "x", "type": "text/x; charset=nope"}]},
            "$.message.attachments[0]",
            "charset 'nope'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_path(tmp_path: Path, message: dict[str, Any], place: str, words: str) -> None:
    ((found, sentence),) = refused(written(tmp_path, **{"text": "t", **message}))
    assert found == place and words in sentence


def test_html_is_reworked_as_the_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "s.css").write_text("a { color: red }")
    message = {
        "from": "n@example.com",
        "html": "<link rel=stylesheet href=s.css><a href='https://e.com/{{ id }}?'>x</a> {{ n|number }}",
        "text": {"from_html": True},
        "inline_css": True,
        "link_parameters": {"utm_source": "news"},
        "locale": "de_DE",
    }
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"message": message, "recipients": ["a@example.net"], "relays": "smtp://localhost"}))
    manifest = load_manifest(path)
    compiled = compile_message(manifest.message, job="j", folder=manifest.folder)
    made = compiled.render({"email": "a@example.net", "id": 7, "n": 1234.5}, 1, b"Sun, 01 Nov 2026 08:00:00 +0000")
    assert made.html == '<a href="https://e.com/7?utm_source=news" style="color: red;">x</a> 1.234,5\n'
    assert made.text == "x (https://e.com/7?utm_source=news) 1.234,5\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": {"from_html": True}}, "there is none"),
        ({"html": "x", "text": {"from_html": True, "file": "x"}}, "cannot read the file"),
        ({"html": "x", "text": {"from_html": False}}, "one of 'file' and 'from_html'"),
        ({"html": "x", "text": {}}, "one of 'file' and 'from_html'"),
        ({"html": "x", "link_parameters": {"a": 1}}, "link_parameters.a"),
        ({"html": "x", "inline_css": "yes"}, "inline_css"),
    ],
)
def test_what_is_asked_of_html_is_checked(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = tmp_path / "m.json"
    message = {"from": "n@example.com", **fields}
    path.write_text(json.dumps({"message": message, "recipients": ["a@example.net"], "relays": "smtp://localhost"}))
    with pytest.raises(ManifestError, match=words):
        load_manifest(path)
