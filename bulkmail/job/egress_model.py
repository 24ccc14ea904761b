"""Egresses in the manifest: `egress` of the job, and what a relay says of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from bulkmail.egress import MAX_NAME, OWN_KEYS, PROXY_KEYS, Egress, is_name, parse_egress
from bulkmail.proxyurl import MAX_HOPS
from bulkmail.urlparts import listed, quoted

_URL = {"type": "string", "examples": ["socks5h://user:password@10.0.0.1:1080", "http://proxy:3128"]}
_KEYS = {
    "proxy": _URL,
    "ca_file": {"type": "string"},
    "server_name": {"type": "string"},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "timeout": {"type": ["number", "string"]},
}
_OBJECT = {"type": "object", "properties": _KEYS, "required": ["proxy"], "additionalProperties": False}
_CHAIN = {"type": "array", "items": {"anyOf": [_URL, _OBJECT]}, "minItems": 1, "maxItems": MAX_HOPS}
_OWN = {
    "local_address": {"type": "string"},
    "weight": {"type": "integer", "minimum": 1},
    "max_connections": {"type": "integer", "minimum": 1},
    "rate": {"type": "string", "examples": ["300/s"]},
}
_EGRESS = {
    "type": "object",
    "properties": _KEYS | _OWN | {"proxy": {"anyOf": [_URL, _CHAIN]}},
    "additionalProperties": False,
}
_SCHEMA = {"anyOf": [_URL, _CHAIN, _EGRESS]}
PROXY_SCHEMA: dict[str, Any] = {"anyOf": [_URL, _CHAIN, _EGRESS | {"required": ["proxy"]}]}


def _egress(value: Any) -> Egress:
    if not isinstance(value, (str, list, dict)):
        known = listed([*PROXY_KEYS, *OWN_KEYS])
        raise ValueError(f"{quoted(value)}, expected a proxy's URL, a list of them, or an object with {known}")
    return parse_egress(value, "the egress")


def _name(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{quoted(name)}, expected a name of 1 to {MAX_NAME} printable characters")
    return name


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Egresses = dict[
    Annotated[str, AfterValidator(_name)], Annotated[Egress, PlainValidator(_egress), WithJsonSchema(_SCHEMA)]
]
Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
NamesByDomain = dict[str, Names]
