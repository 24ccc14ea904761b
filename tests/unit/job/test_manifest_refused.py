"""A bad manifest is refused whole: every problem at once, each with its place, what was found and what is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.manifest import load_manifest

MESSAGE = {"from": "news@example.com", "subject": "Hello", "text": "Hello"}
SMALL: dict[str, Any] = {"message": MESSAGE, "recipients": ["a@example.org"], "relays": "smtp://127.0.0.1:2525"}


def refused(tmp_path: Path, manifest: Any, **environ: str) -> ManifestError:
    path = tmp_path / "news.json"
    if isinstance(manifest, bytes):
        path.write_bytes(manifest)
    else:
        path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ManifestError) as error:
        load_manifest(path, environ=environ)
    return error.value


def problems(tmp_path: Path, manifest: Any, **environ: str) -> dict[str, str]:
    return dict(refused(tmp_path, manifest, **environ).problems)


# ---- not a manifest at all


NOT_JSON = [
    ("", "is empty"),
    ("  \n", "is empty"),
    ('{"job": "x",\n  "relays" "smtp://h"}', "line 2, column 12: not JSON: Expecting ':' delimiter"),
    ('{"job": "x",\n}', "comma before"),
    ('{"a": [1, 2,]}', "not JSON"),
    ('{"job": "x"', "line 1, column 12: not JSON"),
    ("{'job': 'x'}", "line 1, column 2: not JSON"),
    ('{"job": "a\nb"}', "line 1, column 11: not JSON: Invalid control character"),
    ("[]", "a manifest is a JSON object, found a list"),
    ('"smtp://user:secret@h"', "a manifest is a JSON object, found a string"),
    ("5", "a manifest is a JSON object, found the number 5"),
    ("null", "a manifest is a JSON object, found null"),
    (b'{"job":\n "\xff"}', "line 2, byte 3: not valid UTF-8 (0xff)"),
    ('{"job": "x"}'.encode("utf-16"), "line 1, byte 1: not valid UTF-8 (0xff)"),
    ("[" * 100_000, "nested more than"),
    ('{"defaults": ' + '{"a":' * 200 + "1" + "}" * 200 + "}", "nested more than 100 levels"),
    ('{"a": ' + "9" * 5000 + "}", "not usable as JSON"),
]


@pytest.mark.parametrize(("text", "words"), NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_json_object_is_refused_with_line_and_column(tmp_path: Path, text: str | bytes, words: str) -> None:
    error = refused(tmp_path, text)
    assert words in str(error) and "news.json" in str(error) and "secret" not in str(error)
    assert error.path == "$" and len(error.problems) == 1 and len(str(error).splitlines()) == 1


def test_a_missing_manifest_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read the manifest .*none.json: No such file"):
        load_manifest(tmp_path / "none.json")
    with pytest.raises(ManifestError, match="is a folder"):
        load_manifest(tmp_path)
    with pytest.raises(ManifestError, match="null"):
        load_manifest("a\0b")


def test_keys_that_stand_twice_are_refused_where_they_stand(tmp_path: Path) -> None:
    text = json.dumps(SMALL)[:-1] + ', "job": "a", "job": "b", "retry": {"patience": 1, "patience": 2}}'
    found = problems(tmp_path, text)
    assert list(found) == ["$.job", "$.retry.patience"]
    assert "stands twice" in found["$.job"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused_where_it_stands(tmp_path: Path, number: str) -> None:
    text = json.dumps(SMALL)[:-1] + f', "defaults": {{"a b": [{number}]}}}}'
    assert problems(tmp_path, text) == {
        '$.defaults["a b"][0]': f'{tmp_path}/news.json, $.defaults["a b"][0]: {number} is not a JSON number'
    }


def test_characters_that_are_none_are_refused_where_they_stand(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALL | {"defaults": {"a": "x\0", "b": "\ud800", "c\0": 1}})
    assert sorted(found) == ["$.defaults.a", "$.defaults.b", '$.defaults["c\\u0000"]']


# ---- one problem, by place

BAD = [
    # unknown and later keys
    ({"mesage": {}}, "$.mesage", "unknown key 'mesage', did you mean 'message'?"),
    ({"message": MESSAGE | {"fron": "a@example.com"}}, "$.message.fron", "did you mean 'from'?"),
    ({"limits": {"speed": 1}}, "$.limits.speed", "unknown key 'speed', expected rate, burst, connections"),
    ({"recipients": {"file": "-", "dedup": True}}, "$.recipients.dedup", "did you mean 'deduplicate'?"),
    ({"relays": {"url": "smtp://h", "conections": 1}}, "$.relays.conections", "did you mean 'connections'?"),
    ({"relays": [{"url": "smtp://h", "requireTLS": True}]}, "$.relays[0].requireTLS", "tls=require"),
    ({"message": MESSAGE | {"variants": []}}, "$.message.variants", "an empty list, expected at least 2"),
    ({"egress": []}, "$.egress", "a list, expected an object"),
    ({"egress": {"a": 5}}, "$.egress.a", "5, expected a proxy's URL"),
    ({"egress": {"a": {"weight": 0}}}, "$.egress.a", "'weight' is 0, expected a whole number from 1"),
    ({"egress": {"a": {"wieght": 2}}}, "$.egress.a", "unknown key 'wieght', did you mean 'weight'"),
    ({"egress": {"a": {"timeout": 2}}}, "$.egress.a", "'timeout' is given without 'proxy'"),
    ({"relays": {"url": "smtp://h", "egress": ["a"]}}, "$.relays.egress", "there is no egress 'a' in $.egress (none)"),
    ({"relays": {"url": "smtp://h", "domains": {"x.test": "a"}}}, "$.relays.domains", "there is no egress 'a' here"),
    ({"relays": {"url": "smtp://h", "weight": 0}}, "$.relays.weight", "is 0, expected a whole number from 1"),
    ({"relays": [{"url": "smtp://h", "backup": 1}]}, "$.relays[0].backup", "1, expected true or false"),
    ({"relays": {"url": "smtp://h", "bakcup": True}}, "$.relays.bakcup", "did you mean 'backup'?"),
    (
        {"limits": {"domains": {"a.example,b.example": {"rate": "5"}}}},
        '$.limits.domains["a.example,b.example"].rate',
        "5",
    ),
    (
        {"limits": {"domains": {"a.example": {"speed": 5}}}},
        '$.limits.domains["a.example"].speed',
        "expected rate, burst",
    ),
    ({"limits": {"domains": {"a.example": {"connections": 0}}}}, '$.limits.domains["a.example"].connections', "0"),
    (
        {"limits": {"domains": {"a.example,B.example": {}, "b.example": {}}}},
        "$.limits.domains",
        "'b.example' is named twice",
    ),
    ({"limits": {"domains": {"mx:*.a.example": {}}}}, "$.limits.domains", "'mx:*.a.example', expected a mail server's"),
    ({"limits": {"domains": {"mx:a.example,MX:A.example.": {}}}}, "$.limits.domains", "'mx:a.example' is named twice"),
    ({"limits": {"dns_server": "ns.a.example"}}, "$.limits.dns_server", "expected an address such as 192.0.2.53"),
    ({"limits": {"domains": {"not a domain": {}}}}, "$.limits.domains", "'not a domain', expected a domain"),
    (
        {"limits": {"domains": {f"d{n}.example": {} for n in range(1001)}}},
        "$.limits.domains",
        "1001 domains, expected at most 1000",
    ),
    ({"recipients": {"file": "-", "where": ""}}, "$.recipients.where", "an empty string, expected an expression"),
    (
        {"message": MESSAGE | {"attachments": [{"url": "data:,"}]}},
        "$.message.attachments[0]",
        "URLs, data: included, are off",
    ),
    ({"relays": {"url": "smtp://h", "no_proxy": ["a", "b:c"]}}, "$.relays.no_proxy", "entry 2 is 'b:c', expected a"),
    ({"message": MESSAGE | {"cc": "a@x.org"}}, "$.message.cc", "would get every copy; add them as recipients"),
    ({"message": MESSAGE | {"bcc": "a@x.org"}}, "$.message.bcc", "would get every copy"),
    # missing keys
    ({"relays": ...}, "$.relays", "the key is missing, expected a URL such as smtp://"),
    ({"message": {"text": "x"}}, "$.message", "'from' is missing"),
    ({"message": {"from": "a@example.com"}}, "$.message", "nothing to send, expected 'html', 'text'"),
    ({"recipients": {"format": "csv"}}, "$.recipients", "one of 'file' and 'sql' is expected, found neither"),
    ({"relays": [{"name": "x"}]}, "$.relays[0].url", "the key is missing"),
    # wrong types
    ({"job": 5}, "$.job", "the number 5, expected a string"),
    ({"message": []}, "$.message", "a list, expected an object"),
    ({"message": MESSAGE | {"subject": ["x"]}}, "$.message.subject", "a list, expected a string"),
    ({"message": MESSAGE | {"html": 5}}, "$.message.html", 'the number 5, expected a string or {"file": name}'),
    ({"message": MESSAGE | {"html": {"file": 5}}}, "$.message.html.file", "5, expected a string"),
    ({"message": MESSAGE | {"attachments": {}}}, "$.message.attachments", "an object, expected a list"),
    ({"message": MESSAGE | {"headers": {"X-A": 1}}}, '$.message.headers["X-A"]', "the number 1, expected a string"),
    ({"relays": 5}, "$.relays", "the number 5, expected a URL, an object with 'url', or a list of them"),
    ({"relays": []}, "$.relays", "an empty list, expected at least one"),
    ({"relays": [5]}, "$.relays[0]", "the number 5, expected a URL or an object with 'url'"),
    ({"recipients": None}, "$.recipients", "null, expected a file's name, a list"),
    ({"recipients": []}, "$.recipients", "an empty list, expected at least one"),
    ({"recipients": ["a@x.org", 5]}, "$.recipients[1]", "the number 5, expected an address or an object with 'email'"),
    ({"recipients": {"file": "-", "suppress": "x"}}, "$.recipients.suppress", "a string, expected a list"),
    ({"recipients": {"file": "-", "deduplicate": 1}}, "$.recipients.deduplicate", '1, expected true, false or "exact"'),
    ({"recipients": {"file": "-", "format": "xml"}}, "$.recipients.format", "'xml', expected 'jsonl', 'csv' or 'text'"),
    ({"recipients": {"file": "-", "bad_rows": "x"}}, "$.recipients.bad_rows", "expected 'stop' or 'skip'"),
    ({"mode": "both"}, "$.mode", "'both', expected 'personal' or 'shared'"),
    ({"defaults": []}, "$.defaults", "a list, expected an object"),
    ({"limits": "300/s"}, "$.limits", "a string, expected an object"),
    # values
    ({"job": "a/b"}, "$.job", "'a/b', expected a name"),
    ({"job": ""}, "$.job", "expected a name"),
    ({"journal": ""}, "$.journal", "an empty string"),
    ({"limits": {"rate": 300}}, "$.limits.rate", "the rate is 300, expected a rate such as '300/s'"),
    ({"limits": {"rate": "fast"}}, "$.limits.rate", "the rate is 'fast', expected a rate"),
    ({"limits": {"rate": "0/s"}}, "$.limits.rate", "nothing could ever be sent"),
    ({"limits": {"connections": 0}}, "$.limits.connections", "the number is 0, expected a whole number from 1"),
    ({"limits": {"connections": 1.5}}, "$.limits.connections", "expected a whole number from 1"),
    ({"limits": {"connections": True}}, "$.limits.connections", "expected a whole number from 1"),
    ({"retry": {"delays": ["1m", "soon"]}}, "$.retry.delays[1]", "the time is 'soon', expected a time such as"),
    ({"retry": {"patience": -1}}, "$.retry.patience", "expected a time such as"),
    ({"retry": {"delays": "1m"}}, "$.retry.delays", "a string, expected a list"),
    ({"retry": {"jitter": 2}}, "$.retry.jitter", "2, expected a number from 0 to 1"),
    ({"retry": {"relay": "other"}}, "$.retry.relay", "'other', expected 'any', 'same' or 'next'"),
    ({"retry": {"classes": {"greylist": "never"}}}, "$.retry.classes.greylist", "did you mean 'greylisted'?"),
    ({"retry": {"classes": {"x": "never"}}}, "$.retry.classes.x", "no class 'x' of refusals, expected bad_recipient"),
    ({"retry": {"classes": {"policy": "once"}}}, "$.retry.classes.policy", "'once', expected 'never' or an object"),
    ({"retry": {"classes": {"policy": 5}}}, "$.retry.classes.policy", "5, expected 'never' or an object with 'delays'"),
    ({"retry": {"classes": {"policy": {}}}}, "$.retry.classes.policy.delays", "missing"),
    ({"retry": {"classes": {"policy": {"delays": ["x"]}}}}, "$.retry.classes.policy.delays[0]", "the time is 'x'"),
    ({"stop_if": "5%"}, "$.stop_if", "'5%', expected an object such as"),
    ({"stop_if": {}}, "$.stop_if", "it says nothing, expected 'failed', 'deferred', 'in_doubt' or a class"),
    ({"stop_if": {"after": 10}}, "$.stop_if", "it says nothing"),
    ({"stop_if": {"fialed": "5%"}}, "$.stop_if", "did you mean 'failed'?"),
    (
        {"stop_if": {"failed": 0.05}},
        "$.stop_if",
        "'failed' is 0.05, expected a share such as '5%' or a count such as 50",
    ),
    ({"stop_if": {"failed": "0%"}}, "$.stop_if", "'failed' is '0%'"),
    ({"stop_if": {"failed": "101%"}}, "$.stop_if", "'failed' is '101%'"),
    ({"stop_if": {"failed": True}}, "$.stop_if", "'failed' is True"),
    ({"stop_if": [{"failed": 1}, {"failed": 1, "after": 0}]}, "$.stop_if", "entry 1: 'after' is 0"),
    ({"message": MESSAGE | {"from": "nobody"}}, "$.message.from", "'nobody' is not an email address"),
    ({"message": MESSAGE | {"from": "a@x.org, b@x.org"}}, "$.message.from", "not an email address"),
    ({"message": MESSAGE | {"reply_to": "a b"}}, "$.message.reply_to", "not an email address"),
    ({"message": MESSAGE | {"envelope_from": "a b"}}, "$.message.envelope_from", "not an email address"),
    ({"message": MESSAGE | {"subject": "a\nBcc: b@x.org"}}, "$.message.subject", "line break"),
    ({"message": MESSAGE | {"headers": {"Sub ject": "x"}}}, '$.message.headers["Sub ject"]', "not a header name"),
    ({"message": MESSAGE | {"headers": {"Subject": "x"}}}, "$.message.headers.Subject", "use 'subject'"),
    ({"message": MESSAGE | {"headers": {"Bcc": "x"}}}, "$.message.headers.Bcc", "add recipients"),
    ({"message": MESSAGE | {"headers": {"X-A": "a\r\nb"}}}, '$.message.headers["X-A"]', "line break"),
    ({"message": MESSAGE | {"list_id": "two words"}}, "$.message.list_id", "expected news.example.com or"),
    ({"message": MESSAGE | {"list_unsubscribe": {}}}, "$.message.list_unsubscribe", "neither 'url' nor 'mailto'"),
    (
        {"message": MESSAGE | {"list_unsubscribe": {"mailto": "u@x.org", "one_click": True}}},
        "$.message.list_unsubscribe",
        "'one_click' needs a 'url' that begins with https://",
    ),
    ({"message": MESSAGE | {"attachments": [{"name": "x"}]}}, "$.message.attachments[0]", "one of 'file', 'content'"),
    ({"message": MESSAGE | {"attachments": [{"base64": "%"}]}}, "$.message.attachments[0]", "not base64"),
    ({"message": MESSAGE | {"attachments": [{"content": "", "type": "x"}]}}, "$.message.attachments[0]", "a content"),
    # files
    ({"message": MESSAGE | {"html": {"file": "no.html"}}}, "$.message.html.file", "no.html: No such file"),
    ({"message": MESSAGE | {"html": {"file": "."}}}, "$.message.html.file", "is a folder"),
    ({"message": MESSAGE | {"html": {"file": "latin1"}}}, "$.message.html.file", "latin1, line 2: not valid UTF-8"),
    ({"message": MESSAGE | {"html": {"file": "nul"}}}, "$.message.html.file", "nul, line 1: a NUL"),
    ({"message": MESSAGE | {"html": {"file": ""}}}, "$.message.html.file", "an empty string"),
    ({"message": MESSAGE | {"attachments": [{"file": "no"}]}}, "$.message.attachments[0].file", "No such file"),
    ({"message": {"raw": "no.eml"}}, "$.message.raw", "No such file"),
    ({"message": {"raw": "nul"}}, "$.message.raw", "nul: "),
    ({"message": MESSAGE | {"raw": "good.eml"}}, "$.message", "expected nothing else but 'envelope_from' and 'dkim'"),
    ({"recipients": "no.csv"}, "$.recipients", "no.csv: No such file"),
    ({"recipients": {"file": "no.csv"}}, "$.recipients.file", "no.csv: No such file"),
    ({"recipients": {"file": "-", "suppress": ["no.txt"]}}, "$.recipients.suppress[0]", "no.txt: No such file"),
    ({"relays": {"url": "smtp://h", "ca_file": "no.pem"}}, "$.relays.ca_file", "no.pem: No such file"),
    ({"relays": "smtp://h?ca_file=no.pem"}, "$.relays", "no.pem"),
    # relays
    ({"relays": "mx.example.com"}, "$.relays", "expected a URL such as smtp://"),
    ({"relays": ["smtp://h:x"]}, "$.relays[0]", "port is not a number"),
    ({"relays": [{"url": "http://h"}]}, "$.relays[0].url", "unknown scheme"),
    ({"relays": {"url": "smtp://h?tsl=auto"}}, "$.relays.url", "did you mean 'tls'?"),
    ({"relays": {"url": "smtp://h", "tls": "yes"}}, "$.relays.tls", "'yes', expected auto, require"),
    ({"relays": {"url": "smtp://h", "connections": "many"}}, "$.relays.connections", "expected a whole number"),
    ({"relays": {"url": "smtp://h", "proxy_protocol": "v3"}}, "$.relays.proxy_protocol", "'v3', expected v1 or v2"),
    ({"relays": {"url": "smtps://h", "tls": "never"}}, "$.relays", "TLS from the start"),
    ({"relays": [{"url": "smtp://a", "name": "x"}, {"url": "smtp://b", "name": "x"}]}, "$.relays[1].name", "two"),
]


@pytest.mark.parametrize(("change", "path", "words"), BAD, ids=range(len(BAD)))
def test_each_problem_names_its_place_and_what_is_expected(
    tmp_path: Path, change: dict[str, Any], path: str, words: str
) -> None:
    (tmp_path / "latin1").write_bytes(b"a\n\xe9")
    (tmp_path / "nul").write_bytes(b"a\0")
    (tmp_path / "good.eml").write_bytes(b"From: a@example.com\n\nx")
    manifest = {key: value for key, value in (SMALL | change).items() if value is not ...}
    error = refused(tmp_path, manifest)
    assert [place for place, _ in error.problems] == [path]
    assert words in str(error)
    assert str(error) == error.problems[0][1] and str(error).startswith(f"{tmp_path}/news.json, {path}: ")
    assert error.path == path


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        {
            "jop": "x",
            "message": {"from": "nobody", "html": {"file": "no.html"}, "attachments": [{"file": "no.pdf"}], "cc": "x"},
            "recipients": {"file": "no.csv", "deduplicate": "yes"},
            "relays": [{"url": "smtp://h:x", "tls": "maybe", "connections": 0}, "nothing"],
            "limits": {"rate": "quick"},
            "retry": {"delays": ["never"]},
            "journal": "${UNSET}.journal",
        },
    )
    expected = [
        "$.jop", "$.message.from", "$.message.html.file", "$.message.attachments[0].file", "$.message.cc",
        "$.recipients.file", "$.recipients.deduplicate", "$.relays[0].url", "$.relays[0].tls",
        "$.relays[0].connections", "$.relays[1]", "$.limits.rate", "$.retry.delays[0]", "$.journal",
    ]  # fmt: skip
    assert sorted(path for path, _ in error.problems) == sorted(expected)
    lines = str(error).splitlines()
    assert lines[0] == f"{tmp_path}/news.json has 14 problems:"
    assert [line.strip() for line in lines[1:]] == [sentence for _, sentence in error.problems]
    assert error.path == error.problems[0][0]


# ---- the environment


def test_a_missing_variable_is_named_and_nothing_else_is_said_of_its_place(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALL | {"relays": [{"url": "smtp://h:${PORT}"}], "limits": {"rate": "${RATE}"}})
    assert found == {
        "$.relays[0].url": f"{tmp_path}/news.json, $.relays[0].url: the environment variable PORT is not set",
        "$.limits.rate": f"{tmp_path}/news.json, $.limits.rate: the environment variable RATE is not set",
    }


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${A-B}", "${9}", "${A B}"])
def test_what_names_no_variable_is_refused_with_the_way_to_write_it(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, SMALL | {"defaults": {"v": text}}, A="x")
    assert list(found) == ["$.defaults.v"] and "a literal ${ is written $${" in found["$.defaults.v"]


SECRET = "correct-horse-battery-staple-correct-horse-battery-staple-correct-horse-é"
LEAKS: list[dict[str, Any]] = [
    {"relays": "${S}"},
    {"relays": "smtp://user:${S}@h:x"},
    {"relays": "smtp://user:${S}"},
    {"relays": {"url": "smtp://h", "tls": "${S}"}},
    {"relays": {"url": "smtp://h", "proxy": "socks5://u:${S}@"}},
    {"limits": {"rate": "${S}"}},
    {"limits": "${S}"},
    {"mode": "${S}"},
    {"message": MESSAGE | {"from": "${S}"}},
    {"message": MESSAGE | {"html": {"file": "${S}"}}},
    {"message": MESSAGE | {"list_id": "${S} x"}},
    {"recipients": "${S}"},
    {"job": "${S}/x"},
    {"retry": {"delays": ["${S}"]}},
]


@pytest.mark.parametrize("change", LEAKS, ids=range(len(LEAKS)))
def test_no_error_shows_what_a_variable_holds(tmp_path: Path, change: dict[str, Any]) -> None:
    text = str(refused(tmp_path, SMALL | change, S=SECRET))
    assert "horse" not in text and "correct" not in text


def test_no_error_shows_a_password_of_the_manifest(tmp_path: Path) -> None:
    for relays in (
        "smtp://user:hunter2@h:port",
        ["smtp://user:hunter2@h?x=1"],
        {"url": "smtp://user:hunter2@h", "tls": "x"},
        [{"uri": "smtp://user:hunter2@h"}],
        {"url": "smtp://h", "smtp://user:hunter2@h": {}},
        {"url": "smtp://h", "smtp://user:hunter2": {}},
        [["smtp://user:hunter2@h"]],
    ):
        assert "hunter2" not in str(refused(tmp_path, SMALL | {"relays": relays}))
    assert "hunter2" not in str(refused(tmp_path, SMALL | {"smtp://user:hunter2@h": {}, "relais": 1}))


@pytest.mark.parametrize("text", ["{{ country == 'DE' }}", "{% if x %}"])
def test_a_condition_with_template_marks_is_told_to_go_without(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text("email\n")
    found = problems(tmp_path, SMALL | {"recipients": {"file": "list.csv", "where": text}})
    assert "expected an expression alone, without {{ }} or {% %}" in found["$.recipients.where"]


def test_retries_of_a_class_are_asked_for_by_example(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALL | {"retry": {"classes": {"policy": {}}}})
    assert 'such as ["5m", "1h"]' in found["$.retry.classes.policy.delays"]
