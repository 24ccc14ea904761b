"""What a client's host is called, as far as DNS can be believed."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

# For both questions. The client waits for its greeting meanwhile, which RFC 5321 section 4.5.3.2.1 lets it do for five
# minutes; a resolver that needs longer than this has no answer.
LOOKUP_SECONDS: Final = 5.0


async def hostname_of(address: str) -> str | None:
    """The name of the host at `address`, if that name has this address, too: whoever owns an address names it at will.

    None without such a name, and where DNS does not answer in time. RFC 8499, "forward-confirmed reverse DNS".
    """
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            name = await getnameinfo(address)
            return name if address in await getaddrinfo(name) else None
    except (OSError, UnicodeError):  # a TimeoutError is an OSError; UnicodeError: a name that cannot be one
        return None


async def getnameinfo(address: str) -> str:
    return (await asyncio.get_running_loop().getnameinfo((address, 0), socket.NI_NAMEREQD))[0]


async def getaddrinfo(name: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]
