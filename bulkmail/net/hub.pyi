import asyncio
from collections.abc import Callable

AVAILABLE: bool
enabled: bool

class Hub:
    loop: asyncio.AbstractEventLoop
    batches: int
    lingered: int
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def soon(self, callback: Callable[[], object]) -> None: ...
    def __len__(self) -> int: ...

def hub_of(loop: asyncio.AbstractEventLoop) -> Hub | None: ...
