"""A manifest's text as data: JSON, with line and column for what is not; nothing ambiguous; `${NAME}` filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkmail.errors import ManifestError
from bulkmail.records import Record
from bulkmail.urlparts import masked

MAX_MANIFEST = 1 << 26  # bytes; lists of recipients that are longer belong into a file, which is streamed
MAX_DEPTH = 100  # levels of lists and objects; a manifest has six, its recipients' own fields some more

_plain_key = re.compile(r"[A-Za-z_$][A-Za-z0-9_]{0,59}").fullmatch
_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_reference = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_lone_surrogate = re.compile("[\ud800-\udfff]").search


def step(path: str, key: str | int) -> str:
    """The JSON path of what is under `key` of `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _plain_key(key) else f"{path}[{json.dumps(shown_key(key))}]"


def shown_key(key: str) -> str:
    """A key as errors show it: not longer than 60 characters, and without the password of a URL in a key's place."""
    key = masked(key) if "://" in key else key
    return key if len(key) <= 60 else key[:57] + "..."


@dataclass
class Problems:
    """All that is wrong with one manifest, in the order found. No text of it holds a value from the environment.

    file   how the manifest is called
    from_environment  value -> name of the variable, of all that were filled in
    unknown           paths of strings whose variable is missing: what else is said of them is noise
    """

    file: str
    found: list[tuple[str, str]] = field(default_factory=list)
    from_environment: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def add(self, path: str, text: str) -> None:
        """text: what was found and what is expected, without file and path."""
        if path not in self.unknown:
            problem = (path, f"{self.file}, {path}: {self._masked(text)}")
            if problem not in self.found:
                self.found.append(problem)

    def refuse(self) -> None:
        """Raise the ManifestError of all problems, if there are any."""
        if not self.found:
            return
        text = self.found[0][1]
        if len(self.found) > 1:
            lines = "\n".join(f"  {sentence}" for _, sentence in self.found)
            text = f"{self.file} has {len(self.found)} problems:\n{lines}"
        raise ManifestError(text, path=self.found[0][0], problems=self.found)

    def _masked(self, text: str) -> str:
        for value, name in self.from_environment.items():
            for shown in {value, ascii(value)[1:-1]}:
                text = _hidden(text, shown, f"${{{name}}}")
        return text


def _hidden(text: str, value: str, instead: str) -> str:
    """The text without the value, also where it is cut short by "...". Values below four characters hide nothing."""
    start = text.find(value[:4]) if len(value) >= 4 else -1
    while start >= 0:
        end = start
        while end < len(text) and text[end] == value[end - start : end - start + 1]:
            end += 1
        if end - start == len(value) or text.startswith("...", end):
            text = text[:start] + instead + text[end:]
            end = start + len(instead)
        start = text.find(value[:4], end)
    return text


@dataclass(frozen=True, eq=False, repr=False)
class Document(Record):
    """as_written: the JSON object; data: the same with the environment's values."""

    as_written: dict[str, Any]
    data: dict[str, Any]


def read_document(path: Path, environ: Mapping[str, str], problems: Problems) -> Document:
    """The manifest's JSON object.

    Unset variables, keys given twice, NaN and characters that are none go to `problems`.
    raises  ManifestError  it cannot be read, or is no JSON object: nothing else can be said of it
    """
    value = _parse(_text(path, problems.file), problems.file)
    if not isinstance(value, dict):
        raise ManifestError(f"{problems.file}: a manifest is a JSON object, found {kind(value)}")
    try:
        data = _filled(value, "$", environ, problems, 0)
    except RecursionError:
        raise _too_deep(problems.file) from None
    return Document(value, data)


def kind(value: object) -> str:
    """ "a list", "the number 5": what a JSON value is, without a text's content, which may be a secret."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {value!r:.30}"
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _text(path: Path, file: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_MANIFEST + 1)
    except IsADirectoryError:
        raise ManifestError(f"{file} is a folder, expected a manifest (a JSON file)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"cannot read the manifest {file}: {reason}") from error
    if len(data) > MAX_MANIFEST:
        raise ManifestError(f"{file} has more than {MAX_MANIFEST} bytes; put the recipients into a file of their own")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ManifestError(
            f"{file}, line {line}, byte {column}: not valid UTF-8 (0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys it had twice."""

    twice: tuple[str, ...] = ()


class _NoNumber(str):
    """NaN or Infinity, which Python's reader takes and JSON has not."""


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        made.twice = tuple(name for name in made if names.count(name) > 1)
    return made


def _parse(text: str, file: str) -> Any:
    if not text.strip():
        raise ManifestError(f"{file} is empty, expected a JSON object")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_NoNumber)
    except json.JSONDecodeError as error:
        before = text[: error.pos].rstrip()
        hint = " (no comma before a closing bracket)" if before.endswith(",") and text[error.pos] in "]}" else ""
        raise ManifestError(f"{file}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}{hint}") from None
    except RecursionError:
        raise _too_deep(file) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ManifestError(f"{file}: not usable as JSON: {error}") from None


def _too_deep(file: str) -> ManifestError:
    return ManifestError(f"{file} is nested more than {MAX_DEPTH} levels deep")


def _filled(value: Any, path: str, environ: Mapping[str, str], problems: Problems, depth: int) -> Any:
    """A copy of the value with every string filled in."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, _Object):
        for name in value.twice:
            problems.add(step(path, name), "the key stands twice in this object, and one value would be lost")
        for name in value:
            _refuse_characters(name, step(path, name), problems)
        return {name: _filled(held, step(path, name), environ, problems, depth + 1) for name, held in value.items()}
    if isinstance(value, list):
        return [_filled(held, step(path, i), environ, problems, depth + 1) for i, held in enumerate(value)]
    if isinstance(value, _NoNumber):
        problems.add(path, f"{value} is not a JSON number")
        return None
    if isinstance(value, str):
        filled = _reference.sub(lambda found: _value(found, path, environ, problems), value) if "$" in value else value
        _refuse_characters(filled, path, problems)
        return filled
    return value


def _refuse_characters(text: str, path: str, problems: Problems) -> None:
    if "\0" in text:
        problems.add(path, "a NUL (\\u0000) cannot be used")
    if not text.isascii() and _lone_surrogate(text):
        problems.add(path, "half of a surrogate pair (\\ud800 to \\udfff) is no character")


def _value(found: re.Match[str], path: str, environ: Mapping[str, str], problems: Problems) -> str:
    name = found[1]
    if name is None:
        return "${"
    if not found[2] or not _name(name):
        problems.add(path, f"{found[0][:40]!r} does not name an environment variable; a literal ${{ is written $${{")
        return ""
    value = environ.get(name)
    if value is None:
        problems.add(path, f"the environment variable {name} is not set")
        problems.unknown.add(path)
        return ""
    problems.from_environment[value] = name
    return value
