import asyncio
from collections.abc import AsyncIterator, Callable
from ssl import SSLContext
from typing import Any

from bulkmail.net.stream import Receiver
from bulkmail.wire.client import Client
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import Transaction

CLOSED_BY_US: str

class Turn:
    done: list[Transaction]
    hungry: list[Session]
    ended: list[Session]
    crossing: bool
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object], delay: float) -> None: ...
    def note(self, soon: bool) -> None: ...
    def take_done(self) -> list[Transaction]: ...
    def take_hungry(self) -> list[Session]: ...
    def take_ended(self) -> list[Session]: ...

class Session(Receiver):
    wire: Client
    turn: Turn
    transport: Any
    tls: Any
    secured: bool
    tunnelled: bool
    error: BaseException | None
    closed: asyncio.Future[BaseException]
    label: Any
    window: int
    left: int
    command_timeout: float
    data_timeout: float
    idle_since: float
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turn: Turn,
        command_timeout: float,
        data_timeout: float,
        trace: Callable[[str, bytes], None] | None = None,
    ) -> None: ...
    @property
    def encrypted(self) -> bool: ...
    def push(self, transactions: list[Transaction]) -> None: ...
    def room(self) -> int: ...
    def ready(self) -> bool: ...
    def greeting(self, seconds: float) -> asyncio.Future[Reply]: ...
    def call(self, line: bytes, name: str, seconds: float = 0) -> asyncio.Future[Reply]: ...
    async def stream(self, tx: Transaction, pieces: AsyncIterator[bytes]) -> None: ...
    def abort(self, error: BaseException) -> None: ...
    async def start_tls(self, context: SSLContext, server_hostname: str | None, seconds: float) -> None: ...
