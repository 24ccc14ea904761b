"""Egresses in the manifest: `egress` of the job, and what a relay says of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from bulkmail.egress import MAX_NAME, OWN_KEYS, PROXY_KEYS, Egress, parse_egress
from bulkmail.urlparts import listed, quoted

_URL = {"type": "string", "examples": ["socks5h://user:password@10.0.0.1:1080", "http://proxy:3128", "direct"]}
_HOP = {
    "proxy": _URL,
    "ca_file": {"type": "string"},
    "server_name": {"type": "string"},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "timeout": {"type": ["string", "number"]},
}
_CHAIN = {"type": "array", "minItems": 1, "items": {"anyOf": [_URL, {"type": "object", "properties": _HOP}]}}
_OWN = {
    "local_address": {"type": "string"},
    "weight": {"type": "integer", "minimum": 1},
    "max_connections": {"type": "integer", "minimum": 1},
    "rate": {"type": "string", "examples": ["300/s"]},
}
_SCHEMA = {
    "anyOf": [
        _URL,
        _CHAIN,
        {
            "type": "object",
            "properties": _HOP | _OWN | {"proxy": {"anyOf": [_URL, _CHAIN]}},
            "additionalProperties": False,
        },
    ]
}


def whole_files(value: Any, info: ValidationInfo) -> Any:
    """A proxy or egress with the names of its files relative to the manifest."""
    from bulkmail.job.models import loading_of

    if isinstance(value, list):
        return [whole_files(one, info) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: whole_files(one, info) if key == "proxy" else one for key, one in value.items()}
    if isinstance(found.get("ca_file"), str):
        found["ca_file"] = str(loading_of(info).file(found["ca_file"]))
    return found


def _egress(value: Any, info: ValidationInfo) -> Egress:
    if not isinstance(value, (str, list, dict)):
        known = listed([*PROXY_KEYS, *OWN_KEYS])
        raise ValueError(f"{quoted(value)}, expected a proxy's URL, a list of them, or an object with {known}")
    return parse_egress(whole_files(value, info), "the egress")


def _name(name: str) -> str:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"{quoted(name)}, expected a name of 1 to {MAX_NAME} printable characters")
    return name


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Egresses = dict[
    Annotated[str, AfterValidator(_name)], Annotated[Egress, PlainValidator(_egress), WithJsonSchema(_SCHEMA)]
]
Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
NamesByDomain = dict[str, Names]
