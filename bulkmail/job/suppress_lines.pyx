# Lines of a suppression list: what nearly all of them are goes into sets here, in C; the rest is handed back.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from bulkmail.wire.plain_address cimport is_plain
from bulkmail.job.seen cimport AddressSet


cdef class LineTaker:
    """addresses: plain ones; digests: hashes of addresses, as bytes; kinds: how many bytes those have; line: lines taken."""

    cdef readonly AddressSet addresses, digests
    cdef readonly set kinds
    cdef readonly Py_ssize_t line

    def __init__(self):
        self.addresses, self.digests, self.kinds = AddressSet(), AddressSet(), set()

    def take(self, bytes data not None, Py_ssize_t pos, bint final, list odd not None):
        """Take the lines of data[pos:]; those that are neither a plain address nor a hash go to `odd`, with their number.

        A line ends with LF, CR or CRLF. Blank ones are passed over.
        final    data ends where the file ends
        returns  where the first line begins that is not whole
        """
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data), start, end
        while pos < n:
            start = end = pos
            while end < n and p[end] != c"\n" and p[end] != c"\r":
                end += 1
            # The LF of a CRLF may be still to come.
            if not final and (end == n or (p[end] == c"\r" and end + 1 == n)):
                return pos
            pos = end + 2 if end + 1 < n and p[end] == c"\r" and p[end + 1] == c"\n" else end + 1
            self.line += 1
            while start < end and _is_blank(p[start]):
                start += 1
            while start < end and _is_blank(p[end - 1]):
                end -= 1
            if start < end and not self.is_taken(p + start, end - start):
                odd.append((self.line, PyBytes_FromStringAndSize(<const char *>p + start, end - start)))
        return min(pos, n)

    cdef bint is_taken(self, const uint8_t *p, Py_ssize_t n) except -1:
        cdef uint8_t digest[32]
        if is_plain(p, n):
            self.addresses.put(self.addresses.hashed_ascii(p, n, 0))
            return True
        # MD5, SHA-1, SHA-256. No address or domain looks like that: it has no "@" and no dot.
        if (n == 32 or n == 40 or n == 64) and _unhex(p, n, digest):
            self.digests.put(self.digests.hashed_bytes(PyBytes_FromStringAndSize(<char *>digest, n >> 1)))
            self.kinds.add(n >> 1)
            return True
        return False


cdef inline bint _is_blank(uint8_t byte) noexcept nogil:
    return byte == c" " or 9 <= byte <= 13


cdef bint _unhex(const uint8_t *p, Py_ssize_t n, uint8_t *out) noexcept nogil:
    """False: another character than a hexadecimal digit, in either case."""
    cdef Py_ssize_t i
    cdef int value
    for i in range(n):
        if c"0" <= p[i] <= c"9":
            value = p[i] - c"0"
        elif c"a" <= (p[i] | 32) <= c"f":
            value = (p[i] | 32) - c"a" + 10
        else:
            return False
        if i & 1:
            out[i >> 1] |= value
        else:
            out[i >> 1] = value << 4
    return True
