"""Access tokens from a program (option `token_command`): what it prints is the token. No shell is involved."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from bulkmail.errors import AuthError
from bulkmail.smtp.auth.mechanism import MAX_WORDS, readable

MAX_OUTPUT = 16384  # bytes: no token is as long, and a program that prints for ever does not fill the memory
READ_SIZE = 4096
REAP_SECONDS = 5.0  # a killed program is gone by then, or waits for hardware that will never answer

# What a program complains of may hold a token or a key; words, paths and URLs have no stretch as long as this.
_key_like = re.compile(r"[A-Za-z0-9_.~+=-]{28,}")


class TokenCommand:
    """argv: program and arguments. Only the program's name is ever shown: arguments may be secrets."""

    renewable, caches = True, True

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)
        self.name = f"token_command {os.path.basename(self._argv[0])}"

    async def fetch(self, renew: bool) -> tuple[str, float | None]:
        process = await self._start()
        try:
            said, complained = await asyncio.gather(
                _read(process.stdout, MAX_OUTPUT, lambda: _kill(process)), _read(process.stderr, 4 * MAX_WORDS)
            )
            status = await process.wait()
        finally:
            await _end(process)
        if len(said) > MAX_OUTPUT:
            raise AuthError(f"{self.name} printed more than {MAX_OUTPUT} bytes, expected a token", permanent=True)
        if status != 0:
            raise AuthError(f"{self.name} failed ({_status(status)}){_complaint(complained)}")
        return self._token(said, complained), None

    async def _start(self) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
        except OSError as error:
            raise AuthError(f"{self.name} cannot be run: {error.strerror}", permanent=True) from None
        except ValueError:
            raise AuthError(
                f"{self.name} cannot be run: an argument that no program can be given", permanent=True
            ) from None

    def _token(self, said: bytes, complained: bytes) -> str:
        token = said.decode("ascii", "replace").strip()
        if not token:
            raise AuthError(f"{self.name} printed nothing, expected a token{_complaint(complained)}")
        if len(token.split()) > 1:
            raise AuthError(
                f"{self.name} printed more than one word, expected a token and nothing else", permanent=True
            )
        return token


async def _read(stream: asyncio.StreamReader | None, limit: int, too_much: Callable[[], None] = lambda: None) -> bytes:
    """All that is said, of which `limit` bytes and one more are kept."""
    assert stream is not None
    kept = bytearray()
    while piece := await stream.read(READ_SIZE):
        kept += piece
        if len(kept) > limit:
            del kept[limit + 1 :]
            too_much()
    return bytes(kept)


def _kill(process: Process) -> None:
    """The program and what it started: its children would keep its output open."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        elif process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    try:
        if process.returncode is None:
            _kill(process)
            with suppress(TimeoutError):
                async with asyncio.timeout(REAP_SECONDS):
                    await process.wait()
    finally:
        # what was not read of its output would keep the pipes open until the loop is gone, and then complain
        process._transport.close()  # type: ignore[attr-defined]  # there is no other way


def _status(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"ended by signal {-status}"


def _complaint(said: bytes) -> str:
    text = _key_like.sub("***", readable(said))
    return f": {text}" if text else ""
