MAX_LINE: int

class ServerBuffers:
    def output(self) -> bytes: ...
