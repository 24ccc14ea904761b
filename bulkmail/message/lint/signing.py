"""What will be signed, of the keys that a message is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bulkmail.errors import MessageError
from bulkmail.message.lint.sample import Signing

if TYPE_CHECKING:
    from bulkmail.message.dkim import Dkim


def signings(keys: Iterable[Dkim]) -> list[Signing]:
    """One for each key. Of a key that cannot be read nothing more is told here: composing tells of it."""
    return [_signing(key, place) for place, key in placed(keys)]


def placed(keys: Iterable[Dkim]) -> list[tuple[str, Dkim]]:
    """(place, key) of each; a single one may be given without a list."""
    listed = list(keys)
    return [("dkim" if len(listed) == 1 else f"dkim[{number}]", key) for number, key in enumerate(listed)]


def _signing(spec: Dkim, place: str) -> Signing:
    headers = frozenset(name.lower() for name, _ in spec.wanted())
    try:
        key = spec.load()
        warned = [text for name, text in spec.warnings() if name == "key_file" and "chmod" in text]
    except MessageError:
        return Signing(spec.domain, spec.selector, headers=headers, place=place)
    bits = key.bits if key.algorithm.startswith("rsa") else None
    return Signing(spec.domain, spec.selector, key.algorithm, headers, bits, place, warned[0] if warned else "")
