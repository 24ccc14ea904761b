"""The manifest's `recipients`: where they are, and who of them gets nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, Tag, ValidationInfo, WithJsonSchema, model_validator

from bulkmail.address import check_address
from bulkmail.errors import MessageError
from bulkmail.job.loading import ExistingFile, Strict, either, loading_of, plain_text
from bulkmail.job.query import FORMS, Query, is_postgres, sqlite_path, without_password
from bulkmail.job.seeds import MAX_SEEDS
from bulkmail.job.specs import RecipientsSpec
from bulkmail.urlparts import quoted


def _deduplicate(value: object) -> bool | Literal["exact"]:
    if isinstance(value, bool) or value == "exact":
        return value
    raise ValueError(f'{quoted(value)}, expected true, false or "exact"')


Deduplicate = Annotated[
    bool | Literal["exact"], PlainValidator(_deduplicate), WithJsonSchema({"enum": [True, False, "exact"]})
]


def _source(name: str, info: ValidationInfo) -> Path | Literal["-"]:
    return "-" if name == "-" else loading_of(info).file(name, plain=False)


SourceName = Annotated[
    Path | Literal["-"],
    PlainValidator(lambda value, info: _source(plain_text(value), info)),
    WithJsonSchema({"type": "string"}),
]


def _condition(text: str) -> str:
    from bulkmail.job.where import Where  # Jinja2 is loaded only by who uses it

    if not text.strip():
        raise ValueError("an empty string, expected an expression such as \"country == 'DE'\"")
    try:
        Where(text)
    except MessageError as error:
        if "{{" in text or "{%" in text:
            raise ValueError(f"{quoted(text)}, expected an expression alone, without {{{{ }}}} or {{% %}}") from error
        raise
    return text


def _share(value: object) -> Fraction:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'{quoted(value)}, expected a share such as "1%"; --limit takes a number of recipients')
    found = _PERCENT.fullmatch(plain_text(value))
    share = Fraction(found[1]) / 100 if found else Fraction(0)
    if not 0 < share <= 1:
        raise ValueError(f'{quoted(value)}, expected a share such as "1%" or "0.5%", at most "100%"')
    return share


_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%")

Item = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[dict[str, Any], Tag("<object>")],
    either("an address or an object with 'email'"),
]
Seed = Annotated[Item, AfterValidator(lambda item: _seed(item))]
Condition = Annotated[str, AfterValidator(_condition)]
Share = Annotated[Fraction, PlainValidator(_share), WithJsonSchema({"type": "string", "pattern": _PERCENT.pattern})]


def _seed(item: str | dict[str, Any]) -> str | dict[str, Any]:
    address = item if isinstance(item, str) else item.get("email")
    if not isinstance(address, str):
        raise ValueError(f"{quoted(item)}, expected an address or an object with 'email'")
    check_address(address)
    return item


def _database(url: str, info: ValidationInfo) -> Query:
    """A Query that lacks its statement."""
    path = sqlite_path(url)
    if path is not None:
        return Query("", "sqlite", path=loading_of(info).file(path))
    if is_postgres(url):
        return Query("", "postgresql", url=url.strip())
    raise ValueError(f"{quoted(without_password(url))}, expected {FORMS}")


DatabaseUrl = Annotated[
    Query,
    PlainValidator(lambda value, info: _database(plain_text(value), info)),
    WithJsonSchema({"type": "string"}),
]


class Recipients(Strict):
    """Where the recipients are."""

    file: SourceName | None = Field(None, description='a file, or "-" for standard input')
    sql: str | None = Field(None, min_length=1, description="a SELECT with a column 'email'; needs 'url'")
    url: DatabaseUrl | None = Field(None, description=f"where 'sql' is run: {FORMS}")
    format: Literal["jsonl", "csv", "text"] | None = Field(None, description="found from name or content if missing")
    validated: bool = Field(True, alias="validate", description="false: send before the list is read to its end")
    bad_rows: Literal["stop", "skip"] | None = Field(None, description="stop; skip where validate is false")
    deduplicate: Deduplicate = False
    suppress: list[ExistingFile] = Field(default_factory=list, description="files of who gets nothing")
    where: Condition | None = Field(None, description="an expression: whom it is false for is left out")
    sample: Share | None = Field(None, description='a share of the recipients, such as "1%"')
    always_include: list[Seed] = Field(
        default_factory=list, max_length=MAX_SEEDS, description="addresses or objects that get the message in any case"
    )

    @model_validator(mode="after")
    def _complete(self) -> Recipients:
        if (self.file is None) == (self.sql is None):
            found = "neither" if self.file is None else "both"
            raise ValueError(f"one of 'file' and 'sql' is expected, found {found}")
        if (self.sql is None) != (self.url is None):
            raise ValueError("'sql' and 'url' belong together, found only one of them")
        if self.sql is not None and self.format is not None:
            raise ValueError("'format' is of a file, and the recipients come from 'sql'")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Recipients:
        if self.bad_rows == "stop" and not self.validated:
            raise ValueError('"bad_rows" is "stop" and "validate" false, but a job that has begun stops for no bad row')
        return self

    def source(self) -> Path | Literal["-"] | Query:
        if self.file is not None:
            return self.file
        assert self.sql is not None and self.url is not None
        return replace(self.url, sql=self.sql)


AnyRecipients = Annotated[
    Annotated[SourceName, Tag("<string>")]
    | Annotated[list[Item], Field(min_length=1), Tag("<list>")]
    | Annotated[Recipients, Tag("<object>")],
    either("a file's name, a list of addresses or objects, or an object with 'file'"),
]


def spec_of(model: Path | Literal["-"] | list[Any] | Recipients) -> RecipientsSpec:
    if isinstance(model, list):
        return RecipientsSpec(tuple(model))
    if isinstance(model, (str, Path)):
        return RecipientsSpec(model)
    return RecipientsSpec(
        model.source(),
        model.format,
        model.bad_rows or ("stop" if model.validated else "skip"),
        model.deduplicate,
        tuple(model.suppress),
        validate=model.validated,
        where=model.where,
        sample=model.sample,
        always_include=tuple(model.always_include),
    )
