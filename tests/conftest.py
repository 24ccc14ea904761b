"""What every test may ask for: an event loop of each kind, a free port, a program that may be missing, real servers."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from integration.servers.common import free_port as find_free_port
from integration.servers.common import require as require_program

pytest.register_assert_rewrite("integration.features_of_messages", "integration.features_of_relays")

pytest_plugins = ["integration.servers.fixtures", "bulkmail.pytest_plugin"]

# Deadlines and "too slow" measure the machine; under a sanitizer, or beside other work on two cores, it is slow.
settings.register_profile("bulkmail", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bulkmail")

HAVE_UVLOOP = importlib.util.find_spec("uvloop") is not None
# No test of one coroutine needs as long; without it, one that waits for ever would stop the whole run.
COROUTINE_SECONDS = 120


def _loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


@pytest.fixture(
    params=[pytest.param("uvloop", marks=pytest.mark.skipif(not HAVE_UVLOOP, reason="uvloop is missing")), "asyncio"]
)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """run(coroutine) -> its result; a test that asks for it runs under uvloop and under plain asyncio."""

    def run_one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=_loop_factory(request.param)) as runner:
            return runner.run(asyncio.wait_for(coroutine, COROUTINE_SECONDS))

    return run_one


@pytest.fixture
def free_port() -> Callable[[], int]:
    """free_port() -> a port of 127.0.0.1 that nothing listens on. Port 0 is better wherever the server takes it."""
    return find_free_port


@pytest.fixture
def require() -> Callable[[str], str]:
    """require(program) -> its path. A missing one skips the test, or fails it where BULKMAIL_REQUIRE_SERVERS=1."""
    return require_program
