from collections.abc import Callable
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.message.reference import RenderedMessage

KINDS: dict[str, int]

def encoded_words(text: bytes, col: int) -> tuple[bytes, int]: ...
def encode_text(text: bytes, html: bool = False) -> bytes: ...
def make_message_id(job: str, number: int, address: str, domain: str) -> str: ...

class Compiled:
    @property
    def shared(self) -> bool: ...
    @property
    def fields(self) -> frozenset[str]: ...
    @property
    def header_fields(self) -> frozenset[str]: ...
    @property
    def names(self) -> frozenset[str]: ...
    @property
    def domain(self) -> str: ...
    @property
    def places(self) -> dict[str, str]: ...
    def __init__(
        self,
        *,
        fields: list[Any],
        sender: Any,
        check_sender: Callable[[str], bytes],
        job: str,
        domain: str,
        base: dict[str, Any],
        row_class: Callable[[dict[str, Any]], Any],
        reference: Any,
        shared_body: Callable[[bytes, bytes], bytes] | None,
        own_id: str | None,
        required: frozenset[str],
        header_fields: frozenset[str],
        names: frozenset[str],
        places: dict[str, str],
    ) -> None: ...
    def compose(
        self, rows: list[dict[str, Any]], numbers: list[int], date: bytes
    ) -> list[tuple[bytes, bytes, bytes] | MessageError]: ...
    def compose_shared(self, date: bytes) -> tuple[bytes, bytes]: ...
    def render(self, row: dict[str, Any], number: int, date: bytes) -> RenderedMessage: ...
    def preview(self, row: dict[str, Any], number: int, date: bytes) -> RenderedMessage: ...
    def message_id(self, number: int, address: str) -> str: ...
