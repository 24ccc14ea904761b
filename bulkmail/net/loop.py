"""The event loop everything runs on: uvloop where it is installed, asyncio's own otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop; the caller closes it. uvloop does not exist on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(coro: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a loop of its own and close that loop; for code that is not async itself.

    raises  RuntimeError  when this thread already runs a loop, and whatever the coroutine raises
    """
    if asyncio._get_running_loop() is not None:
        coro.close()  # it would be reported as never awaited
        raise RuntimeError("this thread already runs an event loop: await the async form of this call instead")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coro)
