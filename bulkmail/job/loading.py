"""What the models of a manifest share: what they may read, and how strict they are."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, PlainValidator, ValidationInfo, WithJsonSchema

from bulkmail.message.spec import Access
from bulkmail.urlparts import quoted

MARKS = ("{{", "{%", "{#")


@dataclass
class Loading:
    """What validators know: the manifest's folder. `digests`: of each file that was read, by its name.

    access   what the message may be read from
    """

    folder: Path
    access: Access = field(default_factory=Access)
    digests: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, bound: int) -> bytes:
        """The content of a file of the message. ValueError: it cannot be read, or has more than `bound` bytes."""
        self.access.check_file(name, "the message")
        path = self.file(name)
        with open(path, "rb") as stream:
            data = stream.read(bound + 1)
        if len(data) > bound:
            raise ValueError(f"{path} has more than {bound} bytes")
        self.note(name, hashlib.blake2b(data, digest_size=16).hexdigest())
        return data

    def note(self, name: str, digest: str) -> None:
        """Two things of one name count as two."""
        taken, number = name, 2
        while taken in self.digests and self.digests[taken] != digest:
            taken, number = f"{name} ({number})", number + 1
        self.digests[taken] = digest

    def file(self, name: str, *, plain: bool = True) -> Path:
        """The path of a file that is there. plain: and no pipe or device, which could not be read twice or to an end.

        Nothing is opened: a pipe's writer would take that for its only reader. ValueError if it is not there.
        """
        if not name:
            raise ValueError("an empty string, expected the name of a file")
        path = self.folder / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise ValueError(f"cannot read the file {path}: {error.strerror}") from None
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder, expected a file")
        if plain and not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a plain file")
        if not os.access(path, os.R_OK):
            raise ValueError(f"cannot read the file {path}: permission denied")
        return path


def loading_of(info: ValidationInfo) -> Loading:
    loading = info.context
    assert isinstance(loading, Loading)
    return loading


class Strict(BaseModel):
    """later: keys that the documentation names and this version has not; refused: keys that cannot be, and why."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True, defer_build=True)
    later: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[dict[str, str]] = {}


def _branch(value: object) -> str | None:
    names = ((str, "<string>"), (list, "<list>"), (dict, "<object>"))
    return next((name for kind, name in names if isinstance(value, kind)), None)


def either(expected: str) -> Discriminator:
    """A union told by the JSON type of the value."""
    return Discriminator(_branch, custom_error_type="kind", custom_error_message=expected)


def plain_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)}, expected a string")
    return value


ExistingFile = Annotated[
    Path,
    PlainValidator(lambda value, info: loading_of(info).file(plain_text(value))),
    WithJsonSchema({"type": "string"}),
]


def is_template(text: str) -> bool:
    """Whether a text has template marks: what it will be is then known for each recipient only."""
    return any(mark in text for mark in MARKS)
