"""The manifest's shape: pydantic models, one for each object in it. `manifest` makes the job's plain data of them.

They check every value and read what a file name stands for, and so find all that is wrong in one pass. Validators get a
`Loading` as their context. They raise ValueError (our ConfigError and MessageError are ones), whose text is a sentence
such as "what was found, expected what".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)

from bulkmail.egress import is_egress, parse_egress
from bulkmail.job.content_model import (
    MAX_RAW,
    Alternative,
    Attachment,
    Calendar,
    Content,
    HeaderName,
    HeaderValues,
    OneLine,
    TextContent,
    TextFile,
    constant,
)
from bulkmail.job.dkim_model import Signatures
from bulkmail.job.egress_model import PROXY_SCHEMA, Egresses, Names, NamesByDomain
from bulkmail.job.list_model import ListLinks, SecretKey
from bulkmail.job.loading import MARKS, ExistingFile, Strict, either, loading_of, plain_text
from bulkmail.job.specs import GIVE_UP_AFTER, PATIENCE, RETRY_DELAYS
from bulkmail.loginoptions import OAuth2
from bulkmail.message import headers
from bulkmail.message.raw import prepare
from bulkmail.url import OPTIONS, check_relay_url, parse_endpoint
from bulkmail.urlparts import quoted
from bulkmail.values import Rate, parse_rate, parse_seconds

# ---- values ----------------------------------------------------------------------------------------------------------


Seconds = Annotated[
    float,
    BeforeValidator(lambda value, info: parse_seconds(value, "the time")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["90s", "5m", "2h", "1d", 90]}),
]
RateText = Annotated[
    Rate,
    PlainValidator(lambda value: parse_rate(value, "the rate")),
    WithJsonSchema({"type": "string", "examples": ["300/s", "5000/m", "100000/h", "1000000/d"]}),
]
Count = Annotated[
    int,
    BeforeValidator(lambda value: OPTIONS["connections"].metadata["parse"](value, "the number")),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]


def _deduplicate(value: object) -> bool | Literal["exact"]:
    if isinstance(value, bool) or value == "exact":
        return value
    raise ValueError(f'{quoted(value)}, expected true, false or "exact"')


Deduplicate = Annotated[
    bool | Literal["exact"], PlainValidator(_deduplicate), WithJsonSchema({"enum": [True, False, "exact"]})
]


# ---- message ---------------------------------------------------------------------------------------------------------


def _mailbox(text: str) -> None:
    headers.checked_address(headers.parse_one(text, "the address")[1], "the address")


def _sender(text: str) -> None:
    if text not in ("", "<>"):
        _mailbox(text)


Mailbox = Annotated[str, constant(_mailbox)]
Mailboxes = Annotated[str, constant(lambda text: headers.parse_mailboxes(text, "the addresses"))]
EnvelopeSender = Annotated[str, constant(_sender)]
ListId = Annotated[str, AfterValidator(lambda text: (headers.list_id(text, "the list's id"), text)[1])]


class ListUnsubscribe(Strict):
    """How a recipient leaves the list (RFC 2369), with one click (RFC 8058)."""

    url: OneLine | None = None
    mailto: OneLine | None = None
    one_click: bool = False
    key: SecretKey | None = Field(None, description="signs the url: at least 16 bytes, such as ${UNSUBSCRIBE_KEY}")

    @model_validator(mode="after")
    def _complete(self) -> ListUnsubscribe:
        if self.url is None and self.mailto is None:
            raise ValueError("neither 'url' nor 'mailto' is given, expected at least one")
        if self.one_click and (self.url is None or not _may_be_https(self.url)):
            raise ValueError("'one_click' needs a 'url' that begins with https:// (RFC 8058)")
        return self


def _may_be_https(url: str) -> bool:
    return url.lower().startswith(("https://", *MARKS))


def _raw(name: str, info: ValidationInfo) -> bytes:
    data = loading_of(info).read(name, MAX_RAW)
    prepare(data, name)
    return data


ReadyMessage = Annotated[
    bytes, PlainValidator(lambda value, info: _raw(plain_text(value), info)), WithJsonSchema({"type": "string"})
]


# The keys of which a message has one at least.
CONTENTS = frozenset(("html", "text", "amp", "watch", "calendar", "alternatives", "attachments"))


class Message(Strict):
    """The message. Every text in it is a Jinja2 template."""

    later = frozenset(("variants",))
    refused = dict.fromkeys(("cc", "bcc"), "everyone named there would get every copy; add them as recipients")

    from_: Mailbox | None = Field(None, alias="from", description='the author, such as "News <news@example.com>"')
    to: OneLine | None = None
    sender: Mailbox | None = None
    reply_to: Mailboxes | None = None
    subject: OneLine | None = None
    html: Content | None = None
    text: TextContent | None = None
    amp: Content | None = Field(None, description="AMP for email, beside html")
    watch: Content | None = Field(None, description="html for watches")
    calendar: Calendar | None = None
    alternatives: list[Alternative] = Field(default_factory=list)
    attachments: list[Attachment] = Field(default_factory=list)
    inline_css: bool = Field(False, description="style sheets of html become style attributes")
    link_parameters: dict[str, OneLine] = Field(
        default_factory=dict, description="added to the links of html, such as utm_source"
    )
    locale: str | None = Field(None, description="of dates, numbers and amounts in templates, such as de_DE")
    embed_images: bool = Field(False, description="local images that html names go along")
    headers: dict[HeaderName, HeaderValues] = Field(default_factory=dict)
    priority: Literal["high", "normal", "low"] | None = None
    in_reply_to: OneLine | None = None
    references: OneLine | None = None
    encoding: Literal["7bit", "8bit", "quoted-printable", "base64"] | None = Field(
        None, description="of the texts; chosen by what they hold if missing"
    )
    list_unsubscribe: ListUnsubscribe | None = None
    list_id: ListId | None = None
    list_help: ListLinks | None = None
    list_subscribe: ListLinks | None = None
    list_post: ListLinks | None = None
    list_owner: ListLinks | None = None
    list_archive: ListLinks | None = None
    precedence: Literal["bulk", "list", "junk", "none"] | None = None
    auto_submitted: Literal["auto-generated", "auto-replied"] | None = None
    feedback_id: OneLine | None = None
    envelope_from: EnvelopeSender | None = Field(None, description="the sender of the envelope, where bounces go")
    raw: ReadyMessage | None = Field(None, description="file of a ready message")
    dkim: Signatures | None = Field(None, description="signatures of every message")

    @model_validator(mode="after")
    def _complete(self) -> Message:
        given = self.model_fields_set - {"raw", "envelope_from", "dkim"}
        if self.raw is not None:
            if given:
                others = ", ".join(sorted(repr(name.rstrip("_")) for name in given))
                expected = "expected nothing else but 'envelope_from' and 'dkim'"
                raise ValueError(f"'raw' is a whole message, {expected}, found {others}")
        elif self.from_ is None:
            raise ValueError("'from' is missing, expected the author, such as \"News <news@example.com>\"")
        elif isinstance(self.text, TextFile) and self.text.from_html and self.html is None:
            raise ValueError("'text' is to be made of 'html', and there is none")
        elif not given & CONTENTS:
            raise ValueError("there is nothing to send, expected 'html', 'text' or both (or 'raw')")
        return self


# ---- recipients ------------------------------------------------------------------------------------------------------


def _source(name: str, info: ValidationInfo) -> Path | Literal["-"]:
    return "-" if name == "-" else loading_of(info).file(name, plain=False)


SourceName = Annotated[
    Path | Literal["-"],
    PlainValidator(lambda value, info: _source(plain_text(value), info)),
    WithJsonSchema({"type": "string"}),
]


class Recipients(Strict):
    """Where the recipients are."""

    later = frozenset(("where", "sample"))

    file: SourceName = Field(description='a file, or "-" for standard input')
    format: Literal["jsonl", "csv", "text"] | None = Field(None, description="found from name or content if missing")
    bad_rows: Literal["stop", "skip"] = "stop"
    deduplicate: Deduplicate = False
    suppress: list[ExistingFile] = Field(default_factory=list, description="files, an address or a domain a line")


Item = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[dict[str, Any], Tag("<object>")],
    either("an address or an object with 'email'"),
]
AnyRecipients = Annotated[
    Annotated[SourceName, Tag("<string>")]
    | Annotated[list[Item], Field(min_length=1), Tag("<list>")]
    | Annotated[Recipients, Tag("<object>")],
    either("a file's name, a list of addresses or objects, or an object with 'file'"),
]


# ---- relays ----------------------------------------------------------------------------------------------------------

FILE_OPTIONS = ("ca_file", "cert_file", "key_file")  # must be there; wire_log is written
SHAPES: dict[str, dict[str, Any]] = {
    "no_proxy": {"type": ["array", "string"], "items": {"type": "string"}},
    "proxy": PROXY_SCHEMA,
    "token": {"type": "string"},
    "token_command": {"type": ["array", "string"], "items": {"type": "string"}, "minItems": 1},
    "oauth2": {
        "type": "object",
        "properties": {option.name: {"type": "string"} for option in dataclasses.fields(OAuth2)},
        "required": ["client_id", "refresh_token", "token_url"],
        "additionalProperties": False,
    },
    "proxy_protocol": {"type": "string", "enum": ["v1", "v2"]},
}


def _option(name: str) -> Any:
    """An option of a relay: checked as in a URL, file names made whole; the value stays as it was given."""
    parse = OPTIONS[name].metadata["parse"]

    def checked(value: object, info: ValidationInfo) -> object:
        if name == "proxy" and is_egress(value):
            parse_egress(value, repr(name))
        elif value is not None:
            parse(value, repr(name))
        if name in FILE_OPTIONS and isinstance(value, str):
            return str(loading_of(info).file(value))
        if name == "wire_log" and isinstance(value, str) and value.lower() not in ("true", "false"):
            return str(loading_of(info).folder / value)
        return value

    shape = {bool: "boolean", int: "integer", str: "string"}.get(type(OPTIONS[name].default))
    types = {"type": shape} if shape else {"type": ["number", "string"]} if name.endswith("_timeout") else {}
    return Annotated[Any, PlainValidator(checked), WithJsonSchema(SHAPES.get(name, types))], None


RelayUrl = Annotated[str, AfterValidator(lambda url: (parse_endpoint(url), url)[1])]
UrlWithOptions = Annotated[str, AfterValidator(lambda url: (check_relay_url(url), url)[1])]


class RelayBase(Strict):
    later = frozenset(("weight", "backup"))

    name: Annotated[str, Field(min_length=1, max_length=60)] | None = Field(None, description="how summaries call it")
    url: UrlWithOptions = Field(description="a URL such as smtp://user:password@host:587")
    egress: Names | None = Field(None, description="names of `egress` by which it is reached")
    domains: NamesByDomain | None = Field(None, description="recipients' domains that only some egresses may carry")

    def options(self) -> dict[str, Any]:
        """The options that were given as keys."""
        given = {name: getattr(self, name) for name in self.model_fields_set & OPTIONS.keys() - {"name"}}
        return {name: value for name, value in given.items() if name != "proxy" or not is_egress(value)}

    @model_validator(mode="after")
    def _fits(self) -> RelayBase:
        parse_endpoint(self.url, **self.options())
        return self


if TYPE_CHECKING:
    Relay = RelayBase
else:
    # `name` is the relay's name here; the EHLO name can be given in the URL (?name=).
    Relay = create_model(
        "Relay",
        __base__=RelayBase,
        __doc__="A server that takes mail, and how to talk to it.",
        **{name: _option(name) for name in OPTIONS if name != "name"},
    )

AnyRelay = Annotated[
    Annotated[RelayUrl, Tag("<string>")] | Annotated[Relay, Tag("<object>")], either("a URL or an object with 'url'")
]
AnyRelays = Annotated[
    Annotated[RelayUrl, Tag("<string>")]
    | Annotated[list[AnyRelay], Field(min_length=1), Tag("<list>")]
    | Annotated[Relay, Tag("<object>")],
    either("a URL, an object with 'url', or a list of them"),
]


# ---- the whole -------------------------------------------------------------------------------------------------------


class Limits(Strict):
    """Limits of the whole job, besides those of each relay."""

    later = frozenset(("domains", "window", "ramp"))

    rate: RateText | None = None
    connections: Count | None = None


class Retry(Strict):
    """What happens after a temporary refusal."""

    delays: list[Seconds] = Field(default=list(RETRY_DELAYS), description="before the second, third… attempt")
    give_up_after: Seconds = Field(default=GIVE_UP_AFTER, description="from the first attempt on")
    patience: Seconds = Field(default=PATIENCE, description="how long all relays may be unreachable")


class ManifestModel(Strict):
    """A bulkmail job."""

    later = frozenset(("variants", "sample", "stop_if"))

    schema_: str | None = Field(None, alias="$schema", description="for editors; not used")
    job: Annotated[str, AfterValidator(lambda name: _job(name))] | None = Field(None, description="the job's name")
    message: Message = Field(description="an object with what is sent")
    defaults: dict[str, Any] = Field(default_factory=dict, description="values for fields that a recipient lacks")
    recipients: AnyRecipients = Field(description="a file's name, a list, or an object with 'file'")
    relays: AnyRelays = Field(description="a URL such as smtp://user:password@host:587, or a list")
    egress: Egresses = Field(default_factory=dict, description="ways to the relays, by name")
    limits: Limits = Field(default_factory=lambda: Limits())
    retry: Retry = Field(default_factory=lambda: Retry())
    journal: Annotated[str, Field(min_length=1)] | None = Field(None, description="<job>.journal if missing")
    mode: Literal["personal", "shared"] | None = None


def _job(name: str) -> str:
    """A job's name is part of file names and events."""
    if not 1 <= len(name) <= 100 or not name.isprintable() or any(c in name for c in "/\\"):
        raise ValueError(f"{quoted(name)}, expected a name of 1 to 100 printable characters without slashes")
    return name
