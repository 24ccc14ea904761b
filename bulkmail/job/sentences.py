"""What pydantic finds wrong, in our words: where, what was found, what is expected."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from bulkmail.job.document import Problems, kind, shown_key, step
from bulkmail.job.loading import Strict
from bulkmail.url import unknown_option
from bulkmail.urlparts import listed, nearest, quoted


def _is_place(part: int | str) -> bool:
    """False for the steps that pydantic puts into a location for the branch of a union and for a key itself."""
    return not (isinstance(part, str) and (part.startswith("<") or part == "[key]"))


_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_TOO_SHORT = {
    "string_too_short": "an empty string, expected a name",
}


def tell(error: ValidationError, root: type[Strict], problems: Problems) -> None:
    """Add each of pydantic's errors to the problems."""
    for found in error.errors(include_url=False):
        steps = [part for part in found["loc"] if _is_place(part)]
        path = "$"
        for part in steps:
            path = step(path, part)
        problems.add(path, _sentence(found, steps, root))


def _sentence(found: Mapping[str, Any], steps: Sequence[int | str], root: type[Strict]) -> str:
    context: Mapping[str, Any] = found.get("ctx") or {}
    kind_of_error = found["type"]
    if kind_of_error == "value_error":
        return str(context["error"])
    if kind_of_error == "extra_forbidden":
        return _unknown_key(str(steps[-1]), _model_at(root, steps[:-1]))
    if kind_of_error == "missing":
        return "the key is missing" + _described(_model_at(root, steps[:-1]), str(steps[-1]))
    if kind_of_error == "literal_error":
        return f"{quoted(found['input'])}, expected {context['expected']}"
    if kind_of_error == "kind":
        return f"{kind(found['input'])}, expected {found['msg']}"
    if kind_of_error in _EXPECTED:
        return f"{kind(found['input'])}, expected {_EXPECTED[kind_of_error]}"
    if kind_of_error in ("too_short", "too_long"):
        return _length(context)
    return _TOO_SHORT.get(kind_of_error) or str(found["msg"])


def _length(context: Mapping[str, Any]) -> str:
    found = f"a list of {context['actual_length']}" if context["actual_length"] else "an empty list"
    bound = f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
    return f"{found}, expected {bound}".replace("at least 1", "at least one entry")


def _unknown_key(key: str, model: type[Strict] | None) -> str:
    shown = repr(shown_key(key))
    if model is None:
        return f"unknown key {shown}"
    if key in model.later:
        return f"{key!r} is not in this version yet"
    if key in model.refused:
        return f"{key!r} cannot be given here: {model.refused[key]}"
    known = list(_keys(model))
    if "url" in model.model_fields:
        said = unknown_option(key, "key")
        return said if "?" in said or ":" in said else said + nearest(key, known)
    return f"unknown key {shown}" + (nearest(key, known) or f", expected {listed(known)}")


def _described(model: type[Strict] | None, key: str) -> str:
    for name, field in model.model_fields.items() if model is not None else ():
        if (field.alias or name) == key and field.description:
            return f", expected {field.description}"
    return ""


def _keys(model: type[Strict]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _model_at(root: type[Strict], steps: Sequence[int | str]) -> type[Strict] | None:
    """The model of the object at a location."""
    model: type[Strict] | None = root
    by_name = False  # the next step is the key of one of several objects
    for part in steps:
        if by_name:
            by_name = False
        elif isinstance(part, str) and model is not None:
            found = next((f.annotation for name, f in model.model_fields.items() if (f.alias or name) == part), None)
            model, by_name = _inside(found), _is_dict(found)
    return model


def _is_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_dict, get_args(annotation)))


def _inside(annotation: Any) -> type[Strict] | None:
    """The model that a field's type is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict) or hasattr(annotation, "__metadata__"):
        return next((model for part in get_args(annotation) if (model := _inside(part)) is not None), None)
    return None
