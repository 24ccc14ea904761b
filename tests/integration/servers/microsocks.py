"""microsocks: SOCKS5 and nothing else, with and without a password; one thread a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import HOST, free_port, require
from .proxy import PASSWORD, USER, Proxy, running, wrapped


@contextmanager
def microsocks(folder: Path, *, login: bool = False, host: str = HOST, port: int | None = None) -> Iterator[Proxy]:
    """port: a free one, unless it is to come back where it was. folder: an empty or new one."""
    program = require("microsocks")
    folder.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(), folder / "microsocks.log"
    command = [program, "-i", host, "-p", str(port), *(["-u", USER, "-P", PASSWORD] if login else [])]
    with running(command, port, log, host=host, environment=wrapped(folder)) as pid:
        yield Proxy(port, log, pid, host, PASSWORD if login else None)
