from typing import Final

from bulkmail.errors import MessageError
from bulkmail.job.row_blocks import RowWindow
from bulkmail.job.seeds import Rows
from bulkmail.job.settle import Work
from bulkmail.message.compiled import Compiled
from bulkmail.wire.transaction import Transaction

MAX_SLOTS: Final[int]

class Addresses:
    def __init__(self, source: Rows, window: RowWindow) -> None: ...
    def read(self, work: Work, places: list[int]) -> list[bytes]: ...

class Personal:
    def __init__(self, compiled: Compiled, source: Rows, window: RowWindow) -> None: ...
    def make(
        self, work: Work, places: list[int], date: bytes
    ) -> tuple[list[Transaction], list[tuple[int, str, MessageError]]]: ...
