# What a server's codec holds between calls: a piece of a command line, replies to send, events to hand over.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

# RFC 4954 section 4: what AUTH may need. The longest line of all, so no more than this is ever held.
MAX_LINE = 12288

cdef Py_ssize_t _MAX_LINE = MAX_LINE

cdef enum:
    LINE_ROOM = 128      # first sizes; both grow by doubling
    OUT_ROOM = 256       # a reply buffer that grew is given back after use


cdef unsigned char* grow(unsigned char* p, Py_ssize_t* room, Py_ssize_t wanted, Py_ssize_t first) except NULL:
    cdef Py_ssize_t size = room[0] or first
    if wanted <= room[0]:
        return p
    while size < wanted:
        size *= 2
    p = <unsigned char*> realloc(p, size)
    if p == NULL:
        raise MemoryError
    room[0] = size
    return p


cdef class ServerBuffers:
    def __dealloc__(self):
        free(self.line)
        free(self._out)

    def output(self):
        """The bytes to send, each once; b"" if there are none."""
        if self._out_len == 0:
            return b""
        out = PyBytes_FromStringAndSize(<char*> self._out, self._out_len)
        self._out_len = 0
        if self._out_room > OUT_ROOM:
            free(self._out)
            self._out = NULL
            self._out_room = 0
        return out

    cdef int put(self, bytes reply) except -1:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(reply)
        self._out = grow(self._out, &self._out_room, self._out_len + n, OUT_ROOM)
        memcpy(self._out + self._out_len, PyBytes_AS_STRING(reply), n)
        self._out_len += n
        return 0

    cdef int hold(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Keep the next piece of a line. Of one that is too long the beginning is kept, and `line_too_long` says so."""
        if self.line_too_long:
            return 0
        if self.line_len + n > _MAX_LINE:
            self.line_too_long = True
            n = _MAX_LINE - self.line_len
        self.line = grow(self.line, &self._line_room, self.line_len + n, LINE_ROOM)
        memcpy(self.line + self.line_len, p, n)
        self.line_len += n
        return 0

    cdef int forget_line(self) except -1:
        free(self.line)
        self.line = NULL
        self.line_len = self._line_room = 0
        self.line_too_long = False
        return 0

    cdef int emit(self, tuple event) except -1:
        if self._events is None:
            self._events = []
        self._events.append(event)
        return 0

    cdef object take_events(self):
        events = self._events
        if events is None:
            return ()
        self._events = None
        return events
