"""What whoever opens a connection may watch: its steps, as they begin and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# on_step(name, None) when a step begins, on_step(name, what was found) when it ends well. A step that fails just has no
# end: the exception says why. Names: dns, connect, proxy (in a chain "proxy 1", "proxy 2", ...), tls, greeting, ehlo,
# login. A step may begin again. "bypass" has an end only, and says that no_proxy covers the host.
OnStep = Callable[[str, dict[str, Any] | None], None]


def unwatched(name: str, found: dict[str, Any] | None) -> None:
    """Nobody watches."""
