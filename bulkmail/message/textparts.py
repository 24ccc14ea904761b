"""The forms that a message states: which there are, of which type, in which order, and how each is encoded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkmail.errors import MessageError
from bulkmail.message.encodings import choose_encoding, choose_whole
from bulkmail.message.mime import TextPart
from bulkmail.message.parameters import check_value, split_type
from bulkmail.message.spec import Encoding, MessageSpec
from bulkmail.records import Record
from bulkmail.urlparts import quoted

if TYPE_CHECKING:
    from bulkmail.message.plan import Plan  # a program's own message needs no templates

# RFC 5546 section 1.4.
METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")

_stated_method = re.compile(r"^METHOD:[ \t]*([A-Za-z-]+)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE).search


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Form(Record):
    """key: the manifest's; source: a template, read from `file`; html: its values are escaped.

    name, method   of a calendar
    """

    key: str
    type: str
    source: str
    file: str | None = None
    html: bool = False
    name: str | None = None
    method: str | None = None


def forms_of(spec: MessageSpec) -> list[Form]:
    """In the order of the message; an empty text where there is none."""
    out = [
        Form(key, kind, source, file, html)
        for key, kind, source, file, html in (
            ("text", "text/plain", spec.text, spec.text_file, False),
            ("watch", "text/watch-html", spec.watch, spec.watch_file, True),
            ("amp", "text/x-amp-html", spec.amp, spec.amp_file, True),
            ("html", "text/html", spec.html, spec.html_file, True),
        )
        if source is not None
    ]
    if spec.calendar is not None:
        event = spec.calendar
        out.append(Form("calendar", "text/calendar", event.text, event.file, name=event.name, method=event.method))
    for number, other in enumerate(spec.alternatives):
        out.append(Form(f"alternatives[{number}]", other.type, other.content, other.file, "html" in other.type.lower()))
    return out or [Form("text", "text/plain", "")]


def part_of(form: Form, constant: str, encoding: Encoding) -> TextPart:
    """constant: the text as far as it is the same for everybody.

    raises  MessageError  naming the form's key
    """
    kind, parameters = split_type(form.type, form.key)
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise MessageError(f"{form.key}: the charset {quoted(parameters['charset'])}, expected utf-8")
    if kind.startswith("text/"):
        parameters["charset"] = "utf-8"
    if form.key == "calendar":
        parameters["method"] = calendar_method(form.method, constant)
    if form.name is not None:
        check_value(form.name, f"{form.key}: the name")
    salt = constant.encode("utf-8", "surrogatepass") if encoding in ("7bit", "8bit") else b""
    return TextPart(form.key, kind, encoding, parameters, salt)


def calendar_method(given: str | None, text: str) -> str:
    """What the event is for. text: the event, in which it must be the same (RFC 6047 section 2.4).

    raises  MessageError
    """
    found = _stated_method(text)
    stated = found[1].upper() if found else None
    method = given.upper() if given is not None else stated or "PUBLISH"
    if method not in METHODS:
        raise MessageError(f"calendar: the method {quoted(given or method)}, expected one of {', '.join(METHODS)}")
    if stated is not None and stated != method:
        raise MessageError(f"calendar: the method is {method}, and the event itself says METHOD:{stated}")
    return method


def template_encoding(plan: Plan, wanted: Encoding | None) -> Encoding:
    """Of a template's part: what is wanted, else by the text as far as it is the same for everybody."""
    return wanted or (choose_whole if plan.constant else choose_encoding)(plan.text)
