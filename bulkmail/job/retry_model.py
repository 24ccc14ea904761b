"""The manifest's `retry`: what happens after a temporary refusal."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from bulkmail.job.loading import Strict
from bulkmail.job.retry import NO_REPLY
from bulkmail.job.specs import GIVE_UP_AFTER, JITTER, PATIENCE, RETRY_DELAYS, ClassRetry, RetrySpec
from bulkmail.job.value_models import Seconds
from bulkmail.smtp.classify import kinds
from bulkmail.urlparts import listed, nearest, quoted


def check_kind(name: str, *others: str) -> str:
    """The name of a kind of refusal (docs/replies.md), or one of `others`."""
    known = [*others, *kinds(), NO_REPLY]
    if name not in known:
        raise ValueError(
            f"there is no class {quoted(name)} of refusals" + (nearest(name, known) or f", expected {listed(known)}")
        )
    return name


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{quoted(value)}, expected a number from 0 to 1")
    return float(value)


Jitter = Annotated[float, PlainValidator(_share), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]


class RetryClass(Strict):
    """Retries after one kind of refusal."""

    delays: list[Seconds] = Field(description='times before the second, third… attempt, such as ["5m", "1h"]')
    give_up_after: Seconds | None = Field(None, description="from the first attempt on, in place of the general one")


def _never(word: str) -> str:
    if word != "never":
        raise ValueError(f"{quoted(word)}, expected 'never' or an object with 'delays'")
    return word


def _shape(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<object>" if isinstance(value, dict) else None


AnyRetryClass = Annotated[
    Annotated[str, AfterValidator(_never), WithJsonSchema({"const": "never"}), Tag("<string>")]
    | Annotated[RetryClass, Tag("<object>")],
    Discriminator(_shape, custom_error_type="kind", custom_error_message="'never' or an object with 'delays'"),
]


class Retry(Strict):
    """What happens after a temporary refusal."""

    delays: list[Seconds] = Field(default=list(RETRY_DELAYS), description="before the second, third… attempt")
    give_up_after: Seconds = Field(default=GIVE_UP_AFTER, description="from the first attempt on")
    patience: Seconds = Field(default=PATIENCE, description="how long all relays may be unreachable")
    jitter: Jitter = Field(default=JITTER, description="share by which delays are made longer at most, at random")
    classes: dict[Annotated[str, AfterValidator(check_kind)], AnyRetryClass] = Field(
        default_factory=dict, description="by the class of the refusal: an object with 'delays', or \"never\""
    )
    relay: Literal["any", "same", "next"] = Field(default="any", description="by which relay a retry goes")


def spec_of(model: Retry) -> RetrySpec:
    classes = {
        name: ClassRetry() if isinstance(one, str) else ClassRetry(tuple(one.delays), one.give_up_after)
        for name, one in model.classes.items()
    }
    given = "delays" in model.model_fields_set
    return RetrySpec(
        tuple(model.delays), model.give_up_after, model.patience, model.jitter, classes, model.relay, given
    )
