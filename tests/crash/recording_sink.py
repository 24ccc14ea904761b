"""A server that knows nothing of bulkmail and writes down who got a message, before its 250: the truth of a crash test.

`python recording_sink.py LOG` prints its port; a line of LOG is the recipients of one message.
"""

from __future__ import annotations

import asyncio
import os
import sys

END = b"\r\n.\r\n"
EHLO = b"250-sink.example.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class Recorder(asyncio.Protocol):
    def __init__(self, log: int) -> None:
        self.log = log
        self.buffer = bytearray()
        self.rcpts: list[bytes] | None = None  # of the message that is being received
        self.envelope: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(b"220 sink.example.test ESMTP\r\n")  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        replies: list[bytes] = []
        taken: list[bytes] = []
        while self._step(replies, taken):
            pass
        if taken:
            os.write(self.log, b"".join(taken))
        self.transport.write(b"".join(replies))  # type: ignore[attr-defined]

    def _step(self, replies: list[bytes], taken: list[bytes]) -> bool:
        """One command or one message of the buffer; False if there is none whole."""
        if self.rcpts is not None:
            end = self.buffer.find(END)
            if end < 0:
                return False
            del self.buffer[: end + len(END)]
            taken.append(b" ".join(self.rcpts) + b"\n")
            self.rcpts = None
            replies.append(b"250 2.0.0 taken\r\n")
            return True
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        replies.append(self._command(line))
        return True

    def _command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self.envelope = []
        elif verb == b"RCPT":
            self.envelope.append(line[line.index(b"<") + 1 : line.rindex(b">")])
        elif verb == b"DATA":
            self.rcpts, self.envelope = self.envelope, []
            return b"354 go on\r\n"
        return {b"EHLO": EHLO, b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n")


async def main(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(log), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
