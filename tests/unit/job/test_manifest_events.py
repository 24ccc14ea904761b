"""`events` of a manifest: what it may say, and that no error shows a secret."""

from __future__ import annotations

import base64
import json

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.manifest import load_manifest
from bulkmail.job.specs import EventsSpec

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOOK = {"url": "https://example.com/hook", "secret": SECRET}


@pytest.fixture
def load(tmp_path):
    def load(events, **environ):
        manifest = {
            "message": {"from": "a@example.com", "text": "x"},
            "recipients": ["b@example.com"],
            "relays": "smtp://127.0.0.1",
            "events": events,
        }
        (tmp_path / "m.json").write_text(json.dumps(manifest))
        return load_manifest(tmp_path / "m.json", environ=environ)

    return load


def test_a_file_and_a_webhook(load, tmp_path):
    assert load("events.jsonl").events == EventsSpec(tmp_path / "events.jsonl")
    assert load({"file": "events.jsonl"}).events == EventsSpec(tmp_path / "events.jsonl")
    assert load(None).events is None
    spec = load(
        {"webhook": HOOK | {"secret": "${HOOK}", "events": ["failed"], "batch": 10, "every": "250ms", "timeout": "3s"}},
        HOOK=SECRET,
    ).events.webhook
    assert (spec.key, spec.events, spec.batch) == (bytes(range(32)), frozenset(("failed",)), 10)
    assert (spec.every, spec.timeout) == (0.25, 3.0)


def test_a_secret_that_is_plain_text_is_the_key_itself(load):
    assert load({"webhook": HOOK | {"secret": "correct horse battery"}}).events.webhook.key == b"correct horse battery"


def test_requests_that_are_not_signed_are_warned_of(load):
    manifest = load({"webhook": {"url": "http://[::1]:8000/"}})
    assert [path for path, text in manifest.warnings if "not signed" in text] == ["$.events.webhook"]


def test_events_do_not_make_it_another_job(load):
    assert load("a.jsonl").digest == load({"webhook": HOOK}).digest == load(None).digest


@pytest.mark.parametrize(
    ("events", "path", "said"),
    [
        (7, "$.events", "a file's name, or an object"),
        ("", "$.events", "expected the name of a file"),
        ("-", "$.events", "send --events -"),
        ("none/e", "$.events", "a folder that is there"),
        ({"fiel": "x"}, "$.events.fiel", "'file'"),
        ({"webhook": {}}, "$.events.webhook.url", "missing"),
        ({"webhook": "https://example.com"}, "$.events.webhook", "an object"),
        ({"webhook": HOOK | {"url": "example.com"}}, "$.events.webhook.url", "expected a URL such as"),
        ({"webhook": HOOK | {"url": "ftp://example.com/"}}, "$.events.webhook.url", "expected a URL such as"),
        ({"webhook": HOOK | {"url": "https://example.com:99999/"}}, "$.events.webhook.url", "port"),
        ({"webhook": HOOK | {"url": "https://u:sesame@example.com/"}}, "$.events.webhook.url", "Authorization"),
        ({"webhook": HOOK | {"url": "https://example.com/#x"}}, "$.events.webhook.url", "fragment"),
        ({"webhook": HOOK | {"url": "https://example.com/ x"}}, "$.events.webhook.url", "blank"),
        ({"webhook": HOOK | {"url": "http://example.com/"}}, "$.events.webhook", "allow_http"),
        ({"webhook": HOOK | {"url": "http://127.evil.example/"}}, "$.events.webhook", "allow_http"),
        ({"webhook": HOOK | {"secret": "whsec_sesame!"}}, "$.events.webhook.secret", "no base64"),
        ({"webhook": HOOK | {"secret": "sesame"}}, "$.events.webhook.secret", "6 bytes, expected at least 16"),
        ({"webhook": HOOK | {"events": ["deliverd"]}}, "$.events.webhook.events[0]", "did you mean 'delivered'"),
        ({"webhook": HOOK | {"events": []}}, "$.events.webhook.events", "at least one"),
        ({"webhook": HOOK | {"batch": 0}}, "$.events.webhook.batch", "0, expected a whole number from 1 to 5000"),
        ({"webhook": HOOK | {"batch": 5001}}, "$.events.webhook.batch", "5001, expected a whole number from 1 to 5000"),
        ({"webhook": HOOK | {"every": "1ms"}}, "$.events.webhook.every", "expected 0.05 to 3600"),
        ({"webhook": HOOK | {"timeout": "1h"}}, "$.events.webhook.timeout", "expected 0.1 to 120"),
        ({"webhook": HOOK | {"headers": {"X-A": "sesame\r\nB: c"}}}, "$.events.webhook.headers", "printable ASCII"),
        ({"webhook": HOOK | {"headers": {"Content-Length": "1"}}}, "$.events.webhook.headers", "set by bulkmail"),
        ({"webhook": HOOK | {"headers": {"Webhook-Id": "1"}}}, "$.events.webhook.headers", "set by bulkmail"),
        ({"webhook": HOOK | {"headers": {"X A": "1"}}}, "$.events.webhook.headers", "name of a header"),
        ({"webhook": HOOK | {"ca_file": "none.pem"}}, "$.events.webhook.ca_file", "none.pem"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(load, events, path, said):
    with pytest.raises(ManifestError) as caught:
        load(events)
    ((where, text),) = caught.value.problems
    assert where.startswith(path) and said in text
    assert "sesame" not in str(caught.value) and SECRET not in str(caught.value)


def test_http_to_another_machine_can_be_allowed(load):
    assert load({"webhook": HOOK | {"url": "http://10.0.0.1/", "allow_http": True}}).events.webhook.url
