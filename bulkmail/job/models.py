"""The manifest's shape: pydantic models, one for each object in it. `manifest` makes the job's plain data of them.

They check every value and read what a file name stands for, and so find all that is wrong in one pass. Validators get a
`Loading` as their context. They raise ValueError (our ConfigError and MessageError are ones), whose text is a sentence
such as "what was found, expected what".
"""

from __future__ import annotations

import dataclasses
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)

from bulkmail.egress import is_egress, parse_egress
from bulkmail.job.calendar_model import StartAt
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
from bulkmail.job.dsn_model import Dsn
from bulkmail.job.egress_model import PROXY_SCHEMA, Egresses, Names, NamesByDomain
from bulkmail.job.events_model import AnyEvents
from bulkmail.job.limits_model import Limits
from bulkmail.job.list_model import ListLinks, SecretKey
from bulkmail.job.loading import MARKS, Strict, either, loading_of, plain_text
from bulkmail.job.recipients_model import AnyRecipients
from bulkmail.job.retry_model import Retry
from bulkmail.job.stop_model import StopIf
from bulkmail.job.value_models import Count, Workers
from bulkmail.loginoptions import OAuth2
from bulkmail.message import headers
from bulkmail.url import OPTIONS, check_relay_url, parse_endpoint
from bulkmail.urlparts import quoted

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
    from bulkmail.message.raw import prepare

    data = loading_of(info).read(name, MAX_RAW)
    prepare(data, name)
    return data


ReadyMessage = Annotated[
    bytes, PlainValidator(lambda value, info: _raw(plain_text(value), info)), WithJsonSchema({"type": "string"})
]


MAX_WEIGHT = 1_000_000  # more is a slip, and the smallest share would be nobody

# The keys of which a message has one at least.
CONTENTS = frozenset(("html", "text", "amp", "watch", "calendar", "alternatives", "attachments"))


class MessageKeys(Strict):
    """What a message is made of. Every text in it is a Jinja2 template."""

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


class Variant(MessageKeys):
    """Keys in place of the message's own; null takes one away."""

    refused = MessageKeys.refused | {"dkim": "all variants have the signatures of the message", "variants": "it is one"}

    name: Annotated[str, AfterValidator(lambda name: _variant_name(name))] | None = Field(
        None, description="how reports call it: A, B, C… if missing"
    )
    weight: Annotated[float, PlainValidator(lambda value: _weight(value))] = Field(
        1, json_schema_extra={"type": "number", "exclusiveMinimum": 0}, description="its share among the weights of all"
    )


class Message(MessageKeys):
    """The message. Every text in it is a Jinja2 template."""

    dkim: Signatures | None = Field(None, description="signatures of every message")
    variants: Annotated[list[Variant], Field(min_length=2, max_length=len(ascii_uppercase))] | None = Field(
        None, description="two or more of which each recipient gets one"
    )

    @model_validator(mode="after")
    def _complete(self) -> Message:
        if self.variants is None:
            _check_complete(self)
            return self
        names = self.variant_names()
        for name, variant in zip(names, self.variants, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"two variants are called {name!r}, expected a name of its own for each")
            try:
                _check_complete(self.as_variant(variant))
            except ValueError as error:
                raise ValueError(f"variant {name!r}: {error}") from None
        return self

    def variant_names(self) -> list[str]:
        return [one.name or letter for one, letter in zip(self.variants or (), ascii_uppercase, strict=False)]

    def as_variant(self, variant: Variant) -> Message:
        """The whole message of a variant."""
        own = variant.model_fields_set - {"name", "weight"}
        gone = {name for name in own if getattr(variant, name) is None} | {"variants"}
        fields = type(self).model_fields
        update = {name: getattr(variant, name) for name in own - gone}
        update |= {name: fields[name].get_default(call_default_factory=True) for name in gone}
        whole = self.model_copy(update=update)
        whole.model_fields_set.difference_update(gone)
        return whole


def _check_complete(message: Message) -> None:
    given = message.model_fields_set - {"raw", "envelope_from", "dkim"}
    if message.raw is not None:
        if given:
            others = ", ".join(sorted(repr(name.rstrip("_")) for name in given))
            expected = "expected nothing else but 'envelope_from' and 'dkim'"
            raise ValueError(f"'raw' is a whole message, {expected}, found {others}")
    elif message.from_ is None:
        raise ValueError("'from' is missing, expected the author, such as \"News <news@example.com>\"")
    elif isinstance(message.text, TextFile) and message.text.from_html and message.html is None:
        raise ValueError("'text' is to be made of 'html', and there is none")
    elif not given & CONTENTS:
        raise ValueError("there is nothing to send, expected 'html', 'text' or both (or 'raw')")


def _variant_name(name: str) -> str:
    """It is a column of reports, and may stand in links."""
    if not 1 <= len(name) <= 40 or not name.isprintable() or name != name.strip():
        raise ValueError(f"{quoted(name)}, expected a name of 1 to 40 printable characters")
    return name


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_WEIGHT:
        raise ValueError(f"{quoted(value)}, expected a number above 0, at most {MAX_WEIGHT:,}")
    return value


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
    name: Annotated[str, Field(min_length=1, max_length=60)] | None = Field(None, description="how summaries call it")
    url: UrlWithOptions = Field(description="a URL such as smtp://user:password@host:587")
    egress: Names | None = Field(None, description="names of `egress` by which it is reached")
    domains: NamesByDomain | None = Field(None, description="recipients' domains that only some egresses may carry")
    weight: Count | None = Field(None, description="its share of the messages beside the other relays'")
    backup: bool = Field(False, description="used only while no other relay can carry the work")

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


class ManifestModel(Strict):
    """A bulkmail job."""

    refused: ClassVar[dict[str, str]] = {
        "variants": "it is a key of 'message'",
        "sample": "it is a key of 'recipients'",
    }

    schema_: str | None = Field(None, alias="$schema", description="for editors; not used")
    job: Annotated[str, AfterValidator(lambda name: _job(name))] | None = Field(None, description="the job's name")
    message: Message = Field(description="an object with what is sent")
    defaults: dict[str, Any] = Field(default_factory=dict, description="values for fields that a recipient lacks")
    recipients: AnyRecipients = Field(description="a file's name, a list, or an object with 'file'")
    relays: AnyRelays = Field(description="a URL such as smtp://user:password@host:587, or a list")
    egress: Egresses = Field(default_factory=dict, description="ways to the relays, by name")
    start_at: StartAt | None = Field(None, description="a time such as '2026-11-27T08:00:00+01:00'")
    limits: Limits = Field(default_factory=lambda: Limits())
    retry: Retry = Field(default_factory=lambda: Retry())
    stop_if: StopIf = Field((), description='when the job stops, such as {"failed": "5%", "after": 1000}')
    dsn: Dsn | None = Field(None, description="delivery notifications to ask for")
    journal: Annotated[str, Field(min_length=1)] | None = Field(None, description="<job>.journal if missing")
    durability: Literal["process", "power"] = Field(
        "process", description="what the journal survives: a crash of the program, or a loss of power too"
    )
    workers: Workers = Field(1, description="processes that send; 'auto': as many as there is use for")
    mode: Literal["personal", "shared"] | None = None
    events: AnyEvents | None = Field(None, description="a file's name, or an object with 'file' and 'webhook'")


def _job(name: str) -> str:
    """A job's name is part of file names and events."""
    if not 1 <= len(name) <= 100 or not name.isprintable() or any(c in name for c in "/\\"):
        raise ValueError(f"{quoted(name)}, expected a name of 1 to 100 printable characters without slashes")
    return name
