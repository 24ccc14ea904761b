"""The content of a message in the manifest: texts, attachments, events, headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from bulkmail.job.loading import ExistingFile, Strict, either, is_template, loading_of, plain_text
from bulkmail.message import headers
from bulkmail.message.parameters import split_type
from bulkmail.message.spec import AlternativeSpec, Attached, AttachmentSpec, CalendarSpec, PreparedValue
from bulkmail.message.spec import HeaderValue as HeaderValueSpec
from bulkmail.records import Record

# Bytes. Nobody mails such messages; a name that leads to a device or a disk image does not fill the memory.
MAX_TEMPLATE = 1 << 24
MAX_RAW = 1 << 27


def constant(check: Callable[[str], object]) -> AfterValidator:
    """Checks a text that is the same for everyone."""

    def checked(text: str) -> str:
        if not is_template(text):
            check(text)
        return text

    return AfterValidator(checked)


OneLine = Annotated[str, constant(lambda text: headers.check_value(text, "the value"))]
HeaderName = Annotated[str, AfterValidator(lambda name: (headers.check_name(name), name)[1])]


@dataclass(frozen=True, eq=False, repr=False)
class Template(Record):
    """A template's source and the name of the file that it was read from."""

    source: str
    file: str | None = None


def _template(name: str, info: ValidationInfo) -> Template:
    data = loading_of(info).read(name, MAX_TEMPLATE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}, line {line}: not valid UTF-8 (byte 0x{data[error.start]:02x})") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{name}, line {line}: a NUL, which no mail may hold")
    return Template(text, name)


TemplateSource = Annotated[
    Template, PlainValidator(lambda value, info: _template(plain_text(value), info)), WithJsonSchema({"type": "string"})
]


class TemplateFile(Strict):
    """A template in a file, UTF-8."""

    file: TemplateSource


class TextFile(Strict):
    """The text part: a template in a file, or what html says."""

    file: TemplateSource | None = None
    from_html: bool = Field(False, description="made of html")

    @model_validator(mode="after")
    def _complete(self) -> TextFile:
        if (self.file is None) == (not self.from_html):
            raise ValueError("one of 'file' and 'from_html' is expected")
        return self


TextContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[TextFile, Tag("<object>")],
    either('a string, {"file": name} or {"from_html": true}'),
]


Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[TemplateFile, Tag("<object>")],
    either('a string or {"file": name}'),
]


def _part(content: object, info: ValidationInfo) -> bytes:
    """A ready MIME part: a string is the part itself, {"file": name} a file."""
    if isinstance(content, dict) and content.keys() == {"file"}:
        return loading_of(info).read(plain_text(content["file"]), MAX_RAW)
    if isinstance(content, dict):
        raise ValueError('expected a string or {"file": name}')
    return plain_text(content).encode()


