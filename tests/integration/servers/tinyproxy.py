"""tinyproxy: CONNECT, with and without a login; it closes a connection that it refuses with a page of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import HOST, free_port, require
from .proxy import PLAIN_PASSWORD, USER, Proxy, running, wrapped

CONFIG = """
Port {port}
Listen {host}
Allow 127.0.0.1
Allow ::1
MaxClients 100
Timeout 60
LogLevel Info
"""


@contextmanager
def tinyproxy(folder: Path, *more: str, login: bool = False, host: str = HOST) -> Iterator[Proxy]:
    """more: further lines of its configuration. folder: an empty or new one."""
    program = require("tinyproxy")
    folder.mkdir(parents=True, exist_ok=True)
    port, config, log = free_port(), folder / "tinyproxy.conf", folder / "tinyproxy.log"
    lines = [*more, *([f"BasicAuth {USER} {PLAIN_PASSWORD}"] if login else [])]
    config.write_text(CONFIG.format(port=port, host=host) + "".join(f"{line}\n" for line in lines))
    command = [program, "-d", "-c", str(config)]
    with running(command, port, log, host=host, environment=wrapped(folder)) as pid:
        yield Proxy(port, log, pid, host, PLAIN_PASSWORD if login else None)
