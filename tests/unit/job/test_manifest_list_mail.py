"""The manifest's keys of list mail: what they become, what is refused, and that the key is never shown."""

import json

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.job import Job
from bulkmail.job.manifest import load_manifest
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import ListLink

MESSAGE = {"from": "news@example.com", "text": "Hello {{ unsubscribe_url }}"}
KEY = "k3y-of-the-newsletter-department"


def manifest(tmp_path, **message):
    path = tmp_path / "news.json"
    job = {"message": MESSAGE | message, "recipients": [{"email": "a@example.org", "id": 7}], "relays": "smtp://h"}
    path.write_text(json.dumps(job))
    return path


def spec(tmp_path, **message):
    return load_manifest(manifest(tmp_path, **message), environ={"KEY": KEY}).message


def problem(tmp_path, environ=None, **message):
    with pytest.raises(ManifestError) as caught:
        load_manifest(manifest(tmp_path, **message), environ=environ or {})
    ((path, text),) = caught.value.problems
    return path, text


def test_links_are_a_string_an_object_or_several(tmp_path):
    found = spec(
        tmp_path,
        list_help="help@example.com",
        list_owner={"url": "https://example.com/o", "comment": "by post"},
        list_archive=["https://example.com/a", {"url": "a@example.com"}],
        list_post="NO",
        list_subscribe=None,
    )
    assert found.list_fields == {
        "help": (ListLink("help@example.com"),),
        "post": (ListLink("NO"),),
        "owner": (ListLink("https://example.com/o", "by post"),),
        "archive": (ListLink("https://example.com/a"), ListLink("a@example.com")),
    }


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, None),
        ({"list_help": "h@example.com"}, None),
        ({"list_id": "news.example.com"}, "bulk"),
        ({"list_unsubscribe": {"mailto": "u@example.com"}}, "bulk"),
        ({"list_id": "news.example.com", "precedence": "list"}, "list"),
        ({"list_id": "news.example.com", "precedence": "none"}, None),
        ({"list_id": "news.example.com", "precedence": None}, "bulk"),
        ({"list_id": "news.example.com", "headers": {"PRECEDENCE": "junk"}}, None),
        ({"precedence": "junk"}, "junk"),
    ],
)
def test_list_mail_of_a_job_is_bulk_unless_it_says_otherwise(tmp_path, message, expected):
    assert spec(tmp_path, **message).precedence == expected


def test_auto_submitted_is_what_is_stated(tmp_path):
    assert spec(tmp_path).auto_submitted is None
    assert spec(tmp_path, auto_submitted="auto-generated").auto_submitted == "auto-generated"


@pytest.mark.parametrize(
    ("message", "path", "words"),
    [
        ({"list_help": 7}, "list_help", "7, expected a URL"),
        ({"list_help": []}, "list_help", "an empty list"),
        ({"list_help": {"comment": "x"}}, "list_help", "expected a URL"),
        ({"list_help": {"url": "h@e.com", "text": "x"}}, "list_help", "expected a URL"),
        ({"list_help": [["h@e.com"]]}, "list_help", "expected a URL"),
        ({"list": {"help": "x"}}, "list", "unknown key 'list'"),
        ({"precedence": "high"}, "precedence", "'bulk', 'list', 'junk' or 'none'"),
        ({"auto_submitted": "no"}, "auto_submitted", "'auto-generated' or 'auto-replied'"),
        ({"list_unsubscribe": {"url": "https://e.com", "key": 5}}, "list_unsubscribe.key", "expected a string"),
        ({"list_unsubscribe": {"url": "https://e.com", "key": "${KEY}"}}, "list_unsubscribe.key", "16"),
        ({"list_unsubscribe": {"url": "https://e.com", "key": "too-shrt"}}, "list_unsubscribe.key", "has 8 bytes"),
    ],
)
def test_what_is_refused_names_its_key(tmp_path, message, path, words):
    found, text = problem(tmp_path, {"KEY": "too-shrt"}, **message)
    assert found == "$.message." + path and words in text
    assert "too-shrt" not in text


@pytest.mark.parametrize(
    "message",
    [
        {"list_help": "example.com"},
        {"list_unsubscribe": {"mailto": "u@example.com", "key": KEY}},
        {"list_unsubscribe": {"mailto": "u"}},
    ],
)
def test_what_only_the_composed_message_shows_is_refused_before_anything_is_sent(tmp_path, message):
    with pytest.raises(ManifestError) as caught:
        Job.load(manifest(tmp_path, text="Hello", **message))
    assert caught.value.path == "$.message." + next(iter(message)) and KEY not in str(caught.value)


def test_the_key_may_change_and_the_job_is_the_same(tmp_path):
    path = manifest(tmp_path, list_unsubscribe={"url": "https://e.com/{{ id }}", "key": "${KEY}"})
    one, other = (load_manifest(path, environ={"KEY": key}) for key in (KEY, KEY[::-1]))
    assert one.digest == other.digest and one.message != other.message
    assert KEY not in repr(one)


def test_nothing_that_a_check_or_a_preview_says_shows_the_key(tmp_path):
    unsubscribe = {"url": "https://e.com/{{ id }}", "one_click": True, "key": "${KEY}"}
    job = Job.load(manifest(tmp_path, list_unsubscribe=unsubscribe), environ={"KEY": KEY})
    assert KEY not in repr([finding.as_dict() for finding in job.check()])
    assert KEY.encode() not in from_wire(job.compiled.signed_copy({"email": "a@example.org", "id": 7}, 1, b"x")[1])