Part = Annotated[
    bytes,
    PlainValidator(_part),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"file": {"type": "string"}},
                    "required": ["file"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Attachment(Strict):
    """A file that goes with every message. It is read once, when the manifest is."""

    file: ExistingFile | None = None
    content: str | None = Field(None, description="its text")
    base64: str | None = Field(None, description="its bytes")
    url: str | None = Field(None, description="http, https or data:, where every relay has allow_urls")
    part: Part | None = Field(None, description="a whole MIME part, with its header")
    name: str | None = Field(None, description="the file name shown")
    type: str | None = Field(None, description="such as application/pdf; found from the name if missing")
    cid: str | None = Field(None, description="content id: the HTML part refers to it as cid:…")
    inline: bool = False

    _loaded: Attached = PrivateAttr()

    @model_validator(mode="after")
    def _loads(self, info: ValidationInfo) -> Attachment:
        from bulkmail.message.attach import load_attachment

        loading = loading_of(info)
        self._loaded = attached = load_attachment(self._spec(), "the attachment", loading.access)
        loading.note(f"attachment {attached.name}", attached.digest)
        return self

    def _spec(self) -> AttachmentSpec:
        return AttachmentSpec(
            file=self.file,
            content=self.content,
            base64=self.base64,
            url=self.url,
            part=self.part,
            name=self.name,
            type=self.type,
            cid=self.cid,
            inline=self.inline,
        )

    def spec(self) -> AttachmentSpec:
        """With what was read; the forms in which it was given are no longer needed."""
        return AttachmentSpec(
            file=self.file,
            url=self.url,
            name=self.name,
            type=self.type,
            cid=self.cid,
            inline=self.inline,
            loaded=self._loaded,
        )


class Calendar(Strict):
    """An event that mail clients show as an invitation (RFC 6047)."""

    file: TemplateSource | None = None
    text: str | None = Field(None, description="the event itself")
    method: str | None = Field(None, description="REQUEST, PUBLISH, CANCEL…; what the event says if missing")
    name: str | None = Field(None, description='goes along as a file as well, such as "invite.ics"')

    @model_validator(mode="after")
    def _complete(self) -> Calendar:
        if (self.file is None) == (self.text is None):
            raise ValueError("one of 'file' and 'text' is expected")
        from bulkmail.message.textparts import calendar_method

        calendar_method(self.method, self.spec().text)
        return self

    def spec(self) -> CalendarSpec:
        found = self.file or Template(self.text or "")
        return CalendarSpec(found.source, self.method, found.file, self.name)


class Alternative(Strict):
    """One more form of the message."""

    type: str = Field(description="its content type, such as text/markdown")
    content: str | None = None
    file: TemplateSource | None = None

    @model_validator(mode="after")
    def _complete(self) -> Alternative:
        if (self.file is None) == (self.content is None):
            raise ValueError("one of 'file' and 'content' is expected")
        split_type(self.type, "the form")
        return self

    def spec(self) -> AlternativeSpec:
        found = self.file or Template(self.content or "")
        return AlternativeSpec(self.type, found.source, found.file)


class Prepared(Strict):
    """A header's value that is encoded and folded already."""

    value: str
    prepared: bool = True

    @model_validator(mode="after")
    def _legal(self) -> Prepared:
        if self.prepared and not is_template(self.value):
            headers.prepared("X", self.value, "the value")
        if not self.prepared and not is_template(self.value):
            headers.check_value(self.value, "the value")
        return self


HeaderValue = Annotated[
    Annotated[OneLine, Tag("<string>")] | Annotated[Prepared, Tag("<object>")],
    either('a string or {"prepared": true, "value": string}'),
]
HeaderValues = Annotated[
    Annotated[OneLine, Tag("<string>")]
    | Annotated[list[HeaderValue], Field(min_length=1), Tag("<list>")]
    | Annotated[Prepared, Tag("<object>")],
    either('a string, a list of strings (the header is repeated), or {"prepared": true, "value": string}'),
]


def headers_of(
    given: Mapping[str, str | Prepared | list[str | Prepared]],
) -> dict[str, HeaderValueSpec | list[HeaderValueSpec]]:
    """What `MessageSpec` has of the custom headers."""
    return {
        name: [_header_value(one) for one in value] if isinstance(value, list) else _header_value(value)
        for name, value in given.items()
    }


def _header_value(given: str | Prepared) -> HeaderValueSpec:
    if isinstance(given, str):
        return given
    return PreparedValue(given.value) if given.prepared else given.value


def texts_of(message: Any) -> dict[str, Any]:
    """What `MessageSpec` has of the texts of a message, each with the name of its file."""
    found: dict[str, Any] = {}
    for key in ("text", "html", "amp", "watch"):
        given: str | TemplateFile | TextFile | None = getattr(message, key)
        template = given.file if isinstance(given, (TemplateFile, TextFile)) else None
        found[key] = template.source if template is not None else given if isinstance(given, str) else None
        found[f"{key}_file"] = template.file if template is not None else None
    found["text_from_html"] = isinstance(message.text, TextFile) and message.text.from_html
    found["inline_css"], found["link_parameters"] = message.inline_css, dict(message.link_parameters)
    found["locale"] = message.locale
    found["calendar"] = message.calendar.spec() if message.calendar is not None else None
    found["alternatives"] = tuple(form.spec() for form in message.alternatives)
    return found
