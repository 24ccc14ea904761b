"""`check`: severities to exit statuses, findings to words and to JSON."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from bulkmail.errors import ManifestError


def finding(severity, **named):
    base = {
        "id": "list-unsubscribe",
        "path": "$.message",
        "text": "no way to unsubscribe",
        "remedy": "add list_unsubscribe",
        "source": "RFC 2369",
    }
    return SimpleNamespace(**{**base, "severity": severity, **named})


@pytest.mark.parametrize(
    ("severities", "plain", "strict"),
    [([], 0, 0), (["note"], 0, 0), (["warning", "note"], 0, 1), (["error"], 2, 2), (["warning", "error"], 2, 2)],
)
def test_the_exit_status(call, job, severities, plain, strict):
    job.findings = [finding(severity) for severity in severities]
    assert call("check", "m.json").exit_code == plain
    assert call("check", "m.json", "--strict").exit_code == strict


def test_findings_in_words(call, job):
    job.findings = [finding("error", path="$.message.html", text="unknown name 'nmae'", remedy=""), finding("warning")]
    result = call("check", "m.json")
    assert result.stderr == "error: $.message.html: unknown name 'nmae' [list-unsubscribe]\n"
    assert result.stdout.splitlines() == [
        "warning: $.message: no way to unsubscribe (add list_unsubscribe) [list-unsubscribe]",
        "m.json: 1 error, 1 warning",
    ]


def test_clean(call, job):
    assert call("check", "m.json").stdout == "m.json: clean\n"


def test_findings_as_json(call, job):
    job.findings = [finding("warning")]
    result = call("check", "m.json", "--json")
    assert json.loads(result.stdout) == {"findings": [vars(job.findings[0])]}


def test_a_manifest_that_cannot_be_loaded_is_findings_too(call, job):
    job.load_error = ManifestError(
        "2 problems", path="$.a", problems=[("$.a", "unknown key 'a'"), ("$.job", "missing")]
    )
    result = call("check", "m.json", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)["findings"]
    assert [(f["id"], f["severity"], f["path"], f["text"]) for f in found] == [
        ("manifest", "error", "$.a", "unknown key 'a'"),
        ("manifest", "error", "$.job", "missing"),
    ]
    assert call("check", "m.json").stderr.splitlines() == [
        "error: $.a: unknown key 'a' [manifest]",
        "error: $.job: missing [manifest]",
    ]
