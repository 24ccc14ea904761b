"""The manifest's `stop_if`: when a job stops before more harm is done."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from bulkmail.job.retry_model import check_kind
from bulkmail.job.specs import StopRule
from bulkmail.job.stop_rules import AFTER, STATES
from bulkmail.urlparts import quoted

_share = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%").fullmatch
_SHAPE = {
    "type": "object",
    "properties": {"after": {"type": "integer", "minimum": 1}},
    "additionalProperties": {"type": ["string", "integer"], "examples": ["5%", 50]},
    "minProperties": 1,
}


def _rules(value: Any) -> tuple[StopRule, ...]:
    """The rules of an object, or of a list of them."""
    if isinstance(value, list):
        return tuple(rule for place, one in enumerate(value) for rule in _rules_of(one, f"entry {place}: "))
    return _rules_of(value, "")


def _rules_of(value: Any, where: str) -> tuple[StopRule, ...]:
    if not isinstance(value, dict):
        raise ValueError(f'{where}{quoted(value)}, expected an object such as {{"failed": "5%", "after": 1000}}')
    after = value.get("after")
    if after is not None and not _is_count(after):
        raise ValueError(f"{where}'after' is {quoted(after)}, expected a whole number from 1")
    rules = tuple(
        _rule(check_kind(what, *STATES), most, after, where) for what, most in value.items() if what != "after"
    )
    if not rules:
        raise ValueError(f"{where}it says nothing, expected 'failed', 'deferred', 'in_doubt' or a class of refusals")
    return rules


def _rule(what: str, most: Any, after: int | None, where: str) -> StopRule:
    if _is_count(most):
        return StopRule(what, most, share=False, after=after or 1)
    found = _share(most.strip()) if isinstance(most, str) else None
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError(f"{where}{what!r} is {quoted(most)}, expected a share such as '5%' or a count such as 50")
    return StopRule(what, float(found[1]) / 100, share=True, after=after or AFTER)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


StopIf = Annotated[
    tuple[StopRule, ...],
    PlainValidator(_rules),
    WithJsonSchema({"anyOf": [_SHAPE, {"type": "array", "items": _SHAPE}]}),
]
