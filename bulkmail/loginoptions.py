"""The options of a login: which mechanism, and where a token comes from. No text from here holds a secret."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final
from urllib.parse import urlsplit

from bulkmail.errors import ConfigError
from bulkmail.records import Record
from bulkmail.urlparts import as_ip, listed, nearest, quoted

TOKEN_METHODS: Final = ("xoauth2", "oauthbearer")
PASSWORD_METHODS: Final = (
    *("plain", "login", "cram-md5"),
    *("scram-sha-1", "scram-sha-1-plus", "scram-sha-256", "scram-sha-256-plus"),
)
OWN_METHODS: Final = ("auto", *PASSWORD_METHODS, *TOKEN_METHODS, "external")
registered: Final[set[str]] = set()  # what register_auth() added, in lower case

# RFC 6750 section 2.1 allows less. What counts here: no space, line break or %x01 can reach a SASL field.
token_text = re.compile(r"[\x21-\x7e]+").fullmatch

TokenFunction = Callable[..., Any]


@dataclass(frozen=True, eq=False, repr=False)
class OAuth2(Record):
    """What a refresh grant needs (RFC 6749 section 6). repr() shows the client only."""

    client_id: str
    refresh_token: str = field(repr=False)
    token_url: str = field(repr=False)
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None


def parse_auth(value: object, what: str) -> str:
    word = str(value).lower()
    if word in OWN_METHODS or word in registered:
        return word
    known = (*OWN_METHODS, *sorted(registered))
    raise ConfigError(
        f"{what} is {quoted(value)}, expected {listed(known)}{nearest(word, known)} (register_auth adds others)"
    )


def parse_token(value: object, what: str) -> str | TokenFunction:
    """An access token, or in the library a function (sync or async) that returns one."""
    if callable(value):
        return value
    if not isinstance(value, str) or not token_text(value):
        raise ConfigError(f"{what}: not an access token, which has no spaces, line breaks or characters beyond ASCII")
    return value


def parse_token_command(value: object, what: str) -> tuple[str, ...]:
    """Program and arguments, from a list, or from a string that is split as a shell would."""
    words: Sequence[object] = ()
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError:
            raise ConfigError(f"{what}: a quote or a backslash at its end leaves it unfinished") from None
    elif isinstance(value, (list, tuple)):
        words = value
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        raise ConfigError(f"{what}: expected a program and its arguments, as a list of strings or one string")
    return tuple(str(word) for word in words)


def parse_oauth2(value: object, what: str) -> OAuth2:
    """An object with the fields of OAuth2, or the same as JSON text (in a URL, or from one environment variable)."""
    if isinstance(value, OAuth2):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    names = [option.name for option in fields(OAuth2)]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what}: expected an object with {listed(names)}")
    for name, held in value.items():
        if name not in names:
            raise ConfigError(
                f"{what}: unknown key {quoted(name)}{nearest(str(name), names)}, expected {listed(names)}"
            )
        if held is not None and (not isinstance(held, str) or not held or not held.isprintable()):
            raise ConfigError(f"{what}: '{name}' is not a printable text")
    for name in ("client_id", "refresh_token", "token_url"):
        if value.get(name) is None:
            raise ConfigError(f"{what}: '{name}' is missing")
    _check_token_url(value["token_url"], what)
    return OAuth2(**value)


def _check_token_url(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError(f"{what}: 'token_url' is not a URL") from None
    if parts.scheme not in ("https", "http") or not host or not url.isascii() or " " in url:
        raise ConfigError(f"{what}: 'token_url' is not a URL such as https://oauth2.example/token")
    if parts.username is not None or parts.fragment:
        raise ConfigError(f"{what}: 'token_url' has a user or a fragment, expected https://host/path")
    if parts.scheme == "http" and not _is_here(host):
        raise ConfigError(f"{what}: 'token_url' is http://, which would show the secrets to the network; use https://")


def _is_here(host: str) -> bool:
    address = as_ip(host)
    return address.is_loopback if address is not None else host == "localhost"


def check_login(shown: str, user: str | None, password: str | None, options: Any) -> None:
    """Whether the credentials and the options of a relay fit together. shown: its URL, masked."""
    sources = token_options(options)
    if len(sources) > 1:
        raise ConfigError(f"{shown}: the options {' and '.join(sources)} are given, expected one source of tokens")
    if sources and password:
        raise ConfigError(f"{shown}: a password and {sources[0]} are given, expected one of them")
    if sources and options.auth in (*PASSWORD_METHODS, "external"):
        raise ConfigError(f"{shown}: auth={options.auth} has no use for {sources[0]}")
    if password and options.auth == "external":
        raise ConfigError(f"{shown}: auth=external has no use for a password")
    if user is None and sources and options.auth == "xoauth2":
        raise ConfigError(f"{shown}: auth=xoauth2 needs the user too; write smtp://user@host")
    if user is not None and password is None and not sources and options.auth in ("auto", *PASSWORD_METHODS):
        raise ConfigError(
            f"{shown}: a user without a password; write smtp://user:password@host, or give a token (option 'token')"
        )
    if user is not None and not password and not sources and options.auth in TOKEN_METHODS:
        raise ConfigError(f"{shown}: auth={options.auth} needs a token: option token, token_command or oauth2")


def token_options(options: Any) -> list[str]:
    """Which of the options that give tokens are set."""
    return [name for name in ("token", "token_command", "oauth2") if getattr(options, name) is not None]
