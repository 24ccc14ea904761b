"""AUTH LOGIN (draft-murchison-sasl-login): two prompts whose words mean nothing; user first, then password."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def respond(credentials: Any) -> Generator[bytes | None, bytes, None]:
    yield None
    yield credentials.user.encode()
    yield credentials.password.encode()
