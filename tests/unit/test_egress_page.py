"""What docs/egress.md and examples/ show of egresses is accepted; what is wrong with one is named by its JSON path."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bulkmail.cli import main
from bulkmail.job.manifest import load_manifest, manifest_schema

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "egress.md").read_text()
EXAMPLE = ROOT / "examples" / "egress.json"
# The page's manifests: those of its blocks that have recipients.
SHOWN = [code for code in re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S) if '"recipients"' in code]


def check(path, *options):
    return CliRunner().invoke(main, ["check", str(path), *options])


def test_the_page_has_an_example():
    assert SHOWN and all('"egress"' in code for code in SHOWN)


@pytest.mark.parametrize("code", SHOWN)
def test_the_manifest_of_the_page_is_accepted_and_uses_each_egress(code, tmp_path):
    (tmp_path / "news.json").write_text(code)
    (tmp_path / "subscribers.csv").write_text("email\nann@example.com\n")
    manifest = load_manifest(tmp_path / "news.json", environ={"PROXY_PASSWORD": "secret"})
    (relay,) = manifest.relays
    assert [way.name for way in relay.egresses] == list(json.loads(code)["egress"]) and manifest.warnings == []
    assert relay.pins.allows("gmail.com", "b") and not relay.pins.allows("gmail.com", "a")
    assert "secret" not in repr(relay)


def test_the_example_is_clean_but_for_a_key():
    done = check(EXAMPLE, "--no-dns", "--json")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert [finding["id"] for finding in json.loads(done.stdout)["findings"]] == ["dkim-missing"]
    assert len(json.loads(EXAMPLE.read_text())["egress"]) == 3


def manifest(**changes):
    return json.loads(EXAMPLE.read_text()) | changes


def relays(**changes):
    return [manifest()["relays"][0] | changes]


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"egress": manifest()["egress"] | {"rented": {"wait": 3}}}, "$.egress.rented", "weight"),
        ({"egress": manifest()["egress"] | {"rented": "gopher://u:s3cret@x:1"}}, "$.egress.rented", "gopher"),
        ({"egress": manifest()["egress"] | {"spare": {"weight": 0}}}, "$.egress.spare", "weight"),
        ({"egress": manifest()["egress"] | {"spare": {"headers": {}}}}, "$.egress.spare", "without 'proxy'"),
        ({"egress": manifest()["egress"] | {"spare": 7}}, "$.egress.spare", "7"),
        ({"relays": relays(egress=["ofice"])}, "$.relays[0].egress", "office"),
        ({"relays": relays(domains={"gmail.com": ["rentd"]})}, "$.relays[0].domains", "rented"),
        ({"relays": relays(domains={"@": ["office"]})}, "$.relays[0].domains", "expected a domain"),
        ({"relays": relays(proxy="http://x:1")}, "$.relays[0].egress", "one of them"),
    ],
)
def test_what_is_wrong_with_an_egress_has_its_path(tmp_path, changes, path, says):
    (tmp_path / "news.json").write_text(json.dumps(manifest(**changes)))
    done = check(tmp_path / "news.json", "--json")
    assert done.exit_code == 2 and "s3cret" not in done.output and "Traceback" not in done.output
    findings = [one for one in json.loads(done.stdout)["findings"] if one["severity"] == "error"]
    assert [one["path"] for one in findings] == [path], findings
    assert says in findings[0]["text"]


def test_an_egress_that_no_relay_uses_is_a_warning(tmp_path):
    (tmp_path / "news.json").write_text(json.dumps(manifest(relays=relays(egress=["office", "rented"]))))
    done = check(tmp_path / "news.json")
    assert done.exit_code == 0 and "$.egress.spare: no relay uses this egress" in done.stdout
    assert check(tmp_path / "news.json", "--strict").exit_code == 1


def test_the_schema_has_the_keys():
    schema = manifest_schema()
    text = json.dumps(schema)
    assert "egress" in schema["properties"]
    for key in ("local_address", "weight", "max_connections", "rate", "server_name", "headers"):
        assert f'"{key}"' in text
    relay = next(one for one in schema["$defs"].values() if "messages_per_connection" in one.get("properties", {}))
    assert {"egress", "domains"} <= set(relay["properties"])
