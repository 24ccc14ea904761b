"""Faults on command: every phase with every action, combined, pipelined, in TLS, LMTP and chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Server
from bulkmail.sink.faulty import FaultyConnection
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, SECONDS, Client, until

Run = Callable[[Any], Any]
NO = "451 4.7.1 Try later"
AUTH = b"AUTH PLAIN AGFubgByaWdodA==\r\n"
END = b"x\r\n.\r\n"
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
every_phase = pytest.mark.parametrize("phase", PHASES)


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


@pytest.fixture(scope="session")
def cert(certificates: Any) -> Path:
    return Path(certificates.chain_file)


def faulty(*rules: str, hooks: object = None, **options: Any) -> Server:
    return Server(hooks, fault=rules, auth="ann:right", **options)


def deaf(server: Server) -> bool:
    """Whether its only connection hangs."""
    return any(isinstance(one, FaultyConnection) and one._deaf for one in server.connections)


# --- every action at every phase


@every_phase
def test_a_reply_is_said_word_for_word(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:{NO}", tls_cert=cert) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.reply() == NO
            if phase in ("connect", "greeting"):
                assert await client.all() == b""
            else:
                assert await client.codes(b"NOOP\r\n") == [250]
            assert server.messages == []
            assert server.counts["refused"] == 1

    run(main())


@every_phase
def test_a_421_closes_too(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:421 Gone", tls_cert=cert) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.all() == b"421 Gone\r\n"

    run(main())


@every_phase
def test_drop_ends_the_connection_in_order_and_without_a_word(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:drop", tls_cert=cert) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.all() == b""  # a RST would be a ConnectionResetError
            assert server.messages == []

    run(main())


@every_phase
def test_reset_is_a_rst(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:reset", tls_cert=cert) as server, Raw(server) as client:
            with pytest.raises(ConnectionResetError):
                await client.reach(phase)
                await client.all()
            assert server.messages == []

    run(main())


@every_phase
def test_hang_says_nothing_until_the_client_goes(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:hang", tls_cert=cert) as server:
            async with Raw(server) as client:
                await client.reach(phase)
                await until(lambda: deaf(server))
                server.sweep()
                server.sweep()  # silence is what it is for
                client.writer.write(b"NOOP\r\n" * 100_000)
                await client.writer.drain()  # what it says is read and forgotten
                client.writer.write_eof()
                assert await client.all() == b""
            await until(lambda: not server.connections)
            assert server.messages == []

    run(main())


@every_phase
def test_hang_ends_when_the_server_stops(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        server = faulty(f"{phase}:hang", tls_cert=cert)
        await server.start()
        async with Raw(server) as client:
            await client.reach(phase)
            await until(lambda: deaf(server))
            await server.stop()
            assert await client.all() == b""
            assert not server.connections

    run(main())


@every_phase
def test_a_delay_is_the_usual_answer_later(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:delay=80ms", tls_cert=cert) as server, Raw(server) as client:
            before = asyncio.get_running_loop().time()
            await client.reach(phase)
            assert (await client.reply()).startswith(PHASES[phase][2])
            assert asyncio.get_running_loop().time() - before > 0.075

    run(main())


@every_phase
def test_a_drip_is_the_usual_answer_slowly(run: Run, phase: str, cert: Path) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:drip=500/s", tls_cert=cert) as server, Raw(server) as client:
            await client.reach(phase)
            before, pieces = asyncio.get_running_loop().time(), []
            while not b"".join(pieces).rpartition(b"\n")[0].rpartition(b"\n")[2][3:4] == b" ":
                pieces.append(await client.reader.read(4096))
            reply = b"".join(pieces)
            assert reply.startswith(PHASES[phase][2].encode())
            assert reply.endswith(b"\r\n")
            assert len(pieces) >= len(reply) / 5 / 4  # five bytes a piece; a slow machine may join some
            assert asyncio.get_running_loop().time() - before > (len(reply) - 10) / 500
            if phase not in ("starttls", "data", "quit"):
                assert (await client.say(b"RSET\r\n"))[0][:3] in ("250", "503")

    run(main())
