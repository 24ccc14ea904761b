"""Signatures in the manifest: `dkim` of the message. Keys are read and checked here, so that a bad one has its path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, Tag, ValidationInfo, WithJsonSchema, model_validator

from bulkmail.job.loading import Strict, either, loading_of, plain_text
from bulkmail.message.dkim import (
    CANONICALIZATIONS,
    Dkim,
    checked_canonicalization,
    checked_domain,
    checked_expires,
    checked_identity,
    checked_names,
    checked_selector,
)
from bulkmail.message.dkim_keys import load_key, read_key_file
from bulkmail.values import parse_seconds


def _key_file(value: object, info: ValidationInfo) -> Path:
    path = loading_of(info).file(plain_text(value))
    load_key(read_key_file(path, "the file"), f"the file {path}")
    return path


def _key(text: str) -> str:
    load_key(text, "the key")
    return text


def _identity(text: str, info: ValidationInfo) -> str:
    # Without a domain there is a problem already.
    return checked_identity(text, info.data["domain"]) if "domain" in info.data else text


Names = Annotated[list[str], AfterValidator(lambda names: list(checked_names(names)))]


class Signature(Strict):
    """A DKIM signature of every message."""

    domain: Annotated[str, AfterValidator(checked_domain)] = Field(description="the signing domain, d=")
    selector: Annotated[str, AfterValidator(checked_selector)] = Field(description="its key stands in DNS under it, s=")
    key_file: Annotated[Path, PlainValidator(_key_file), WithJsonSchema({"type": "string"})] | None = Field(
        None, description="file of the private key (PEM)"
    )
    key: Annotated[str, AfterValidator(_key)] | None = Field(
        None, repr=False, description='the private key itself, such as "${DKIM_KEY}"'
    )
    headers: Names | None = Field(None, description="header fields that are signed")
    oversign: Names | None = Field(None, description="header fields that nobody may add")
    canonicalization: Annotated[
        str,
        AfterValidator(checked_canonicalization),
        WithJsonSchema({"type": "string", "enum": list(CANONICALIZATIONS)}),
    ] = CANONICALIZATIONS[0]
    identity: Annotated[str, AfterValidator(_identity)] | None = Field(None, description="i=")
    expires: (
        Annotated[
            float,
            PlainValidator(lambda value: checked_expires(parse_seconds(value, "the time"))),
            WithJsonSchema({"type": ["string", "number"], "examples": ["14d"]}),
        ]
        | None
    ) = Field(None, description="how long receivers may take it for good")

    @model_validator(mode="after")
    def _complete(self) -> Signature:
        if (self.key is None) == (self.key_file is None):
            found = "both" if self.key is not None else "neither"
            raise ValueError(f"one of 'key_file' and 'key' is expected, found {found}")
        return self

    def spec(self) -> Dkim:
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        return Dkim(**given)


Signatures = Annotated[
    Annotated[list[Signature], Tag("<list>")] | Annotated[Signature, Tag("<object>")],
    either("an object with 'domain', 'selector' and 'key_file', or a list of them"),
]


def specs_of(given: list[Signature] | Signature | None) -> tuple[Dkim, ...]:
    """What a MessageSpec holds."""
    return tuple(one.spec() for one in (given if isinstance(given, list) else [given] if given else []))


def warnings_of(given: list[Signature] | Signature | None) -> list[tuple[str, str]]:
    """(JSON path, sentence) of keys that can be used and should not."""
    path = "$.message.dkim[{}]" if isinstance(given, list) else "$.message.dkim"
    found = [(n, warning) for n, spec in enumerate(specs_of(given)) for warning in spec.warnings()]
    return [(f"{path.format(n)}.{key}", text) for n, (key, text) in found]
