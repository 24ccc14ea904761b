from collections.abc import Iterable

DEFAULT_MAX_SIZE: int
DEFAULT_MAX_RECIPIENTS: int
EXTENSIONS: tuple[str, ...]
MAX_TOLD_LIMIT: int
PASSWORD_MECHANISMS: tuple[str, ...]
TOKEN_MECHANISMS: tuple[str, ...]
ASK_MAIL: int
ASK_RCPT: int
ASK_END: int
ASK_AUTH: int
ASK_HELLO: int
ASK_STARTTLS: int
ASK_LOGIN: int
ASK_DATA: int
ASK_QUIT: int
PAUSED: int
REPLIES: dict[int, bytes]

class ServerCounts:
    connections: int
    messages: int
    recipients: int
    bytes: int
    refused: int
    def as_dict(self) -> dict[str, int]: ...

class ServerSettings:
    def __init__(
        self,
        name: str = "localhost",
        *,
        max_size: int = ...,
        max_recipients: int = ...,
        without: Iterable[str] = (),
        starttls: bool = False,
        auth: tuple[str, str] | None = None,
        lmtp: bool = False,
        envelopes: bool = True,
        content: bool = True,
        ask: int = 0,
        lenient: bool = False,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def max_size(self) -> int: ...
    @property
    def max_recipients(self) -> int: ...
    @property
    def without(self) -> frozenset[str]: ...
    @property
    def starttls(self) -> bool: ...
    @property
    def auth(self) -> tuple[str, str] | None: ...
    @property
    def lmtp(self) -> bool: ...
    @property
    def envelopes(self) -> bool: ...
    @property
    def content(self) -> bool: ...
    @property
    def ask(self) -> int: ...
    def ask_also(self, ask: int) -> None: ...
    @property
    def lenient(self) -> bool: ...
    @property
    def mechanisms(self) -> tuple[str, ...]: ...
    def line(self, reply: bytes) -> bytes: ...
    def greeting(self, ident: str) -> bytes: ...
