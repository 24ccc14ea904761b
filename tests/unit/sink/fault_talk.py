"""Where each phase of a fault is: what a client says until then, and a client to say it."""

from __future__ import annotations

import asyncio

from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, SECONDS, Client

NO = "451 4.7.1 Try later"
AUTH = b"AUTH PLAIN AGFubgByaWdodA==\r\n"
END = b"x\r\n.\r\n"
OK = ["250 2.1.0 Ok", "250 2.1.5 Ok"]
CHUNK = b"BDAT 3 LAST\r\nx\r\n"

# What a client says before, what it says then, and the answer but for the fault.
PHASES = {
    "connect": (b"", b"", "220 "),
    "greeting": (b"", b"", "220 "),
    "ehlo": (b"", HELLO, "250-"),
    "starttls": (HELLO, b"STARTTLS\r\n", "220 "),
    "auth": (HELLO, AUTH, "235 "),
    "mail": (HELLO + AUTH, MAIL, "250 "),
    "rcpt": (HELLO + AUTH + MAIL, RCPT, "250 "),
    "data": (HELLO + AUTH + MAIL + RCPT, b"DATA\r\n", "354 "),
    "body": (HELLO + AUTH + ENVELOPE, END, "250 "),
    "quit": (HELLO, b"QUIT\r\n", "221 "),
}


class Raw(Client):
    """A client that does not wait for the greeting. `said`: a whole phase, up to the fault."""

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def reach(self, phase: str) -> None:
        before, then, _ = PHASES[phase]
        if phase not in ("connect", "greeting"):
            assert (await self.reply()).startswith("220 ")
        for line in before.splitlines(keepends=True):
            assert (await self.say(line))[0][:1] in "23"
        self.writer.write(then)

    async def all(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()
