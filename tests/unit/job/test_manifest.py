"""A good manifest becomes plain data: each form of each key, what is left out, environment, digest, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError, ManifestError
from bulkmail.job.manifest import Manifest, load_manifest, manifest_schema
from bulkmail.job.specs import ClassRetry, LimitsSpec, RecipientsSpec, RetrySpec, StopRule
from bulkmail.message.spec import AttachmentSpec, ListUnsubscribe
from bulkmail.url import OPTIONS
from bulkmail.values import Rate

SMALL = {
    "message": {"from": "news@example.com", "subject": "Hello", "text": "Hello"},
    "recipients": ["a@example.org"],
    "relays": "smtp://127.0.0.1:2525",
}


def written(tmp_path: Path, manifest: Any, name: str = "news.json") -> Path:
    path = tmp_path / name
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    return path


def loaded(tmp_path: Path, manifest: Any = None, **changes: Any) -> Manifest:
    options = changes.pop("options", {})
    return load_manifest(written(tmp_path, manifest or SMALL | changes), **({"environ": {}} | options))


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    manifest = loaded(tmp_path)
    assert (manifest.job, manifest.journal, manifest.mode) == ("news", tmp_path / "news.journal", None)
    assert (manifest.path, manifest.folder) == (tmp_path / "news.json", tmp_path)
    assert manifest.limits == LimitsSpec(None, None)
    assert manifest.retry == RetrySpec((60.0, 300.0, 1800.0, 7200.0), 86400.0, 300.0, delays_given=False)
    assert (manifest.retry.jitter, manifest.retry.classes, manifest.retry.relay) == (0.1, {}, "any")
    assert manifest.stop_if == () and (manifest.relays[0].weight, manifest.relays[0].backup) == (None, False)
    assert manifest.recipients == RecipientsSpec(("a@example.org",), None, "stop", False, ())
    assert (manifest.defaults, manifest.variables, manifest.warnings) == ({}, {}, [])


def test_the_example_of_the_documentation_is_taken(tmp_path: Path) -> None:
    for name in ("news.html", "news.txt", "terms.pdf", "logo.png", "subscribers.jsonl", "unsubscribed.txt"):
        (tmp_path / name).write_text(f"content of {name}")
    manifest = loaded(
        tmp_path,
        {
            "job": "november-news",
            "message": {
                "from": "Example News <news@example.com>",
                "reply_to": "help@example.com",
                "to": "{{ name }} <{{ email }}>",
                "envelope_from": "bounce+{{ id }}@bounces.example.com",
                "subject": "Hello {{ name }}",
                "html": {"file": "news.html"},
                "text": {"file": "news.txt"},
                "attachments": [
                    {"file": "terms.pdf", "type": "application/pdf"},
                    {"file": "logo.png", "cid": "logo"},
                ],
                "headers": {"X-Campaign": "november"},
                "list_unsubscribe": {
                    "url": "https://example.com/u/{{ id }}",
                    "mailto": "u@example.com",
                    "one_click": True,
                },
                "list_id": "news.example.com",
                "feedback_id": "november:example",
            },
            "defaults": {"name": "friend"},
            "recipients": {"file": "subscribers.jsonl", "suppress": ["unsubscribed.txt"], "deduplicate": True},
            "relays": [
                {
                    "name": "main",
                    "url": "smtps://news:${SMTP_PASSWORD}@mx.example.com",
                    "connections": 20,
                    "messages_per_connection": 500,
                },
                {"name": "spare", "url": "smtp://10.0.0.9:25"},
            ],
            "limits": {"rate": "300/s", "connections": 100},
            "retry": {"delays": ["1m", "5m", "30m", "2h"], "give_up_after": "24h"},
            "journal": "november-news.journal",
        },
        options={"environ": {"SMTP_PASSWORD": "s%40cret"}},
    )
    message = manifest.message
    assert (message.html, message.html_file) == ("content of news.html", "news.html")
    assert (message.text, message.text_file) == ("content of news.txt", "news.txt")
    assert message.attachments == (
        AttachmentSpec(file=tmp_path / "terms.pdf", type="application/pdf"),
        AttachmentSpec(file=tmp_path / "logo.png", cid="logo"),
    )
    assert message.list_unsubscribe == ListUnsubscribe("https://example.com/u/{{ id }}", "u@example.com", True)
    assert (message.from_, message.to) == ("Example News <news@example.com>", "{{ name }} <{{ email }}>")
    assert (message.reply_to, message.envelope_from) == ("help@example.com", "bounce+{{ id }}@bounces.example.com")
    assert (message.subject, message.headers) == ("Hello {{ name }}", {"X-Campaign": "november"})
    assert (message.list_id, message.feedback_id) == ("news.example.com", "november:example")
    assert manifest.recipients == RecipientsSpec(
        tmp_path / "subscribers.jsonl", None, "stop", True, (tmp_path / "unsubscribed.txt",)
    )
    main, spare = manifest.relays
    assert (main.name, main.connections, main.endpoint.password) == ("main", 20, "s@cret")
    assert (main.endpoint.host, main.endpoint.port, main.endpoint.options.messages_per_connection) == (
        "mx.example.com",
        465,
        500,
    )
    assert (spare.name, spare.connections) == ("spare", 5)
    assert manifest.limits == LimitsSpec(Rate(300.0, 1.0, "300/s"), 100)
    assert "s@cret" not in repr(manifest) and "s%40cret" not in repr(manifest)


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ("r.csv", "file"),
        ({"file": "r.csv"}, "file"),
        ("-", "-"),
        ({"file": "-"}, "-"),
        (["a@x.org", {"email": "b@x.org", "n": None}], ("a@x.org", {"email": "b@x.org", "n": None})),
    ],
)
def test_recipients_have_short_forms(tmp_path: Path, given: Any, source: Any) -> None:
    (tmp_path / "r.csv").write_text("email\n")
    expected = tmp_path / "r.csv" if source == "file" else source
    assert loaded(tmp_path, recipients=given).recipients == RecipientsSpec(expected)


def test_recipients_have_all_their_options(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    given = {"file": "r", "format": "text", "bad_rows": "skip", "deduplicate": "exact"}
    assert loaded(tmp_path, recipients=given).recipients == RecipientsSpec(tmp_path / "r", "text", "skip", "exact", ())


@pytest.mark.parametrize(
    ("relays", "names"),
    [
        ("smtp://one.example", ["one.example"]),
        ({"url": "smtp://one.example"}, ["one.example"]),
        (["smtp://one.example", {"url": "smtp://two.example"}], ["one.example", "two.example"]),
        (["smtp://127.0.0.1:2525", "smtp://127.0.0.1:2526"], ["127.0.0.1:2525", "127.0.0.1:2526"]),
        (["smtp://one.example", "smtp://one.example"], ["one.example:587", "relay2"]),
        ([{"url": "smtp://a.example", "name": "b.example"}, "smtp://b.example"], ["b.example", "b.example:587"]),
        ("smtp://[::1]:25", ["::1"]),
    ],
)
def test_relays_have_short_forms_and_names(tmp_path: Path, relays: Any, names: list[str]) -> None:
    assert [relay.name for relay in loaded(tmp_path, relays=relays).relays] == names


def test_every_option_of_a_url_is_a_key_of_a_relay(tmp_path: Path) -> None:
    properties = manifest_schema()["$defs"]["Relay"]["properties"]
    assert OPTIONS.keys() | {"url", "egress", "domains", "weight", "backup"} == properties.keys()
    options = loaded(
        tmp_path,
        relays={
            "url": "smtp://one.example?name=me.example&tls=never",
            "tls": "require",
            "rate": "10/s",
            "proxy": "socks5h://u:p@10.0.0.1",
            "command_timeout": "90s",
            "verify": False,
            "batch": 7,
        },
    ).relays[0].endpoint.options  # fmt: skip
    assert (options.name, options.tls, options.rate) == ("me.example", "require", Rate(10.0, 1.0, "10/s"))
    assert (options.command_timeout, options.verify, options.batch) == (90.0, False, 7)
    assert options.proxy is not None and options.proxy[0].scheme == "socks5h"


@pytest.mark.parametrize("value", [["10.0.0.0/8", "*.example"], "10.0.0.0/8|*.example"])
def test_hosts_without_the_proxy_are_a_list_or_a_string(tmp_path: Path, value: Any) -> None:
    relay = {"url": "smtp://one.example", "proxy": "socks5h://10.0.0.1", "no_proxy": value}
    assert str(loaded(tmp_path, relays=relay).relays[0].endpoint.options.no_proxy) == "10.0.0.0/8, *.example"
    shape = manifest_schema()["$defs"]["Relay"]["properties"]["no_proxy"]
    assert (shape["type"], shape["items"]) == (["array", "string"], {"type": "string"})


def test_a_relay_may_have_the_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("smtp_proxy", "socks5h://ann:hidden-1@p.example")
    monkeypatch.setenv("no_proxy", "example.org")
    for relays in ("smtp://one.example?proxy=env", {"url": "smtp://one.example", "proxy": "env"}):
        options = loaded(tmp_path, relays=relays).relays[0].endpoint.options
        assert str(options.proxy) == "socks5h://ann:***@p.example:1080" and str(options.no_proxy) == ".example.org"
    monkeypatch.setenv("smtp_proxy", "gopher://ann:hidden-1@p.example")
    with pytest.raises(ManifestError, match="environment variable smtp_proxy gopher://") as caught:
        loaded(tmp_path, relays={"url": "smtp://one.example", "proxy": "env"})
    assert caught.value.path == "$.relays" and "hidden-1" not in str(caught.value)


def test_file_names_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name in ("ca.pem", "ca2.pem", "text.txt"):
        (folder / name).write_text("x")
    changes = {
        "message": {"from": "a@example.com", "text": {"file": "text.txt"}},
        "relays": [
            {"url": "smtp://one.example", "ca_file": "ca.pem", "wire_log": "one.log"},
            "smtp://two.example?ca_file=ca2.pem&wire_log=two.log",
        ],
        "journal": "../j.journal",
    }
    written(folder, SMALL | changes, "job.json")
    monkeypatch.chdir(tmp_path)
    manifest = load_manifest("jobs/job.json", environ={})
    options = [relay.endpoint.options for relay in manifest.relays]
    assert [option.ca_file for option in options] == [str(folder / "ca.pem"), str(folder / "ca2.pem")]
    assert [option.wire_log for option in options] == [str(folder / "one.log"), str(folder / "two.log")]
    assert manifest.journal == folder / "../j.journal"
    assert manifest.message.text == "x"


def test_the_command_lines_limits_win(tmp_path: Path) -> None:
    limits = {"rate": "300/s", "connections": 100}
    overrides = {"rate": "5/m", "connections": 2, "wire_log": "w.log", "variables": {"name": "x"}}
    manifest = loaded(tmp_path, limits=limits, options=overrides)
    assert manifest.limits == LimitsSpec(Rate(5.0, 60.0, "5/m"), 2)
    assert manifest.variables == {"name": "x"}
    assert manifest.relays[0].endpoint.options.wire_log == "w.log"
    assert loaded(tmp_path, limits=limits, options={"rate": "5/m"}).limits.connections == 100
    assert loaded(tmp_path, durability="power", options={"durability": "process"}).durability == "process"
    for bad in ({"rate": "fast"}, {"connections": 0}):
        with pytest.raises(ConfigError, match="--"):
            loaded(tmp_path, options=bad)


def test_times_are_text_or_seconds(tmp_path: Path) -> None:
    retry = {"delays": [1, "250ms", 1.5], "give_up_after": "1d", "patience": 0}
    assert loaded(tmp_path, retry=retry).retry == RetrySpec((1.0, 0.25, 1.5), 86400.0, 0.0)
    assert loaded(tmp_path, retry={"delays": []}).retry.delays == ()


def test_retries_by_class_and_by_relay(tmp_path: Path) -> None:
    classes = {
        "greylisted": {"delays": ["5m", "10m"]},
        "policy": "never",
        "connection": {"delays": [], "give_up_after": 9},
    }
    retry = loaded(tmp_path, retry={"jitter": 0, "classes": classes, "relay": "next"}).retry
    assert (retry.jitter, retry.relay, retry.delays_given) == (0.0, "next", False)
    assert retry.classes == {
        "greylisted": ClassRetry((300.0, 600.0)),
        "policy": ClassRetry(),
        "connection": ClassRetry((), 9.0),
    }
    assert loaded(tmp_path, retry={"delays": ["1m"]}).retry.delays_given


def test_rules_that_stop_a_job(tmp_path: Path) -> None:
    rules = [{"failed": "5%", "blocked": 50, "after": 1000}, {"in_doubt": "0.5 %"}]
    assert loaded(tmp_path, stop_if=rules).stop_if == (
        StopRule("failed", 0.05, True, 1000),
        StopRule("blocked", 50, False, 1000),
        StopRule("in_doubt", 0.005, True, 100),
    )
    assert loaded(tmp_path, stop_if={"failed": 3}).stop_if == (StopRule("failed", 3, False, 1),)


def test_weights_and_backups_of_relays(tmp_path: Path) -> None:
    relays = [{"url": "smtp://a", "weight": 3}, "smtp://b", {"url": "smtp://c", "backup": True}]
    found = loaded(tmp_path, relays=relays).relays
    assert [(one.weight, one.backup) for one in found] == [(3, False), (None, False), (None, True)]


def test_a_ready_message_is_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "news.eml").write_bytes(b"From: a@example.com\nSubject: x\n\n{{ \xe9 }}\n")
    message = loaded(tmp_path, message={"raw": "news.eml", "envelope_from": "b@example.com"}).message
    assert message.raw == b"From: a@example.com\nSubject: x\n\n{{ \xe9 }}\n"
    assert (message.from_, message.envelope_from) == (None, "b@example.com")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "t.html").write_bytes(b"\xef\xbb\xbf<p>\xc3\xa9")
    message = SMALL["message"] | {"html": {"file": "t.html"}}  # type: ignore[operator]
    path = written(tmp_path, "\ufeff" + json.dumps(SMALL | {"message": message}))
    assert load_manifest(path, environ={}).message.html == "<p>é"


# ---- the environment


def test_variables_of_the_environment_are_filled_in_everywhere(tmp_path: Path) -> None:
    environ = {"HOST": "mx.example.com", "A": "x", "_b9": "y"}
    manifest = loaded(
        tmp_path,
        relays=[{"url": "smtp://${HOST}"}],
        defaults={"deep": [{"v": "${A}${_b9}-$A-$${A}-$$${A}-$"}]},
        recipients=["${A}@example.org"],
        journal="${A}.journal",
        options={"environ": environ},
    )
    assert manifest.relays[0].endpoint.host == "mx.example.com"
    assert manifest.defaults == {"deep": [{"v": "xy-$A-${A}-$${A}-$"}]}
    assert manifest.recipients.source == ("x@example.org",)
    assert manifest.journal == tmp_path / "x.journal"


def test_what_a_variable_holds_is_not_filled_in_again(tmp_path: Path) -> None:
    environ = {"A": "${B}", "B": "secret"}
    assert loaded(tmp_path, defaults={"v": "${A}"}, options={"environ": environ}).defaults == {"v": "${B}"}


# ---- the digest


def test_the_digest_is_of_what_is_sent_to_whom(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one")
    base = SMALL | {"message": {"from": "a@example.com", "text": {"file": "t.txt"}}}

    def digest(change: dict[str, Any] | None = None, **options: Any) -> str:
        return loaded(tmp_path, base | (change or {}), options=options).digest

    first = digest()
    for same in (
        {"relays": "smtp://other.example"},
        {"limits": {"rate": "1/s"}},
        {"retry": {"delays": []}},
        {"journal": "other.journal"},
        {"durability": "power"},
        {"recipients": base["recipients"], "defaults": {}},
        {"$schema": "x", "job": "news"},
    ):
        assert digest(same) == first, same
    assert digest(rate="1/s", connections=3) == first
    for other in (
        {"job": "other"},
        {"message": {"from": "a@example.com", "text": "one"}},
        {"defaults": {"a": 1}},
        {"recipients": ["b@example.org"]},
        {"mode": "shared"},
    ):
        assert digest(other) != first, other
    assert digest(variables={"a": "1"}) != first
    (tmp_path / "t.txt").write_text("two")
    assert digest() != first


def test_a_stated_default_does_not_change_the_digest(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("")
    stated = {"file": "r.txt", "bad_rows": "stop", "deduplicate": False, "suppress": []}
    assert loaded(tmp_path, recipients="r.txt").digest == loaded(tmp_path, recipients=stated).digest


def test_the_digest_does_not_hold_the_environment(tmp_path: Path) -> None:
    digests = {
        loaded(tmp_path, defaults={"v": "${A}"}, options={"environ": {"A": value}}).digest for value in ("x", "y")
    }
    assert len(digests) == 1


# ---- the schema


def test_the_schema_is_json_and_knows_every_key() -> None:
    schema = manifest_schema()
    json.dumps(schema)
    assert schema["$schema"].startswith("https://json-schema.org/") and schema["additionalProperties"] is False
    assert {"message", "recipients", "relays"} == set(schema["required"])
    assert {"job", "defaults", "limits", "retry", "journal", "mode"} < schema["properties"].keys()
    assert {"from", "to", "subject", "html", "text", "raw"} < schema["$defs"]["Message"]["properties"].keys()
    kinds = [choice.get("type", choice.get("$ref")) for choice in schema["properties"]["recipients"]["oneOf"]]
    assert kinds == ["string", "array", "#/$defs/Recipients"]


def test_every_property_of_the_schema_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text()
    schema = manifest_schema()
    for shape in (schema, *schema["$defs"].values()):
        missing = [name for name in shape["properties"] if f"`{name}`" not in text]
        assert missing == [], shape["title"]
