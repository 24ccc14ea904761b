"""A message as the standard library's `email` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from typing import Any

from bulkmail.message.mime import TextPart, is_html
from bulkmail.message.spec import Attached


def build(texts: Sequence[tuple[TextPart, str]], attached: Sequence[Attached]) -> EmailMessage:
    """The whole message but for its own headers, by the standard library, its parts as `mime.frame` has them."""
    forms = [_text(part, text) for part, text in texts if part.file is None]
    beside = [_text(part, text) for part, text in texts if part.file is not None]
    html = next((place for place, (part, _) in enumerate(texts) if is_html(part)), None)
    related = [item for item in attached if item.cid is not None and html is not None]
    if html is not None and related:
        forms[html] = _multipart("related", [forms[html], *map(_attachment, related)])
    beside += [_attachment(item) for item in attached if item not in related]
    top = forms[0] if len(forms) == 1 else _multipart("alternative", forms)
    top = _multipart("mixed", [top, *beside]) if beside else top
    message = EmailMessage(policy=SMTP)
    message["MIME-Version"] = "1.0"
    for name, value in top.items():
        message[name] = value
    message.set_payload(top.get_payload())
    return message


def _multipart(subtype: str, parts: list[MIMEPart]) -> MIMEPart:
    whole = MIMEPart(policy=SMTP)
    whole["Content-Type"] = f"multipart/{subtype}"
    whole.set_payload(list[Any](parts))
    return whole


def _text(part: TextPart, text: str) -> MIMEPart:
    made = MIMEPart(policy=SMTP)
    maintype, _, subtype = part.type.partition("/")
    options: dict[str, Any] = {} if part.file is None else {"disposition": "attachment", "filename": part.file}
    parameters = {key: value for key, value in part.parameters.items() if key != "charset"}
    if maintype == "text":
        made.set_content(text, subtype=subtype, cte="base64", params=parameters, **options)
    else:
        made.set_content(text.replace("\n", "\r\n").encode(), maintype, subtype, params=parameters, **options)
    return made


def _attachment(item: Attached) -> MIMEPart:
    if item.ready:
        return message_from_bytes(item.body, _class=MIMEPart, policy=SMTP)
    made = MIMEPart(policy=SMTP)
    maintype, _, subtype = item.type.partition("/")
    options: dict[str, Any] = {"disposition": "inline" if item.inline else "attachment", "filename": item.name}
    if item.cid is not None:
        options["cid"] = f"<{item.cid}>"
    if item.type == "message/rfc822":
        made.set_content(message_from_bytes(item.data, policy=SMTP), **options)
    else:
        made.set_content(item.data, maintype, subtype, params=item.parameters, **options)
    return made
