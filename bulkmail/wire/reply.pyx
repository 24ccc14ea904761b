# SMTP replies: bytes in, `Reply` objects out. No sockets, no clock, no logging.
# RFC 5321 section 4.2 (grammar); RFC 3463 and 2034 (enhanced codes, kept as text). The scan is C: csrc/reply.h.
#
# Owns      the unread tail of the stream, at most BM_REPLY_MAX bytes and one chunk; what comes is read where it lies.
# Promises  each byte is scanned once; neither replies nor errors depend on how the
#           stream was cut into chunks (tests/fuzz cuts everywhere).
# Errors    ProtocolError; the reader is then dead, since a stream that lost its
#           framing cannot pair replies with commands.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import re

from bulkmail.errors import ProtocolError

ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
# Never shown: a reply reaches terminals and logs, and C1 controls, U+2028 and U+2029 act there too.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
MAX_LINE_SHOWN = 80


@cython.freelist(64)
cdef class Reply:
    """A server's answer to one command.

    code      the three digits, an int from 200 to 599
    enhanced  the enhanced status code such as "5.7.1" (RFC 3463) that opens the first line, or None
    lines     the text of each line, without code and line end; undecodable and control bytes replaced

    Whether it is a refusal, and for good, is told by `code` alone: servers send "421 5.7.32" and "250 5.1.1", and
    `enhanced` is what they sent. Of a reply above 4 KiB the rest is dropped, and the last of `lines` says how much.
    """

    def __init__(self, int code, lines=()):
        self.code = code
        self._lines = (lines,) if isinstance(lines, str) else tuple(lines)

    @property
    def lines(self):
        if self._lines is None:
            text = self._raw.decode("utf-8", "replace").removesuffix("\n").split("\n")
            shown = [CONTROL.sub("?", line.rstrip("\r")[4:]) for line in text]
            if self._dropped:
                shown.append(f"[{self._dropped} bytes more]")
            self._lines = tuple(shown)
        return self._lines

    @property
    def enhanced(self):
        lines = self.lines
        match = ENHANCED.match(lines[0]) if lines else None
        return match[1] if match else None

    @property
    def text(self):
        """All lines as one, joined with a space."""
        return " ".join(self.lines)

    def __str__(self):
        return f"{self.code} {self.text}".rstrip()

    def __repr__(self):
        return f"Reply({self.code}, {self.lines!r})"

    def __eq__(self, other):
        return isinstance(other, Reply) and self.code == other.code and self.lines == other.lines

    def __hash__(self):
        return hash((self.code, self.lines))

    def __reduce__(self):
        return Reply, (self.code, self.lines)


@cython.final
cdef class ReplyReader:
    """Cuts a stream into replies. `replies(data)` is the whole face of it for Python; C code calls begin(), next_reply()
    as long as it finds one, and keep()."""

    def replies(self, bytes data not None):
        """The replies that `data` completes, oldest first. Raises ProtocolError; then the stream cannot be read on."""
        found = []
        self.begin(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        try:
            while self.next_reply():
                found.append(self.take())
        finally:
            self.keep()
        return found

    @property
    def unread(self):
        """How many bytes are held that no complete reply covers."""
        return self.pending()

    cdef Py_ssize_t pending(self):
        return self._size - <Py_ssize_t>self._scan.end

    cdef int begin(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Read on with `data`, which stays as it is until keep()."""
        if self._size == 0:
            self._data, self._size = data, size
        else:
            self._hold(self._tail + data[:size])
        return 0

    cdef int keep(self) except -1:
        """The bytes of no complete reply are kept, nothing else is."""
        cdef Py_ssize_t size = self.pending()
        if size == 0:
            self._tail, self._data, self._size = None, NULL, 0
        else:
            self._hold(PyBytes_FromStringAndSize(<const char*>self._data + self._scan.end, size))
        bm_reply_dropped(&self._scan)
        return 0

    cdef _hold(self, bytes data):
        self._tail = data
        self._data, self._size = <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)

    cdef int next_reply(self) except -1:
        """The code of the next complete reply, which take() then makes an object of; 0 if more bytes are needed."""
        cdef int code = bm_reply_next(&self._scan, self._data, self._size)
        if code < 0:
            raise ProtocolError(self._problem(code))
        self._code = code
        return code

    cdef str _problem(self, int error):
        if error == BM_REPLY_LONG:
            return f"the server's reply is longer than {BM_REPLY_MAX} bytes"
        line = self._data[self._scan.line:self._size].partition(b"\n")[0].rstrip(b"\r")
        shown = f"not an SMTP reply: {line[:MAX_LINE_SHOWN]!r}"
        if error == BM_REPLY_RANGE:
            return f"{shown}, its code is {line[:3].decode()}, expected 200 to 599"
        if error == BM_REPLY_MIXED:
            return f"{shown}, its code is {line[:3].decode()}, expected {self._scan.begun} as on the line before"
        return f"{shown}, expected three digits, then a space or '-'"

    cdef bytes raw(self):
        """The bytes of the reply whose code next_reply() gave, all of them; until keep()."""
        return self._data[self._scan.start:self._scan.end]

    cdef Reply take(self):
        """The reply whose code next_reply() gave; any number of times until keep()."""
        cdef Reply reply = Reply.__new__(Reply)
        cdef const unsigned char* start = self._data + self._scan.start
        cdef size_t size = self._scan.end - self._scan.start
        cdef size_t kept = bm_reply_kept(start, size)
        reply._raw = PyBytes_FromStringAndSize(<const char*>start, kept)
        reply._dropped = size - kept
        reply.code = self._code
        return reply
