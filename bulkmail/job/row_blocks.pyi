from typing import Final

HAVE_PREAD: Final[bool]

class Blocks: ...

class RowWindow:
    def __init__(self, fd: int, size: int, mtime_ns: int, blocks: Blocks) -> None: ...
