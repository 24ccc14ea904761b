from bulkmail.wire.proxy_info import ProxyInfo

MAX_V2: int
MAX_UNIQUE_ID: int

class ProxyReader:
    @property
    def info(self) -> ProxyInfo | None: ...
    @property
    def error(self) -> str | None: ...
    def feed(self, data: bytes) -> int: ...
