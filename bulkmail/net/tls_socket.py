"""A transport over an `ssl.SSLSocket` that others connected and shook hands on: event loops take plain sockets only."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any

from bulkmail.errors import ConfigError

READ_SIZE = 64 * 1024  # the most that one read takes: four TLS records


class TlsSocketTransport(asyncio.Transport):
    """Calls the protocol as the loop's own transports do. The socket is made non-blocking and closed at the end.

    The write buffer has a high-water mark of 0: pause_writing() and resume_writing() say whether it holds bytes.
    raises  ConfigError  on a loop that cannot watch sockets (Windows' default one), or a socket that is closed
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: ssl.SSLSocket, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._sock, self._protocol = loop, sock, protocol
        self._out: deque[memoryview] = deque()
        self._ended = self._watching = self._reading = False
        self._peer = _peer_of(sock)
        sock.setblocking(False)
        protocol.connection_made(self)
        self.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"socket": self._sock, "ssl_object": self._sock, "peername": self._peer, "cipher": self._sock.cipher()}
        return known.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is not None and high > 1:
            raise ConfigError("the write buffer of a TLS socket has a high-water mark of 0")

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def get_write_buffer_size(self) -> int:
        return sum(len(piece) for piece in self._out)

    def is_closing(self) -> bool:
        return self._ended

    # -- reading

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume_reading(self) -> None:
        if self._reading or self._ended:
            return
        try:
            self._loop.add_reader(self._sock.fileno(), self._read)
        except (NotImplementedError, ValueError, OSError) as error:
            raise ConfigError(f"the given TLS socket cannot be watched by this event loop: {error}") from error
        self._reading = True
        # what the handshake's last read decrypted is in no kernel buffer, so nobody would call
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        while self._reading and not self._ended:
            try:
                data = self._sock.recv(READ_SIZE)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            if not data:
                self._protocol.eof_received()
                self._end(None)
                return
            self._protocol.data_received(data)

    # -- writing

    def write(self, data: Any) -> None:
        if self._ended or not data:
            return
        held = bool(self._out)
        self._out.append(memoryview(data).cast("B"))
        if not held:
            self._write()
            if self._out:
                self._protocol.pause_writing()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def _write(self) -> None:
        while self._out and not self._ended:
            try:
                sent = self._sock.send(self._out[0])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._end(error)
                return
            self._out[0] = self._out[0][sent:]
            if not self._out[0]:
                self._out.popleft()
        self._watch(bool(self._out))

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        elif self._watching and not wanted:
            self._loop.remove_writer(self._sock.fileno())
        self._watching = wanted

    def _on_writable(self) -> None:
        self._write()
        if not self._out and not self._ended:
            self._protocol.resume_writing()

    # -- the end

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self.pause_reading()
        self._watch(False)
        self._ended = True
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._out.clear()
            self._sock.close()


def _peer_of(sock: ssl.SSLSocket) -> Any:
    try:
        return sock.getpeername()
    except OSError as error:
        raise ConfigError(f"the given TLS socket is not connected: {error.strerror}") from error
