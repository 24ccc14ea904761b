"""`dkim` of a manifest: every problem has its path, no text holds a key, and the job goes on with another key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.manifest import Manifest, load_manifest, manifest_schema
from bulkmail.message.compile import compile_message
from bulkmail.message.dkim import Dkim
from unit.message.dkim_corpus import ed25519_key, rsa_key, verdicts

MESSAGE = {"from": "news@example.com", "subject": "Hello", "text": "Hello"}
SIGNATURE = {"domain": "example.com", "selector": "s1", "key_file": "dkim.pem"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dkim.pem").write_text(rsa_key())
    (tmp_path / "dkim.pem").chmod(0o600)
    (tmp_path / "bad.pem").write_text("not a key")
    return tmp_path


def loaded(folder: Path, dkim: Any, environ: dict[str, str] | None = None, **message: Any) -> Manifest:
    path = folder / "news.json"
    what = message or MESSAGE
    path.write_text(
        json.dumps(
            {"message": {**what, "dkim": dkim}, "recipients": ["a@example.org"], "relays": "smtp://127.0.0.1:25"}
        )
    )
    return load_manifest(path, environ=environ or {})


def test_signatures_become_specs(folder):
    given = [
        SIGNATURE,
        {
            "domain": "Bücher.example", "selector": "s2", "key": "${DKIM_KEY}", "canonicalization": "simple/relaxed",
            "headers": ["From", "X-Campaign"], "oversign": [], "identity": "@news.bücher.example", "expires": "14d",
        },
    ]  # fmt: skip
    assert loaded(folder, given, {"DKIM_KEY": ed25519_key()}).message.dkim == (
        Dkim("example.com", "s1", key_file=folder / "dkim.pem"),
        Dkim(
            "xn--bcher-kva.example", "s2", key=ed25519_key(), canonicalization="simple/relaxed",
            headers=("From", "X-Campaign"), oversign=(), identity="@news.xn--bcher-kva.example", expires=14 * 86400.0,
        ),
    )  # fmt: skip


def test_one_signature_needs_no_list_and_none_is_none(folder):
    assert loaded(folder, SIGNATURE).message.dkim == (Dkim("example.com", "s1", key_file=folder / "dkim.pem"),)
    assert loaded(folder, []).message.dkim == loaded(folder, None).message.dkim == ()


def test_messages_are_signed_by_what_the_manifest_says(folder):
    manifest = loaded(folder, [SIGNATURE])
    compiled = compile_message(manifest.message, job="news")
    _, body = compiled.compose_shared(b"Sun, 01 Nov 2026 08:00:00 +0000")
    body = b"".join(body) if isinstance(body, tuple) else body
    assert verdicts(body.removesuffix(b".\r\n"), manifest.message.dkim) == [True]


def test_a_ready_message_may_be_signed(folder):
    (folder / "ready.eml").write_text("From: a@example.com\n\nHello\n")
    assert len(loaded(folder, [SIGNATURE], raw="ready.eml").message.dkim) == 1


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"key_file": "none.pem"}, ".key_file", "cannot read the file"),
        ({"key_file": "."}, ".key_file", "is a folder"),
        ({"key_file": "bad.pem"}, ".key_file", "bad.pem: it is neither PEM nor base64"),
        ({"key_file": 5}, ".key_file", "expected a string"),
        ({"key_file": None}, "", "one of 'key_file' and 'key' is expected, found neither"),
        ({"key": "${DKIM_KEY}"}, "", "found both"),
        ({"key_file": None, "key": "no key at all"}, ".key", "neither PEM nor base64"),
        ({"key_file": None, "key": "${UNSET}"}, ".key", "UNSET is not set"),
        ({"key_file": None, "key": 5}, ".key", "the number 5"),
        ({"domain": "localhost"}, ".domain", "'localhost' is not a domain name"),
        ({"domain": None}, ".domain", "null"),
        ({"selector": "a b"}, ".selector", "is not a selector"),
        ({"canonicalization": "relaxed"}, ".canonicalization", "expected one of relaxed/relaxed"),
        ({"headers": ["Received"]}, ".headers", "cannot be signed"),
        ({"headers": "From"}, ".headers", "expected a list"),
        ({"oversign": [5]}, ".oversign[0]", "expected a string"),
        ({"identity": "@example.net"}, ".identity", "not of example.com"),
        ({"expires": "soon"}, ".expires", "soon"),
        ({"expires": 0}, ".expires", "at least 1"),
        ({"key_fil": "x"}, ".key_fil", "key_file"),
    ],
)
@pytest.mark.parametrize("listed", [True, False], ids=["in a list", "alone"])
def test_a_problem_has_its_path(change, path, text, listed, folder):
    given = {**SIGNATURE, **change}
    given = {key: value for key, value in given.items() if value is not None or key == "domain"}
    with pytest.raises(ManifestError) as caught:
        loaded(folder, [SIGNATURE, given] if listed else given, {"DKIM_KEY": rsa_key()})
    whole = "$.message.dkim[1]" if listed else "$.message.dkim"
    found = dict(caught.value.problems)
    assert list(found) == [whole + path]
    assert text in found[whole + path]


def test_a_missing_key_is_named(folder):
    with pytest.raises(ManifestError) as caught:
        loaded(folder, [{"key_file": "dkim.pem"}])
    assert {path for path, _ in caught.value.problems} == {"$.message.dkim[0].domain", "$.message.dkim[0].selector"}


@pytest.mark.parametrize(
    "damage", [lambda text: text[:300], lambda text: text.replace("M", "N"), lambda text: text[30:]]
)
def test_no_text_of_a_problem_holds_a_key(damage, folder):
    text = damage(rsa_key())
    for given, environ in (({"key": text}, {}), ({"key": "${DKIM_KEY}"}, {"DKIM_KEY": text})):
        with pytest.raises(ManifestError) as caught:
            loaded(folder, {"domain": "example.com", "selector": "s", **given}, environ)
        shown = f"{caught.value} {caught.value!r} {caught.value.problems}"
        assert not any(line in shown for line in text.splitlines() if len(line) > 20 and "-----" not in line)


def test_keys_that_should_not_be_used_are_warned_of(folder):
    (folder / "weak.pem").write_text(rsa_key(1024))
    (folder / "weak.pem").chmod(0o644)
    found = loaded(folder, [SIGNATURE, {**SIGNATURE, "key_file": "weak.pem"}]).warnings
    assert [(path, text.partition(" ")[0]) for path, text in found] == [
        ("$.message.dkim[1].key_file", str(folder / "weak.pem")), ("$.message.dkim[1].key_file", "an")
    ]  # fmt: skip
    alone = {"domain": "example.com", "selector": "s", "key": "${DKIM_KEY}"}
    assert [path for path, _ in loaded(folder, alone, {"DKIM_KEY": rsa_key(1024)}).warnings] == ["$.message.dkim.key"]


def test_the_digest_depends_on_no_key(folder):
    (folder / "other.pem").write_text(ed25519_key())
    given: list[Any] = [None, [], SIGNATURE, [SIGNATURE], {**SIGNATURE, "key_file": "other.pem", "selector": "s2"}]
    assert len({loaded(folder, one).digest for one in given}) == 1


def test_the_schema_knows_signatures():
    schema = json.dumps(manifest_schema())
    for key in ("selector", "key_file", "canonicalization", "oversign", "identity", "expires"):
        assert f'"{key}"' in schema
