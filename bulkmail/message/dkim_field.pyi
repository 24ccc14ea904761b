from collections.abc import Callable, Sequence

from bulkmail.message.canon import BodyHash, HeaderPicker

class Unsigned:
    head: bytes
    data: bytes
    def __init__(self, head: bytes, data: bytes) -> None: ...
    def field(self, signature: bytes) -> bytes: ...

class Line:
    relaxed_body: bool
    picker: HeaderPicker
    def __init__(
        self,
        tags: list[str],
        expires: float | None,
        names: list[str],
        picker: HeaderPicker,
        *,
        relaxed: bool,
        relaxed_body: bool,
        takes_digest: bool,
    ) -> None: ...

def unsigned(
    lines: list[Line],
    hasher: Callable[[bool, bool], BodyHash],
    body: bytes | Sequence[bytes],
    now: float | None,
    dotted: bool,
) -> list[Unsigned]: ...
