"""Several ways to the same end, tried beside each other: the first one there wins (RFC 8305, "happy eyeballs")."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

STAGGER = 0.25  # seconds before the next way is tried beside the last, RFC 8305 section 5


class Closable(Protocol):
    def close(self) -> object: ...


Way = TypeVar("Way")
Prize = TypeVar("Prize", bound=Closable)
Failure = TypeVar("Failure", bound=Exception)


async def race(
    ways: Sequence[Way],
    attempt: Callable[[Way], Coroutine[Any, Any, Prize]],
    move_on: type[Failure],
    failures: list[tuple[Way, Failure]],
) -> Prize | None:
    """The first prize, or None with every failure in `failures`. The others are closed.

    RFC 8305 section 5: the next way is tried when the last one fails, or after STAGGER beside it.

    attempt   leaves nothing open when it raises
    move_on   what is the failure of one way; anything else is raised, and ends the race
    """
    waiting = deque(ways)
    running: dict[asyncio.Task[Prize], Way] = {}
    loop = asyncio.get_running_loop()
    try:
        while waiting or running:
            if waiting:
                way = waiting.popleft()
                running[loop.create_task(attempt(way))] = way
            done, _ = await asyncio.wait(
                running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            # Of two that are done at once the first to be tried wins.
            for task in [task for task in running if task in done]:
                way = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, move_on):
                    raise error
                failures.append((way, error))
        return None
    finally:
        _abandon(running)


def _abandon(running: Iterable[asyncio.Task[Prize]]) -> None:
    """End attempts nobody waits for. One under way closes what it has itself, in the loop's next turns.

    Nothing is awaited here: a cancellation that came meanwhile would lose the winner's prize.
    """
    for task in running:
        was_under_way = task.cancel()
        if not was_under_way and task.exception() is None:
            task.result().close()
