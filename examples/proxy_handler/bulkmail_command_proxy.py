"""command:// proxies: the relay is reached through a program, as by OpenSSH's ProxyCommand.

command:///usr/bin/ssh?-W&%h:%p&bastion.example.com  runs  ssh -W relay:25 bastion.example.com
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from urllib.parse import unquote

import bulkmail


async def reach(proxy: bulkmail.ProxyUrl, target: bulkmail.Target) -> socket.socket:
    """The socket that the program's standard input and output are the other end of.

    The program ends when the connection does: its input is at its end then.
    """
    command = arguments(proxy.path, proxy.query, target.host, target.port)
    ours, its = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=its, stdout=its)
    except BaseException:
        ours.close()
        raise
    finally:
        its.close()
    waiting.add(task := asyncio.ensure_future(process.wait()))  # so that it does not stay as a zombie
    task.add_done_callback(waiting.discard)
    return ours


waiting: set[asyncio.Future[int]] = set()


def arguments(path: str, query: str, host: str, port: int) -> list[str]:
    """The command line. ValueError: there is no program."""
    program = unquote(path)
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        raise ValueError(f"there is no program {program!r} that can be run")
    return [program, *(_filled(part, host, port) for part in query.split("&") if part)]


def _filled(part: str, host: str, port: int) -> str:
    """%h and %p, and percent-encoded characters."""
    values = {"%h": host, "%p": str(port)}
    return re.sub(r"%h|%p|(?:%[0-9A-Fa-f]{2})+", lambda found: values.get(found[0]) or unquote(found[0]), part)
