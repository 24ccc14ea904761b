"""A process that signs: digests come in on its standard input, a socket, and signatures go back the same way.

First come the keys: how many, then each with its size, as `Key.der`. The answer is READY. From then on requests:
which key, how many digests, the digests; and for each request, in order, its signatures one after the other. The sizes
of both follow from the keys. The end of the stream is the end of the process.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
from collections.abc import Callable
from typing import BinaryIO

from bulkmail.message.dkim_keys import DIGEST, load_der

COUNT = struct.Struct("<I")
REQUEST = struct.Struct("<HH")
READY = b"R"


def main() -> None:
    # Ctrl-C and a supervisor's SIGTERM may reach every process of a job; who sends us work still finishes some of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = socket.socket(fileno=0)
    # raised when who sent us work is gone
    with line, line.makefile("rb") as incoming, contextlib.suppress(OSError, struct.error):
        serve(incoming, line.sendall)


def serve(incoming: BinaryIO, send: Callable[[bytes], object]) -> None:
    signers = []
    for _ in range(COUNT.unpack(incoming.read(COUNT.size))[0]):
        signers.append(load_der(incoming.read(COUNT.unpack(incoming.read(COUNT.size))[0])).sign)
    send(READY)
    while head := incoming.read(REQUEST.size):
        place, count = REQUEST.unpack(head)
        data, sign = incoming.read(count * DIGEST), signers[place]
        send(b"".join([sign(data[at : at + DIGEST]) for at in range(0, len(data), DIGEST)]))


if __name__ == "__main__":
    main()
