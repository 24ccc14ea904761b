"""A relay's login in a manifest: mechanisms, tokens from a program or by a refresh grant, and that none is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.manifest import load_manifest, manifest_schema
from bulkmail.loginoptions import OAuth2
from bulkmail.url import Options

OAUTH2 = {"client_id": "me", "client_secret": "hidden-1", "refresh_token": "hidden-2", "token_url": "https://o.test/t"}


def load(tmp_path: Path, relay: Any, **environ: str) -> Options:
    path = tmp_path / "news.json"
    message = {"from": "news@example.com", "subject": "Hello", "text": "Hello"}
    path.write_text(json.dumps({"message": message, "recipients": ["a@example.org"], "relays": relay}))
    return load_manifest(path, environ=environ).relays[0].endpoint.options


def problems(tmp_path: Path, relay: Any, **environ: str) -> str:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, relay, **environ)
    text = "\n".join(f"{path}: {sentence}" for path, sentence in caught.value.problems)
    assert "hidden" not in text
    return text


@pytest.mark.parametrize(
    "auth", ["cram-md5", "scram-sha-256", "SCRAM-SHA-256-PLUS", "xoauth2", "oauthbearer", "external", "login"]
)
def test_every_mechanism_can_be_asked_for(tmp_path: Path, auth: str) -> None:
    login = "" if auth == "external" else "ann:pw@"
    assert load(tmp_path, {"url": f"smtp://{login}relay.test", "auth": auth}).auth == auth.lower()


def test_a_token_from_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, {"url": "smtp://ann@relay.test", "token": "${TOKEN}"}, TOKEN="ya29.x").token == "ya29.x"


def test_a_refresh_grant(tmp_path: Path) -> None:
    found = load(tmp_path, {"url": "smtp://ann@relay.test", "oauth2": OAUTH2 | {"client_secret": "${S}"}}, S="s")
    assert found.oauth2 == OAuth2(**OAUTH2 | {"client_secret": "s"})
    as_text = load(tmp_path, {"url": "smtp://ann@relay.test", "oauth2": "${ALL}"}, ALL=json.dumps(OAUTH2))
    assert as_text.oauth2 == OAuth2(**OAUTH2)


@pytest.mark.parametrize("command", [["./token.sh", "a b"], "./token.sh 'a b'"])
@pytest.mark.parametrize("in_the_url", [False, True])
def test_a_program_is_relative_to_the_manifest(tmp_path: Path, command: Any, in_the_url: bool) -> None:
    program = tmp_path / "token.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    relay: Any = {"url": "smtp://ann@relay.test", "token_command": command}
    if in_the_url:
        relay = "smtp://ann@relay.test?token_command=./token.sh%20'a%20b'"
    assert load(tmp_path, relay).token_command == (str(program), "a b")


def test_a_program_of_the_search_path_keeps_its_name(tmp_path: Path) -> None:
    assert load(tmp_path, {"url": "smtp://ann@relay.test", "token_command": "sh -c x"}).token_command[0] == "sh"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_command": ["./no-such", "hidden"]}, "'token_command': there is no program"),
        ({"token_command": ["no-such-program-anywhere"]}, "there is no program no-such-program-anywhere"),
        ({"token_command": 5}, "$.relays.token_command: 'token_command': expected a program and its arguments"),
        ({"token_command": ["x", 5]}, "expected a program and its arguments"),
        ({"token": "hidden token"}, "$.relays.token: 'token': not an access token"),
        ({"oauth2": OAUTH2 | {"token_url": "http://far.test/"}}, "$.relays.oauth2: 'oauth2': 'token_url' is http://"),
        ({"oauth2": OAUTH2 | {"refresh": "hidden"}}, "unknown key 'refresh', did you mean 'refresh_token'?"),
        ({"oauth2": OAUTH2, "token": "hidden"}, "$.relays: smtp://ann@relay.test:587: the options token and oauth2"),
        ({}, "$.relays: smtp://ann@relay.test:587: a user without a password"),
        ({"auth": "kerberos"}, "$.relays.auth: 'auth' is 'kerberos', expected auto, plain"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    assert words in problems(tmp_path, {"url": "smtp://ann@relay.test", **options})


def test_a_secret_of_the_environment_is_not_shown(tmp_path: Path) -> None:
    relay = {"url": "smtp://ann@relay.test", "token": "${TOKEN}"}
    assert "not an access token" in problems(tmp_path, relay, TOKEN="hidden token")


def test_the_schema_has_their_shapes() -> None:
    relay = manifest_schema()["$defs"]["Relay"]["properties"]
    assert relay["token_command"]["type"] == ["array", "string"] and relay["token"]["type"] == "string"
    assert set(relay["oauth2"]["properties"]) == {*OAUTH2, "scope"}
