"""The manifest's `limits.adaptive`: how far the job slows down for who asks for it, and how it comes back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, PlainValidator, Tag, WithJsonSchema, model_validator

from bulkmail.job.loading import Strict
from bulkmail.job.specs import AdaptiveSpec
from bulkmail.job.value_models import RateText, Seconds
from bulkmail.urlparts import quoted

LEAST_FACTOR, MOST_FACTOR = 0.1, 0.95


def _factor(value: object) -> float:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0
    if not LEAST_FACTOR <= number <= MOST_FACTOR:
        raise ValueError(f"{quoted(value)}, expected a number from {LEAST_FACTOR} to {MOST_FACTOR}")
    return number


Factor = Annotated[
    float,
    PlainValidator(_factor),
    WithJsonSchema({"type": "number", "minimum": LEAST_FACTOR, "maximum": MOST_FACTOR}),
]
_usual = AdaptiveSpec()


class AdaptiveModel(Strict):
    """Slower where a receiver asks for it."""

    floor: RateText | None = Field(None, description="no slower than this")
    ceiling: RateText | None = Field(None, description="once slowed down, no faster than this")
    decrease: Factor = Field(default=_usual.decrease, description="what a rate is multiplied by when it was too high")
    recover: Seconds = Field(default=_usual.recover, description="from nothing back to the rate before")
    longest_pause: Seconds = Field(default=_usual.longest_pause, description="however long a reply asks to wait")

    @model_validator(mode="after")
    def _sound(self) -> AdaptiveModel:
        if self.ceiling is not None and self.floor is not None and self.ceiling.per_second < self.floor.per_second:
            raise ValueError(f"'ceiling' is {self.ceiling}, expected at least 'floor', which is {self.floor}")
        if not self.recover:
            raise ValueError("'recover' is 0, expected a time such as '10m'")
        return self


def _branch(value: object) -> str | None:
    return "<flag>" if isinstance(value, bool) else "<object>" if isinstance(value, dict) else None


AnyAdaptive = Annotated[
    Annotated[bool, Tag("<flag>")] | Annotated[AdaptiveModel, Tag("<object>")],
    Discriminator(_branch, custom_error_type="kind", custom_error_message="true, false or an object"),
]


def spec_of(model: Any) -> AdaptiveSpec | None:
    """What AnyAdaptive made; None: switched off."""
    if isinstance(model, bool):
        return _usual if model else None
    ceiling = model.ceiling.per_second if model.ceiling is not None else None
    floor = model.floor.per_second if model.floor is not None else None
    return AdaptiveSpec(floor, ceiling, model.decrease, model.recover, model.longest_pause)
