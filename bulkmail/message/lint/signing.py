"""What will be signed, of the keys that a message is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bulkmail.message.lint.sample import Signing


def signings(specs: Iterable[Any]) -> list[Signing]:
    return [Signing(spec.domain, spec.selector, place=f"dkim[{number}]") for number, spec in enumerate(specs)]
