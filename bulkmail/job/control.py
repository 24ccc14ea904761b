"""A running job takes orders: one line of JSON each, on the socket beside its journal (docs/control.md).

Runs on the job's loop, apart from it: whatever a client sends or leaves out, the job goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from bulkmail.errors import ConfigError
from bulkmail.job import control_socket
from bulkmail.job.control_socket import MAX_LINE
from bulkmail.urlparts import listed, nearest, quoted

LOGGER = logging.getLogger("bulkmail.job")
REQUEST_SECONDS = 5.0  # until a client has sent its line, and again until it has taken the answer
MAX_CLIENTS = 16  # at a time; further ones are hung up on


class Steered(Protocol):
    """What can be done with a running job. Called on its loop; ConfigError: refused, and nothing was changed."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...

    def set(self, limits: dict[str, Any]) -> None: ...

    def reload(self) -> None: ...

    def standing(self) -> dict[str, Any]:
        """How it is: {"state", "limits"} at least."""

    def status(self) -> dict[str, Any]: ...


def obey(job: Steered, request: object) -> dict[str, Any]:
    """Do what a request says; the answer to it. ConfigError: what is wrong with it.

    {"do": "pause"}, "resume", "stop", "reload", {"do": "set", "limits": {"rate": "100/s"}}: {"before", "after"}, each
    as standing() has it. {"do": "status"}: the summary.
    """
    if not isinstance(request, dict):
        raise ConfigError(f"the request is {quoted(request)}, expected an object with 'do'")
    word, limits = request.get("do"), request.get("limits")
    if word == "status":
        return job.status()
    orders: dict[str, Callable[[], None]] = {
        "pause": job.pause,
        "resume": job.resume,
        "stop": job.stop,
        "reload": job.reload,
    }
    if word == "set":
        if not isinstance(limits, dict) or not limits:
            raise ConfigError('\'limits\' is missing, expected an object such as {"rate": "100/s"}')
        orders["set"] = lambda: job.set(limits)
    order = orders.get(word) if isinstance(word, str) else None
    if order is None:
        known = [*orders, *(["set"] if "set" not in orders else []), "status"]
        raise ConfigError(f"'do' is {quoted(word)}, expected {listed(known)}{nearest(str(word), known)}")
    before = job.standing()
    order()
    return {"before": before, "after": job.standing()}


class ControlServer:
    """The socket of a run. start() when the run holds its journal's lock, close() before it lets it go."""

    def __init__(self, job: Steered, journal: Any) -> None:
        self._job, self._journal = job, journal
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """A job that cannot have a socket (a file system without them) runs without, and says so in the log."""
        if not control_socket.SUPPORTED:
            return
        try:
            sock = control_socket.bind(self._journal)
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_LINE)
        except OSError as error:
            LOGGER.warning("the job cannot be steered while it runs: %s", error)

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        control_socket.remove(self._journal)
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS or not control_socket.may_steer(writer.get_extra_info("socket")):
            writer.transport.abort()
            return
        self._clients.add(task)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await _line_of(reader)
            writer.write(json.dumps(self._answer(line), default=str).encode() + b"\n")
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()
        except (OSError, TimeoutError):
            writer.transport.abort()  # it left, or does not say or hear anything: its loss
        finally:
            self._clients.discard(task)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    def _answer(self, line: bytes | None) -> dict[str, Any]:
        try:
            if line is None:
                raise ConfigError(f"the request is longer than {MAX_LINE} bytes")
            return obey(self._job, _parsed(line))
        except ConfigError as error:
            return {"error": str(error)}
        except Exception as error:
            LOGGER.exception("an order could not be followed")
            return {"error": f"an error of bulkmail itself: {type(error).__name__}: {error}"}


async def _line_of(reader: asyncio.StreamReader) -> bytes | None:
    """What came up to the line's end or the client's; None if it is too long."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as cut:
        return cut.partial
    except asyncio.LimitOverrunError:
        return None


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the request is no JSON: {error}") from None
