"""The keys of list mail in the manifest: what they may say, and the part of a `MessageSpec` that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from bulkmail.message.listmail import LIST_FIELDS, check_key, parse_links
from bulkmail.message.spec import ListLink, ListUnsubscribe

if TYPE_CHECKING:
    from bulkmail.job import models

_URL = {"type": "string", "examples": ["https://example.com/help", "help@example.com"]}
_OBJECT = {
    "type": "object",
    "properties": {"url": _URL, "comment": {"type": "string"}},
    "required": ["url"],
    "additionalProperties": False,
}
_SCHEMA = {"anyOf": [_URL, _OBJECT, {"type": "array", "items": {"anyOf": [_URL, _OBJECT]}, "minItems": 1}]}


def _key(value: str) -> str:
    check_key(value)
    return value


ListLinks = Annotated[tuple[ListLink, ...], PlainValidator(parse_links), WithJsonSchema(_SCHEMA)]
SecretKey = Annotated[str, AfterValidator(_key)]


def list_keys(model: models.Message) -> dict[str, Any]:
    """What the model says of list mail, as arguments of MessageSpec."""
    given = model.list_unsubscribe
    unsubscribe = None if not given else ListUnsubscribe(given.url, given.mailto, given.one_click, given.key)
    return {
        "list_unsubscribe": unsubscribe,
        "list_id": model.list_id,
        "list_fields": {name: links for name in LIST_FIELDS if (links := getattr(model, f"list_{name}"))},
        "feedback_id": model.feedback_id,
        "precedence": _precedence(model),
        "auto_submitted": model.auto_submitted,
    }


def _precedence(model: models.Message) -> str | None:
    """List mail is bulk mail unless its manifest says otherwise.

    List- fields silence programs that answer mail, too (RFC 3834 section 2); but Exchange's out-of-office replies are
    reported to go by Precedence (it.cornell.edu, "Technical Details for Auto-Reply Exceptions").
    """
    if model.precedence is not None:
        return None if model.precedence == "none" else model.precedence
    custom = any(name.lower() == "precedence" for name in model.headers)
    is_list = model.list_unsubscribe is not None or model.list_id is not None
    return "bulk" if is_list and not custom else None
