"""The manifest's `dsn`: which delivery notifications servers are asked for (RFC 3461)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bulkmail.job.loading import Strict
from bulkmail.job.specs import DsnSpec


def _alone(notify: list[str]) -> list[str]:
    if not notify or ("never" in notify and len(set(notify)) > 1):
        raise ValueError('expected ["never"], or some of "failure", "delay", "success"')
    return notify


class Dsn(Strict):
    """Which delivery notifications servers are asked for, and what is in them (RFC 3461)."""

    notify: Annotated[list[Literal["failure", "delay", "success", "never"]], AfterValidator(_alone)] = Field(
        default=["failure"], description="when the envelope's sender is told"
    )
    ret: Literal["hdrs", "full"] = Field("hdrs", description="of the message, its header comes back, or all of it")
    envid: bool = Field(True, description="an id comes back, by which `bulkmail bounces` knows the recipient")


def spec_of(model: Dsn | None) -> DsnSpec | None:
    return None if model is None else DsnSpec(tuple(dict.fromkeys(model.notify)), model.ret, model.envid)
