# A connected plain socket in a hub, with the face of an asyncio.Transport.
#
# Owns      the socket, and what the kernel did not take yet: how much that may become is for the receiver to bound, who
#           is told when there is some (pause_writing) and when there is none (resume_writing).
# Promises  connection_lost() comes once, from the loop, never from within a call to the stream; until it has returned
#           get_write_buffer_size() says exactly how many bytes never left.
# Errors    whatever ends the connection goes to connection_lost(), as asyncio's transports have it.
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno

import os
import socket

from bulkmail.net.gather cimport gather
from bulkmail.net.hub cimport BM_IN, BM_OUT, READ_SIZE, bm_receive

cdef enum:
    HIGH = 65536            # of asyncio's transports, for a receiver that sets no limits


cdef class Receiver:
    """A protocol (asyncio.Protocol) that may be handed what was read where it lies."""

    cdef int received(self, const unsigned char* data, Py_ssize_t size, double now) except -1:
        """data: not to be kept behind the call; now: the loop's time."""
        self.data_received(PyBytes_FromStringAndSize(<const char*>data, size))
        return 0


cdef class Stream(Watched):
    """Calls receiver.connection_made() when it is made; then the socket is its own.

    sock  connected and non-blocking
    """

    def __init__(self, Hub hub not None, sock not None, Receiver receiver not None):
        self._open(hub, sock, receiver)
        receiver.connection_made(self)

    cdef int _open(self, Hub hub, object sock, Receiver receiver) except -1:
        self.hub, self._sock, self._receiver = hub, sock, receiver
        self._high, self._low = HIGH, HIGH // 4
        self.fd = sock.fileno()
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reading = True
        return self._watch()

    def detach(self):
        """Out of the hub; returns the socket, whose owner is the caller. What is held must have been written."""
        sock, self._sock = self._sock, None
        self._over = self._closing = True
        self._held, self._unsent, self._receiver = None, 0, None
        self.hub.leave(self)
        return sock

    # -- what is asked of it

    def get_extra_info(self, name, default=None):
        if self._sock is None or name not in ("socket", "peername", "sockname"):
            return default
        if name == "socket":
            return self._sock
        try:
            return self._sock.getpeername() if name == "peername" else self._sock.getsockname()
        except OSError:
            return default

    def get_protocol(self):
        return self._receiver

    def set_protocol(self, Receiver protocol not None):
        self._receiver = protocol

    def is_closing(self):
        return self._closing

    # -- reading

    def is_reading(self):
        return self._reading and not self._closing

    def pause_reading(self):
        self._reading = False
        self._watch()

    def resume_reading(self):
        self._reading = not self._ended_in
        self._watch()

    cdef int _watch(self) except -1:
        if self._over:
            return self.hub.watch(self, 0)
        return self.hub.watch(self, (BM_IN if self._reading and not self._closing else 0)
                              | (BM_OUT if self._held is not None else 0))

    cdef int happened(self, unsigned int what, double now) except -1:
        if self.wanted & BM_IN and what & ~<unsigned int>BM_OUT:
            self._read(now)
        if self.wanted & BM_OUT and what & ~<unsigned int>BM_IN:
            self._write_on()
        return 0

    cdef int _read(self, double now) except -1:
        cdef Py_ssize_t size = bm_receive(self.fd, self.hub.buffer, READ_SIZE)
        if size < 0:
            return 0 if errno == EAGAIN or errno == EINTR else self._fail(errno)
        try:
            if size > 0:
                self._came(self.hub.buffer, size, now)
            else:
                self._on_eof()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fault(error)
        return 0

    cdef int _came(self, const unsigned char* data, Py_ssize_t size, double now) except -1:
        return self._receiver.received(data, size, now)

    cdef int _on_eof(self) except -1:
        self._reading, self._ended_in = False, True
        self._watch()
        if not self._receiver.eof_received():
            self.close()
        return 0

    # -- writing

    def write(self, data):
        self.send(data if type(data) is bytes else bytes(data))

    def writelines(self, pieces):
        self.send([piece if type(piece) is bytes else bytes(piece) for piece in pieces])

    cdef int send(self, object out) except -1:
        """Write bytes, or a list of bytes and of views of bytes, which is the stream's from now on."""
        cdef Py_ssize_t taken
        cdef int error
        if self._closing:
            self._refused += size_of(out)
            return 0
        if self._held is not None:
            self._held += [out] if type(out) is bytes else out
            self._unsent += size_of(out)
            return self._pause()
        rest = gather(self.fd, out, &taken, &error)
        if rest is None:
            return 0
        self._held, self._unsent = rest, size_of(rest)
        if error:
            return self._fail(error)
        self._watch()
        return self._pause()

    cdef int _write_on(self) except -1:
        cdef Py_ssize_t taken
        cdef int error
        self._held = gather(self.fd, self._held, &taken, &error)
        self._unsent -= taken
        if error:
            return self._fail(error)
        if self._paused and self._unsent <= self._low:
            self._paused = False
            try:
                self._receiver.resume_writing()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error_of_theirs:
                self._fault(error_of_theirs)
        if self._held is None and not self._over:
            self._watch()
            if self._closing:
                self._end(None)
        return 0

    cdef int _pause(self) except -1:
        if not self._paused and self._unsent > self._high:
            self._paused = True
            self._receiver.pause_writing()
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self):
        return self._low, self._high

    def get_write_buffer_size(self):
        return self._unsent + self._refused

    # -- the end

    def close(self):
        """What is held is written before; nothing more is read."""
        if not self._closing:
            self._closing = True
            if self._held is None:
                self._end(None)
            else:
                self._watch()

    def abort(self):
        self._end(None)

    cdef int _fail(self, int error) except -1:
        return self._end(OSError(error, os.strerror(error)))

    cdef int _fault(self, object error) except -1:
        """The receiver has raised what it should have seen to."""
        self.hub.loop.call_exception_handler({
            "message": "Fatal error: a call of the protocol failed", "exception": error, "transport": self,
            "protocol": self._receiver})
        return self._end(error)

    cdef int _end(self, object error) except -1:
        if self._over:
            return 0
        self._over = self._closing = True
        self._watch()
        self.hub.loop.call_soon(self._lost, error)
        return 0

    def _lost(self, error):
        if self._sock is None:
            return
        try:
            self._receiver.connection_lost(error)
        finally:
            self._drop()

    cdef _drop(self):
        if self._sock is not None:
            self.hub.leave(self)
            self._sock.close()
            self._sock = self._receiver = self._held = None
            self._unsent = 0


cdef Py_ssize_t size_of(object out) except -1:
    cdef Py_ssize_t total = 0
    if type(out) is bytes:
        return len(<bytes>out)
    for piece in <list>out:
        total += len(piece)
    return total
