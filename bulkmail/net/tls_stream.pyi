import asyncio
import socket
import ssl

from bulkmail.net.hub import Hub
from bulkmail.net.stream import Receiver, Stream

class TlsStream(Stream):
    shaken: asyncio.Future[None]

async def shake_hands(
    hub: Hub, sock: socket.socket, receiver: Receiver, context: ssl.SSLContext, server_hostname: str | None
) -> TlsStream: ...
