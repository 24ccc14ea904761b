"""A relay's line as a plain socket, which is what a test talks through."""

from __future__ import annotations

import socket

from bulkmail.net.bridge import plain_socket
from bulkmail.net.dial import reach
from bulkmail.net.steps import OnStep, unwatched
from bulkmail.url import Options


async def dial(host: str, port: int, *, options: Options, on_step: OnStep = unwatched) -> socket.socket:
    return await plain_socket(await reach(host, port, options=options, on_step=on_step))
