"""What the tests of faults share."""

from __future__ import annotations

import pytest

from bulkmail.net import hub


@pytest.fixture(
    params=[pytest.param("hub", marks=pytest.mark.skipif(not hub.AVAILABLE, reason="this system has no epoll")), "loop"]
)
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain connections are streams of the hub; and transports of the event loop, as where there is no hub."""
    monkeypatch.setattr(hub, "enabled", request.param == "hub")
