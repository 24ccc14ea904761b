"""A server that knows nothing of bulkmail and writes down who got a message, before its 250: the truth of a crash test.

`python recording_sink.py LOG [SEED]` prints its port; a line of LOG is the recipients of one message. With a seed it
does, now and then, what servers do on a bad day (FAULTS).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

# command -> what may happen to it, each once in FAULT_EVERY; b"": hangs up; "taken": takes the message, then hangs up
FAULTS = {
    b"MAIL": [b"421 4.3.2 closing\r\n", b"451 4.3.0 later\r\n", b""],
    b"RCPT": [b"450 4.2.1 later\r\n", b"550 5.1.1 unknown\r\n", b"421 4.3.2 closing\r\n", b""],
    b"DATA": [b"452 4.3.1 no room\r\n", b"554 5.7.1 no\r\n", b""],
    b".": [b"451 4.3.0 later\r\n", b"554 5.6.0 no\r\n", b"421 4.3.2 closing\r\n", b"", "taken"],
}
FAULT_EVERY = 300

END = b"\r\n.\r\n"
EHLO = b"250-sink.example.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class Recorder(asyncio.Protocol):
    def __init__(self, log: int, chance: random.Random | None) -> None:
        self.log, self.chance = log, chance
        self.buffer = bytearray()
        self.rcpts: list[bytes] | None = None  # of the message that is being received
        self.envelope: list[bytes] = []
        self.mail = False  # a transaction is open

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
        if replies and (not replies[-1] or replies[-1].startswith(b"421")):
            self.transport.close()

    def _fault(self, what: bytes) -> bytes | str | None:
        faults = FAULTS.get(what)
        if self.chance is None or faults is None or self.chance.randrange(FAULT_EVERY) >= len(faults):
            return None
        return self.chance.choice(faults)

    def _step(self, replies: list[bytes], taken: list[bytes]) -> bool:
        """One command or one message of the buffer; False if there is none whole."""
        if self.rcpts is not None:
            end = self.buffer.find(END)
            if end < 0:
                return False
            del self.buffer[: end + len(END)]
            fault = self._fault(b".")
            if fault is None or fault == "taken":
                taken.append(b" ".join(self.rcpts) + b"\n")
            self.rcpts = None
            return self._say(replies, b"250 2.0.0 taken\r\n" if fault is None else fault)
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return self._say(replies, self._command(line))

    @staticmethod
    def _say(replies: list[bytes], reply: bytes | str) -> bool:
        """Whether the dialogue goes on."""
        replies.append(reply if isinstance(reply, bytes) else b"")
        return bool(replies[-1]) and not replies[-1].startswith(b"421")

    def _command(self, line: bytes) -> bytes | str:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self.envelope, self.mail = [], True
        if verb in (b"RCPT", b"DATA") and (not self.mail or (verb == b"DATA" and not self.envelope)):
            return b"503 5.5.1 bad sequence\r\n"
        fault = self._fault(verb)
        if fault is not None:
            self.mail = self.mail and verb == b"RCPT"
            return fault
        if verb == b"RCPT":
            self.envelope.append(line[line.index(b"<") + 1 : line.rindex(b">")])
        elif verb == b"DATA":
            self.rcpts, self.envelope, self.mail = self.envelope, [], False
            return b"354 go on\r\n"
        return {b"EHLO": EHLO, b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n")


async def main(path: str, seed: str = "") -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    chance = random.Random(int(seed)) if seed else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Recorder(log, chance), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
