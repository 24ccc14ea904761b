from typing import Any, TypeAlias

from bulkmail.wire.extensions import Ask
from bulkmail.wire.reply import Reply

# What is sent, whole or in pieces that each begin a line.
Body: TypeAlias = bytes | tuple[bytes, ...]

WAITING: int
DONE: int
NOT_TAKEN: int
IN_DOUBT: int

class Transaction:
    tag: Any
    at: int
    via: Any
    positions: Any
    state: int
    reply: Reply | None
    command: str | None
    judged: bool
    rejected: dict[int, Reply] | None
    late: set[int] | None
    decided: int
    fits: int
    error: BaseException | None
    mail_at: float
    data_at: float
    done_at: float
    def __init__(
        self,
        sender: bytes,
        rcpts: list[bytes],
        body: Body | None = None,
        flags: int = 0,
        tag: Any = None,
        at: int = 0,
        asks: tuple[Ask, ...] | None = None,
        rcpt_parameters: list[bytes] | None = None,
        size: int = -1,
    ) -> None: ...
    @property
    def sender(self) -> bytes: ...
    @property
    def rcpts(self) -> list[bytes]: ...
    @property
    def body(self) -> Body | None: ...
    @property
    def body_size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def asks(self) -> tuple[Ask, ...] | None: ...
    @property
    def rcpt_parameters(self) -> list[bytes] | None: ...
    @property
    def size(self) -> int: ...
    @property
    def tries(self) -> int: ...
    def again(self) -> Transaction: ...
    def part(self, places: list[int]) -> Transaction: ...
    def refuse(self, error: BaseException, fits: int = 0) -> None: ...

class Offer:
    def __init__(self, extensions: dict[str, str]) -> None: ...
    @property
    def extensions(self) -> dict[str, str]: ...
    @property
    def eight_bit(self) -> bool: ...
    @property
    def utf8(self) -> bool: ...
    @property
    def binary(self) -> bool: ...
    @property
    def dsn(self) -> bool: ...
    @property
    def size(self) -> bool: ...
    @property
    def size_limit(self) -> int: ...
    @property
    def rcpt_max(self) -> int: ...
    @property
    def domain_max(self) -> int: ...
    @property
    def mail_max(self) -> int: ...
