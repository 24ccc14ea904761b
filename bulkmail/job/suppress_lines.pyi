from bulkmail.job.seen import AddressSet

class LineTaker:
    addresses: AddressSet
    digests: AddressSet
    kinds: set[int]
    line: int
    def __init__(self) -> None: ...
    def take(self, data: bytes, pos: int, final: bool, odd: list[tuple[int, bytes]]) -> int: ...
