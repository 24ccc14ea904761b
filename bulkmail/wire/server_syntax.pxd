# The grammar of a command's arguments (RFC 5321 section 4.1.2), on bytes, without objects.
#
# Bytes from 0x80 on are let through as RFC 6531 section 3.3 has it; whoever calls asks for SMTPUTF8 and for valid UTF-8.

from libc.string cimport memchr

cdef enum:
    MAX_LOCAL_PART = 64     # RFC 5321 section 4.5.3.1.1
    MAX_DOMAIN = 255        # section 4.5.3.1.2
    MAX_PATH = 256          # section 4.5.3.1.3, the angle brackets included

# An address in angle brackets. start and length are the mailbox's: no brackets, no source route.
cdef struct Path:
    Py_ssize_t start
    Py_ssize_t length
    Py_ssize_t end          # behind the ">"
    bint has_domain
    bint eight_bit


cdef inline bint is_alnum(unsigned char c) noexcept nogil:
    return b'a' <= c <= b'z' or b'A' <= c <= b'Z' or b'0' <= c <= b'9'


cdef inline bint is_atext(unsigned char c) noexcept nogil:
    return is_alnum(c) or c >= 0x80 or (c > 32 and memchr(b"!#$%&'*+-/=?^_`{|}~", c, 19) != NULL)


cdef inline Py_ssize_t quoted_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the quoted string that opens at p[i], or -1."""
    i += 1
    while i < n and p[i] != b'"':
        if p[i] == b'\\':
            i += 1
        if i >= n or p[i] < 32 or p[i] == 127:
            return -1
        i += 1
    return i + 1 if i < n else -1


cdef inline Py_ssize_t dot_string_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the atoms and single dots from p[i] on, or -1: no dot first, last or twice."""
    cdef Py_ssize_t start = i
    while i < n and (is_atext(p[i]) or (p[i] == b'.' and i > start and p[i - 1] != b'.')):
        i += 1
    return i if i > start and p[i - 1] != b'.' else -1


cdef inline bint in_domain(unsigned char c) noexcept nogil:
    # "_" is no host name's, but container networks make such names, and receivers take them
    return is_alnum(c) or c == b'-' or c == b'_' or c >= 0x80


cdef inline Py_ssize_t domain_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the domain or address literal at p[i], or -1."""
    cdef Py_ssize_t start = i
    if i < n and p[i] == b'[':
        i += 1
        while i < n and 32 < p[i] < 127 and p[i] != b'[' and p[i] != b'\\' and p[i] != b']':
            i += 1
        return i + 1 if i < n and p[i] == b']' and i > start + 1 else -1
    while i < n and (in_domain(p[i]) or (p[i] == b'.' and i > start and p[i - 1] != b'.')):
        i += 1
    return i if i > start and p[i - 1] != b'.' else -1


cdef inline Py_ssize_t route_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind a source route "@a,@b:" (to be accepted and ignored, RFC 5321 section 3.6.1), or -1."""
    while i < n and p[i] == b'@':
        i = domain_end(p, i + 1, n)
        if i < 0 or i >= n or (p[i] != b',' and p[i] != b':'):
            return -1
        i += 1
        if p[i - 1] == b':':
            return i
    return -1


cdef inline bint read_path(const unsigned char* p, Py_ssize_t n, Path* path) noexcept nogil:
    """The path at p[0..n) and whether it is one. "<>" and a local part alone are: MAIL and RCPT differ about those."""
    cdef Py_ssize_t i, at, k
    path.length = path.has_domain = path.eight_bit = 0
    path.start = 1
    if n < 2 or p[0] != b'<':
        return False
    if p[1] == b'>':
        path.end = 2
        return True
    if p[1] == b'@':
        path.start = route_end(p, 1, n)
        if path.start < 0:
            return False
    i = path.start
    at = quoted_end(p, i, n) if i < n and p[i] == b'"' else dot_string_end(p, i, n)
    if at < 0 or at - i > MAX_LOCAL_PART:
        return False
    i = at
    if i < n and p[i] == b'@':
        path.has_domain = True
        i = domain_end(p, i + 1, n)
        if i < 0 or i - at - 1 > MAX_DOMAIN:
            return False
    if i >= n or p[i] != b'>' or i - path.start + 2 > MAX_PATH:
        return False
    path.length = i - path.start
    path.end = i + 1
    for k in range(path.start, i):
        if p[k] >= 0x80:
            path.eight_bit = True
            break
    return True


cdef inline bint same_word(const unsigned char* p, Py_ssize_t n, const char* upper, Py_ssize_t m) noexcept nogil:
    """Whether p[0..n) is the word `upper` of m capital letters, digits or signs, in any case."""
    cdef Py_ssize_t i
    cdef unsigned char c
    if n != m:
        return False
    for i in range(n):
        c = p[i]
        if b'a' <= c <= b'z':
            c -= 32
        if c != <unsigned char> upper[i]:
            return False
    return True


cdef inline long long read_number(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """The decimal number p[0..n), 1 to 18 digits (so that it fits), or -1."""
    cdef long long value = 0
    cdef Py_ssize_t i
    if n < 1 or n > 18:
        return -1
    for i in range(n):
        if not b'0' <= p[i] <= b'9':
            return -1
        value = value * 10 + (p[i] - c'0')
    return value
