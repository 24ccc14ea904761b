"""The manifest's `events`: where what happens is told, besides the journal."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, Tag, ValidationInfo, WithJsonSchema

from bulkmail.job.loading import ExistingFile, Strict, either, loading_of, plain_text
from bulkmail.job.specs import EVENT_NAMES, EventsSpec, WebhookSpec
from bulkmail.job.value_models import Seconds
from bulkmail.urlparts import as_ip, listed, nearest, quoted

SECRET_PREFIX = "whsec_"  # of Standard Webhooks: what follows is the key in base64
LEAST_KEY = 16  # bytes; Standard Webhooks asks for 24 to 64
MAX_BATCH = 5000  # events of one request: some 2 MB
LEAST_EVERY = 0.05  # seconds: below, each event is a request of its own
MAX_TIMEOUT = 120.0

_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}").fullmatch  # token, RFC 9110 section 5.6.2
_header_value = re.compile(r"[\x20-\x7e]*").fullmatch
OURS = frozenset(("host", "content-type", "content-length", "content-encoding", "transfer-encoding", "connection"))


def _url(url: str) -> str:
    parts = urlsplit(url)
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError("its port is no number from 1 to 65535") from None
    if parts.scheme not in ("https", "http") or not host or port == 0 or not url.isascii() or not url.isprintable():
        raise ValueError("expected a URL such as https://example.com/hooks/mail, in ASCII")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or password stands in it, expected those as 'headers': {\"Authorization\": …}")
    if " " in url or parts.fragment:
        raise ValueError("a blank or a fragment stands in it, expected a URL such as https://example.com/hooks/mail")
    return url


def _secret(text: str) -> bytes:
    """The key of a secret: of `whsec_…` what its base64 stands for, else the text itself. No error shows it."""
    key = text.encode()
    if text.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                f"what follows {SECRET_PREFIX} is no base64, expected a secret of Standard Webhooks"
            ) from None
    if len(key) < LEAST_KEY:
        raise ValueError(f"the secret has {len(key)} bytes, expected at least {LEAST_KEY}")
    return key


def _event_name(name: str) -> str:
    if name not in EVENT_NAMES:
        raise ValueError(f"{quoted(name)}, expected {listed(EVENT_NAMES)}{nearest(name, EVENT_NAMES)}")
    return name


def _header(name: str) -> str:
    if not _header_name(name):
        raise ValueError(f"{quoted(name)}, expected the name of a header")
    if name.lower() in OURS or name.lower().startswith("webhook-"):
        raise ValueError(f"{quoted(name)} is set by bulkmail")
    return name


def _value(text: str) -> str:
    if not _header_value(text):
        raise ValueError("expected a header's value in printable ASCII")
    return text


def _within(least: float, most: float, value: float) -> float:
    if not least <= value <= most:
        raise ValueError(f"{value:g} seconds, expected {least:g} to {most:g}")
    return value


def _events(count: int) -> int:
    if not 1 <= count <= MAX_BATCH:
        raise ValueError(f"{count}, expected a whole number from 1 to {MAX_BATCH}")
    return count


def _new_file(value: object, info: ValidationInfo) -> Path:
    name = plain_text(value)
    if name in ("", "-"):
        raise ValueError(f"{quoted(name)}, expected the name of a file (standard output is for send --events -)")
    path = loading_of(info).folder / name
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file in a folder that is there")
    return path


Url = Annotated[str, AfterValidator(_url)]
Secret = Annotated[bytes, PlainValidator(lambda value: _secret(plain_text(value))), WithJsonSchema({"type": "string"})]
EventName = Annotated[str, AfterValidator(_event_name), WithJsonSchema({"enum": list(EVENT_NAMES)})]
HeaderName = Annotated[str, AfterValidator(_header)]
HeaderValue = Annotated[str, AfterValidator(_value)]
NewFile = Annotated[Path, PlainValidator(_new_file), WithJsonSchema({"type": "string"})]
Batch = Annotated[int, AfterValidator(_events), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_BATCH})]
Every = Annotated[Seconds, AfterValidator(lambda value: _within(LEAST_EVERY, 3600, value))]
Timeout = Annotated[Seconds, AfterValidator(lambda value: _within(0.1, MAX_TIMEOUT, value))]


class Webhook(Strict):
    """Where events are posted, as Standard Webhooks has it (docs/events.md)."""

    url: Url = Field(description="https://example.com/hooks/mail")
    secret: Secret | None = Field(None, description="signs each request: whsec_ and base64, such as ${HOOK_SECRET}")
    events: list[EventName] | None = Field(None, min_length=1, description="those that are told; all if missing")
    batch: Batch = Field(500, description="the most events of one request")
    every: Every = Field(default=1.0, description="the longest that an event waits for others")
    timeout: Timeout = Field(default=10.0, description="for the whole of one request")
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="further headers of each request")
    ca_file: ExistingFile | None = Field(None, description="certificates to verify the receiver's by")
    allow_http: bool = Field(False, description="http:// to another machine than this")

    def spec(self) -> WebhookSpec:
        return WebhookSpec(
            self.url,
            key=self.secret,
            events=frozenset(self.events) if self.events is not None else None,
            batch=self.batch,
            every=self.every,
            timeout=self.timeout,
            headers=tuple(self.headers.items()),
            ca_file=self.ca_file,
        )

    def in_clear(self) -> bool:
        """Whether others could read it on its way."""
        parts = urlsplit(self.url)
        address = as_ip(parts.hostname or "")
        here = address.is_loopback if address is not None else parts.hostname == "localhost"
        return parts.scheme == "http" and not here


def _checked(hook: Webhook) -> Webhook:
    if hook.in_clear() and not hook.allow_http:
        raise ValueError("'url' is http:// to another machine, expected https:// (or 'allow_http': true)")
    return hook


class Events(Strict):
    """Where events are told."""

    file: NewFile | None = Field(None, description="an event a line is appended to it")
    webhook: Annotated[Webhook, AfterValidator(_checked)] | None = None


AnyEvents = Annotated[
    Annotated[NewFile, Tag("<string>")] | Annotated[Events, Tag("<object>")],
    either("a file's name, or an object with 'file' and 'webhook'"),
]


def spec_of(model: Any) -> EventsSpec | None:
    if model is None:
        return None
    if isinstance(model, Path):
        return EventsSpec(model)
    return EventsSpec(model.file, model.webhook.spec() if model.webhook is not None else None)


def warnings_of(model: Any) -> list[tuple[str, str]]:
    if isinstance(model, Events) and model.webhook is not None and model.webhook.secret is None:
        said = "requests are not signed, so that their receiver cannot know whose they are; give it a 'secret'"
        return [("$.events.webhook", said)]
    return []
