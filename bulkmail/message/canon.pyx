# What a DKIM signature is made over: a message's body canonicalized and hashed, and the chosen fields of its header.
# RFC 6376 sections 3.4, 3.7 and 5.4.2. Messages are clean (CRLF only) or as they stand on the wire (dots doubled too).
#
# Owns      BodyHash: the body that it hashed last, a part of the hash, a scratch buffer.
# Promises  linear time; memory bounded by CHUNK, however large a body is; any way of cutting a message into pieces gives
#           the same result.
# Errors    ValueError for a header that a signature cannot cover; MemoryError.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from hashlib import sha256

cdef extern from "dkim.h" nogil:
    int BM_DKIM_RELAX, BM_DKIM_DOTS, BM_DKIM_SLACK
    void bm_dkim_init() noexcept
    int bm_dkim_has_avx2() noexcept
    size_t bm_dkim_body(uint8_t* dst, const uint8_t* p, size_t len, uint8_t prev, uint8_t next, int how, int fast) noexcept
    const uint8_t* bm_field_end(const uint8_t* p, const uint8_t* end) noexcept
    size_t bm_field_name(const uint8_t* p, const uint8_t* end) noexcept
    uint8_t bm_lower(uint8_t c) noexcept
    size_t bm_dkim_field(uint8_t* dst, const uint8_t* p, size_t len) noexcept

cdef enum:
    CHUNK = 1 << 15             # bytes canonicalized at a time: they are still in the first cache when they are hashed
    MAX_FIELDS = 500            # fields under one signature: h= names each, and it costs every receiver
    MIN_SHARED = 4096           # bytes: from here on resuming a hash is cheaper than hashing them again
    FORGET = 1024               # bodies: the beginning that all had is found anew, should one have been unlike the others

cdef bytes EMPTY_LINES = b"\r\n" * 4096
cdef int fast = bm_dkim_has_avx2()

bm_dkim_init()


def use_avx2(bint wanted):
    """For tests and benchmarks. Whether AVX2 is in use now."""
    global fast
    fast = wanted and bm_dkim_has_avx2()
    return bool(fast)


def canonical_bytes(bytes text not None, *, bint relaxed, bint dotted):
    """A body as BodyHash sees it, but for the empty lines at its end: for tests and benchmarks."""
    cdef int how = (BM_DKIM_RELAX if relaxed else 0) | (BM_DKIM_DOTS if dotted else 0)
    cdef bytearray out = bytearray(len(text) + BM_DKIM_SLACK)
    cdef size_t n = bm_dkim_body(<uint8_t*><char*>out, start_of(text), <size_t>len(text), c"\n", c"\r", how, fast)
    return bytes(memoryview(out)[:<Py_ssize_t>n])


cdef inline const uint8_t* start_of(bytes text) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(text)


def header_size(bytes message not None):
    """Where the header section ends, its last CRLF included; all of it where no body follows."""
    cdef Py_ssize_t at = message.find(b"\r\n\r\n")
    return len(message) if at < 0 else at + 2


