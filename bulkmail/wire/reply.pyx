# SMTP replies: bytes in, `Reply` objects out. No sockets, no clock, no logging.
# RFC 5321 section 4.2 (grammar); RFC 3463 and 2034 (enhanced codes, kept as text).
#
# Owns      the unread tail of the stream, at most MAX_REPLY bytes and one chunk.
# Promises  each byte is scanned once; the replies do not depend on how the
#           stream was cut into chunks (tests/unit/wire/test_reply.py cuts everywhere).
# Errors    ProtocolError; the reader is then dead, since a stream that lost its
#           framing cannot pair replies with commands.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr

import re

from bulkmail.errors import ProtocolError

# RFC 5321 section 4.5.3.1.5 allows 512 octets a line, and servers with long policy texts or EHLO lists exceed it;
# 64 KiB for all lines of one reply is ten times the longest seen, and bounds what a hostile server can make us hold.
cdef enum:
    MAX_REPLY = 65536

ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")     # never shown: a reply reaches terminals and logs


@cython.freelist(64)
cdef class Reply:
    """A server's answer to one command.

    code      the three digits, an int from 200 to 599
    enhanced  the enhanced status code such as "5.7.1" (RFC 3463), or None
    lines     the text of each line, without code and line end; undecodable and control bytes replaced
    """

    def __init__(self, int code, lines=()):
        self.code = code
        self._lines = (lines,) if isinstance(lines, str) else tuple(lines)

    @property
    def lines(self):
        if self._lines is None:
            text = self._raw.decode("utf-8", "replace").removesuffix("\n").split("\n")
            self._lines = tuple(CONTROL.sub("?", line.rstrip("\r")[4:]) for line in text)
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


cdef class ReplyReader:
    """Cuts a stream into replies. `replies(data)` is the whole face of it for Python; C code uses feed and next_reply."""

    def __cinit__(self):
        self._buf = b""

    def replies(self, bytes data not None):
        """The replies that `data` completes, oldest first. Raises ProtocolError; then the stream cannot be read on."""
        found = []
        self.feed(data)
        while self.next_reply():
            found.append(self.take())
        return found

    @property
    def unread(self):
        """How many bytes are held that no complete reply covers."""
        return self.pending()

    cdef Py_ssize_t pending(self):
        return PyBytes_GET_SIZE(self._buf) - self._pos

    cdef int feed(self, bytes data) except -1:
        if self._pos == PyBytes_GET_SIZE(self._buf):
            self._buf = data
            self._scanned = self._line = 0
        else:
            self._buf = self._buf[self._pos:] + data
            self._scanned -= self._pos
            self._line -= self._pos
        self._pos = 0
        return 0

    cdef int next_reply(self) except -1:
        """The code of the next complete reply, which take() then makes an object of; 0 if more bytes are needed."""
        cdef const unsigned char* base = <const unsigned char*>PyBytes_AS_STRING(self._buf)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._buf)
        cdef const unsigned char* line
        cdef const unsigned char* end
        cdef Py_ssize_t length
        cdef int code
        while True:
            end = <const unsigned char*>memchr(base + self._scanned, c"\n", size - self._scanned)
            if end is NULL:
                self._scanned = size
                if size - self._pos > MAX_REPLY:
                    raise ProtocolError(f"the server's reply is longer than {MAX_REPLY} bytes")
                return 0
            line = base + self._line
            length = end - line
            if length and line[length - 1] == c"\r":
                length -= 1
            code = reply_code(line, length)
            if code == 0 or (self._code and code != self._code):
                raise ProtocolError(
                    f"not an SMTP reply: {bytes(line[:min(length, 80)])!r}"
                    + (f" (the reply began with {self._code})" if code else ", expected three digits, then a space or '-'")
                )
            self._line = self._scanned = end - base + 1
            if length > 3 and line[3] == c"-":
                self._code = code
                if self._line - self._pos > MAX_REPLY:
                    raise ProtocolError(f"the server's reply is longer than {MAX_REPLY} bytes")
                continue
            self._code = 0
            self._start, self._end = self._pos, self._line
            self._pos = self._line
            return code

    cdef Reply take(self):
        cdef Reply reply = Reply.__new__(Reply)
        cdef const char* base = PyBytes_AS_STRING(self._buf)
        reply._raw = PyBytes_FromStringAndSize(base + self._start, self._end - self._start)
        reply.code = reply_code(<const unsigned char*>base + self._start, self._end - self._start)
        return reply


cdef inline int reply_code(const unsigned char* line, Py_ssize_t length) noexcept:
    # 2xx to 5xx; the second digit is checked no further, since servers use more than the RFC's six groups
    if length < 3 or line[0] < c"2" or line[0] > c"5":
        return 0
    if line[1] < c"0" or line[1] > c"9" or line[2] < c"0" or line[2] > c"9":
        return 0
    if length > 3 and line[3] != c" " and line[3] != c"-" and line[3] != c"\r" and line[3] != c"\n":
        return 0
    return (line[0] - c"0") * 100 + (line[1] - c"0") * 10 + (line[2] - c"0")
