# TLS over a socket in a hub, with the face of an asyncio.Transport.
#
# Owns      what a Stream owns, the TLS object and its two buffers.
# Promises  the receiver hears of the connection once the handshake is done (connection_made), and of nothing if it never
#           is; get_write_buffer_size() says how many of its bytes surely never left: a record counts as a whole, since
#           nobody can read a part of one.
# Errors    of the handshake: to `shaken`; of later ones: to connection_lost(). The end of TLS (close_notify) and that of
#           the connection without one are the same to the receiver, as with asyncio's TLS: SMTP has an end of its own.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.bytearray cimport PyByteArray_AS_STRING

import ssl

from bulkmail.net.stream cimport size_of

cdef enum:
    RECORD = 16384          # the most that one record holds, and so one read gives (RFC 8446 section 5.1)
    JOINED = 262144         # pieces up to so many bytes are copied into one: each write is a record of its own
    HEADER = 5              # bytes before each record, of which the last two are its size
    AT_ONCE = 65536         # bytes that TLS is given at a time: the buffer behind it never shrinks again

# What a read asks for, as the object that each call wants.
cdef object WHOLE_RECORD = RECORD


async def shake_hands(hub, sock, receiver, context, server_hostname):
    """A TlsStream after its handshake. Whoever calls sets the deadline; on failure the socket is closed.

    Raises ssl.SSLError, OSError.
    """
    try:
        stream = TlsStream(hub, sock, receiver, context, server_hostname)
    except BaseException:
        sock.close()
        raise
    try:
        await stream.shaken
    except BaseException:
        stream.abort()
        raise
    return stream


cdef class TlsStream(Stream):
    """See shake_hands()."""

    def __init__(self, hub, sock, receiver, context, server_hostname):
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._give, self._take = self._incoming.write, self._outgoing.read
        # The SSLObject's own methods do nothing but call these: a Python frame each, three a message.
        inner = getattr(self._tls, "_sslobj", self._tls)
        self._get, self._put, self._pending = inner.read, inner.write, inner.pending
        self._marks = []
        self.shaken = hub.loop.create_future()
        self._open(hub, sock, receiver)
        self._shake()

    def get_extra_info(self, name, default=None):
        return self._tls if name == "ssl_object" else Stream.get_extra_info(self, name, default)

    def detach(self):
        raise RuntimeError("TLS cannot be taken off a connection")

    # -- the handshake

    cdef int _shake(self) except -1:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._pass_on()
            return 0
        except OSError as error:        # ssl.SSLError is one, and so is a certificate that is not valid
            self._pass_on()            # the alert that tells the other side why
            self._end(error)
            return 0
        self._pass_on()
        self._made = True
        self._receiver.connection_made(self)
        if not self.shaken.done():
            self.shaken.set_result(None)
        return 0

    def _lost(self, error):
        if self._made:
            Stream._lost(self, error)
            return
        self._drop()
        if not self.shaken.done():
            self.shaken.set_exception(error if error is not None else ConnectionResetError("the connection was lost"))
            self.shaken.exception()     # nobody may be waiting any more

    # -- reading

    cdef int _came(self, const unsigned char* data, Py_ssize_t size, double now) except -1:
        cdef bint alone = self._between and size >= HEADER and HEADER + (data[3] << 8 | data[4]) == size
        self._give(PyBytes_FromStringAndSize(<const char*>data, size))
        if not self._made:
            self._shake()
        return self._decrypt(now, alone) if self._made else 0

    cdef int _decrypt(self, double now, bint alone=False) except -1:
        """alone: there is one record to read. Once it has given data, there is no more, and nothing to be answered."""
        cdef Py_ssize_t size
        cdef bint more = True
        self._between = False
        cdef bytearray plain = self.hub.plain
        if plain is None:
            plain = self.hub.plain = bytearray(RECORD)
        while more and self._reading and not self._closing:
            try:
                size = self._get(WHOLE_RECORD, plain)
            except ssl.SSLWantReadError:
                break                   # not a whole record yet
            except ssl.SSLZeroReturnError:
                size = 0
            except OSError as error:
                self._pass_on()
                self._end(error)
                return 0
            if size == 0:
                Stream._on_eof(self)
                break
            self._receiver.received(<const unsigned char*>PyByteArray_AS_STRING(plain), size, now)
            if alone and self._backlog is None:
                self._between = True
                return 0
            # asked, since reading until there is no more costs an exception each time
            more = self._incoming.pending or self._pending()
            self._between = not more
        if self._over:
            return 0
        backlog, self._backlog = self._backlog, None
        for data in backlog or ():
            self._encrypt(data)
        return self._pass_on()         # TLS may have something to say of its own: a new key, an answer to one

    cdef int _on_eof(self) except -1:
        if not self._made:
            return self._end(ConnectionResetError("the connection was lost"))
        self._decrypt(self.hub.loop.time())     # what came while reading was paused
        return 0 if self._over or self._ended_in else Stream._on_eof(self)

    def resume_reading(self):
        Stream.resume_reading(self)
        self.hub.loop.call_soon(self._read_on)

    def _read_on(self):
        """What was read and not decrypted while reading was paused is in no socket, so nobody else would call."""
        if self._made and not self._over:
            self._decrypt(self.hub.loop.time())

    # -- writing

    cdef int send(self, object out) except -1:
        cdef list some = []
        cdef Py_ssize_t size = 0
        if self._closing:
            self._refused += size_of(out)
            return 0
        if type(out) is bytes:
            return self._encrypt(out)
        if size_of(out) <= JOINED:
            return self._encrypt(b"".join(<list>out))
        for piece in <list>out:
            if size and size + len(piece) > JOINED:
                self._encrypt(b"".join(some))
                some, size = [], 0
            some.append(piece)
            size += len(piece)
        return self._encrypt(b"".join(some))

    cdef int _encrypt(self, bytes data) except -1:
        cdef Py_ssize_t taken = 0, total = len(data)
        cdef list records = []
        if self._over or not total:
            return 0
        if self._backlog is not None:
            self._backlog.append(data)
            return 0
        try:
            if total <= AT_ONCE:
                taken = self._put(data)
            while taken < total:
                taken += self._put(memoryview(data)[taken:taken + AT_ONCE])
                records.append(self._take())
        except ssl.SSLWantReadError:
            self._backlog = [data[taken:]]
        except OSError as error:
            return self._end(error)
        return self._pass_on(taken, records)

    cdef int _pass_on(self, Py_ssize_t plain=0, list records=None) except -1:
        """Write what TLS has made of `plain` bytes: `records`, and what is still in its buffer."""
        cdef object wire
        cdef Py_ssize_t size
        if self._closing:
            self._refused += plain
            return 0
        wire = self._take()
        if records:
            records.append(wire)
            wire = records
        size = size_of(wire)
        if not size:
            return 0
        if self._unsent == 0:
            self._wire, self._plain = size, plain
            if self._marks:
                self._marks.clear()
        else:
            self._marks.append((size, plain))
        return Stream.send(self, wire)

    def get_write_buffer_size(self):
        cdef Py_ssize_t wire, plain, left = self._unsent
        cdef Py_ssize_t total = self._refused + (sum(map(len, self._backlog)) if self._backlog is not None else 0)
        for wire, plain in reversed([(self._wire, self._plain), *self._marks]):
            if left <= 0:
                break
            total += plain if left >= wire else max(0, plain - (wire - left))
            left -= wire
        return total

    # -- the end

    def close(self):
        if not self._closing and self._made:
            try:
                self._tls.unwrap()      # close_notify; theirs is not waited for
            except OSError:
                pass
            self._pass_on()
        Stream.close(self)