@cython.final
cdef class BodyHash:
    """SHA-256 of bodies, canonicalized. A body, or a beginning of one, that the one before had too is hashed once.

    relaxed  or simple
    dotted   bodies stand as on the wire, without the final dot
    """

    cdef int _how
    cdef bint _relaxed
    cdef bytearray _scratch
    cdef uint8_t* _out
    cdef object _hash               # of what is canonicalized so far, without _lines
    cdef Py_ssize_t _lines          # CRLFs that are kept back: they may be empty lines at the end
    cdef bint _text                 # anything but CRLFs was hashed
    cdef bint _halved               # the output ended with the CR of a CRLF
    cdef list _last                 # pieces of the body before, and its digest
    cdef bytes _digest
    cdef object _kept_hash          # the state after the first _kept bytes of it
    cdef Py_ssize_t _kept, _kept_lines
    cdef bint _kept_text, _kept_halved
    cdef Py_ssize_t _count

    def __init__(self, *, bint relaxed, bint dotted):
        self._relaxed = relaxed
        self._how = (BM_DKIM_RELAX if relaxed else 0) | (BM_DKIM_DOTS if dotted else 0)
        self._scratch = bytearray(CHUNK + BM_DKIM_SLACK)
        self._out = <uint8_t*><char*>self._scratch
        self._last = []

    def digest(self, list pieces not None):
        """pieces: memoryviews or bytes, in order; kept until the next call."""
        cdef Py_ssize_t shared = self._shared(pieces)
        if shared < 0:
            return self._digest
        cdef Py_ssize_t done = 0
        self._last = []                 # should anything fail on the way, nothing is known to be the same
        self._count += 1
        if self._count % FORGET == 0:
            self._kept = 0
        if self._kept and self._kept < shared:     # what becomes of a byte depends on the next one
            done = self._kept
            self._hash, self._lines = self._kept_hash.copy(), self._kept_lines
            self._text, self._halved = self._kept_text, self._kept_halved
        else:
            self._kept = 0
            self._hash, self._lines, self._text, self._halved = sha256(), 0, False, False
        self._feed(pieces, done, shared)
        self._last = pieces
        self._digest = self._end()
        return self._digest

    cdef Py_ssize_t _shared(self, list pieces) except -2:
        """How many bytes this body begins with that the one before did too; -1: all are the same."""
        cdef const uint8_t[::1] a, b
        cdef Py_ssize_t total = 0, n, i
        cdef bint same = len(pieces) == len(self._last)
        for piece, last in zip(pieces, self._last):
            a, b = piece, last
            n = min(a.shape[0], b.shape[0])
            if n and &a[0] != &b[0]:
                i = common(&a[0], &b[0], n)
                total += i
                if i < n:
                    return total
            else:
                total += n
            if a.shape[0] != b.shape[0]:
                return total
        return -1 if same and self._digest is not None else total

    cdef int _feed(self, list pieces, Py_ssize_t done, Py_ssize_t shared) except -1:
        """Hash the pieces from their byte `done` on; keep the state before the last of `shared`, if that is worth it.

        What is kept never moves forward: two bodies may have more in common by chance, and what all have is the least.
        """
        cdef const uint8_t[::1] view
        cdef Py_ssize_t start = 0, at, end, number, n
        cdef uint8_t prev = c"\n", after
        cdef Py_ssize_t mark = shared - 1 if shared >= MIN_SHARED and not self._kept else -1
        for number in range(len(pieces)):
            view = pieces[number]
            n = view.shape[0]
            if n == 0:
                continue
            at = max(done - start, 0)
            if at >= n:
                prev = view[n - 1]
                start += n
                continue
            after = first_byte(pieces, number + 1)
            while at < n:
                end = min(at + CHUNK, n)
                if mark >= 0 and start + at < mark < start + end:
                    end = mark - start
                self._put(&view[at], end - at, view[at - 1] if at else prev, view[end] if end < n else after)
                at = end
                if start + at == mark:
                    self._keep(mark)
            prev = view[n - 1]
            start += n
        return 0

    cdef int _keep(self, Py_ssize_t at) except -1:
        self._kept, self._kept_hash = at, self._hash.copy()
        self._kept_lines, self._kept_text, self._kept_halved = self._lines, self._text, self._halved
        return 0

    cdef int _put(self, const uint8_t* p, Py_ssize_t n, uint8_t prev, uint8_t next) except -1:
        cdef Py_ssize_t size = <Py_ssize_t>bm_dkim_body(self._out, p, <size_t>n, prev, next, self._how, fast)
        cdef Py_ssize_t first = 0, end
        if size == 0:
            return 0
        if self._halved:                # its LF comes first
            self._halved, first = False, 1
            self._lines += 1
        end = size
        if end > first and self._out[end - 1] == c"\r":
            self._halved = True
            end -= 1
        cdef Py_ssize_t text = end, lines = 0
        while text - first >= 2 and self._out[text - 1] == c"\n":
            text -= 2
            lines += 1
        if text > first:
            self._write_lines()
            self._hash.update(memoryview(self._scratch)[first:text])
            self._text = True
        self._lines += lines
        return 0

    cdef int _write_lines(self) except -1:
        cdef Py_ssize_t n
        while self._lines:
            n = min(self._lines, len(EMPTY_LINES) // 2)
            self._hash.update(EMPTY_LINES[:2 * n])
            self._lines -= n
        return 0

    cdef bytes _end(self):
        """Sections 3.4.3 and 3.4.4: an empty body is one CRLF, simple, or nothing, relaxed."""
        if self._text or not self._relaxed:
            self._hash.update(b"\r\n")
        return self._hash.digest()


cdef uint8_t first_byte(list pieces, Py_ssize_t number) except? 0:
    """Of the pieces from `number` on; CR, as if a line ended, where nothing follows."""
    cdef const uint8_t[::1] view
    while number < len(pieces):
        view = pieces[number]
        if view.shape[0]:
            return view[0]
        number += 1
    return c"\r"


cdef Py_ssize_t common(const uint8_t* a, const uint8_t* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0, step = 4096
    while step:
        while i + step <= n and memcmp(a + i, b + i, <size_t>step) == 0:
            i += step
        step = step >> 3
    return i


@cython.final
cdef class HeaderPicker:
    """Takes the fields under a signature out of a header section.

    wanted   (name in lower case, how often it is listed beyond what is there) in the order of h=: see Dkim.wanted
    relaxed  or simple
    """

    cdef list _names
    cdef list _more
    cdef bint _relaxed

    def __init__(self, list wanted not None, *, bint relaxed):
        self._names = [name for name, _ in wanted]
        self._more = [more for _, more in wanted]
        self._relaxed = relaxed

    def pick(self, bytes message not None, Py_ssize_t size, bint dotted):
        """(how often each name is listed in h=, the fields canonicalized) of the header section message[:size].

        A name that stands more than once is taken from the bottom up (section 5.4.2).
        raises  ValueError  for more than MAX_FIELDS of them
        """
        cdef const uint8_t* p = start_of(message)
        cdef const uint8_t* end = p + size
        cdef const uint8_t* after
        cdef Py_ssize_t[MAX_FIELDS][3] found        # start, length, name
        cdef Py_ssize_t count = 0, total = 0, name, i
        if size > PyBytes_GET_SIZE(message):
            raise ValueError("the header section is longer than the message")
        while p < end:
            after = bm_field_end(p, end)
            if dotted and p[0] == c".":
                p += 1
            name = self._place(p, <Py_ssize_t>bm_field_name(p, after))
            if name >= 0:
                if count == MAX_FIELDS:
                    raise ValueError(f"the header has more than {MAX_FIELDS} fields to be signed")
                found[count][0], found[count][1], found[count][2] = p - start_of(message), after - p, name
                total += after - p + 2
                count += 1
            p = after
        return self._written(message, &found[0][0], count, total)

    cdef Py_ssize_t _place(self, const uint8_t* p, Py_ssize_t n) except -2:
        cdef Py_ssize_t place, k
        cdef bytes name
        for place in range(len(self._names)):
            name = <bytes>self._names[place]
            if PyBytes_GET_SIZE(name) != n:
                continue
            k = 0
            while k < n and bm_lower(p[k]) == start_of(name)[k]:
                k += 1
            if k == n and n:
                return place
        return -1

    cdef tuple _written(self, bytes message, const Py_ssize_t* found, Py_ssize_t count, Py_ssize_t total):
        cdef bytearray counts = bytearray(2 * len(self._names))
        cdef bytes out = PyBytes_FromStringAndSize(NULL, total)
        cdef uint8_t* pen = <uint8_t*>PyBytes_AS_STRING(out)
        cdef Py_ssize_t place, i, n, times, more
        for place in range(len(self._names)):
            times = 0
            for i in range(count - 1, -1, -1):
                if found[3 * i + 2] == place:
                    times += 1
                    pen += self._field(pen, start_of(message) + found[3 * i], found[3 * i + 1])
            more = self._more[place]
            times += (times > 0) if more < 0 else more
            counts[2 * place], counts[2 * place + 1] = times & 0xff, times >> 8
        return bytes(counts), out[:pen - <uint8_t*>PyBytes_AS_STRING(out)]

    cdef Py_ssize_t _field(self, uint8_t* out, const uint8_t* p, Py_ssize_t n) noexcept:
        cdef Py_ssize_t size, i
        if self._relaxed:
            size = <Py_ssize_t>bm_dkim_field(out, p, <size_t>n)
        else:
            size = n
            while size and (p[size - 1] == c"\r" or p[size - 1] == c"\n"):
                size -= 1
            for i in range(size):
                out[i] = p[i]
        out[size], out[size + 1] = c"\r", c"\n"
        return size + 2


def relaxed_field(bytes field not None):
    """One header field, relaxed, without its CRLF."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(field))
    cdef size_t n = bm_dkim_field(<uint8_t*>PyBytes_AS_STRING(out), start_of(field), <size_t>len(field))
    return out[:<Py_ssize_t>n]
