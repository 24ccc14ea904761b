# The values of the parameters that ask for delivery reports: RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT (RFC 3461
# section 4; ORCPT=utf-8;... by RFC 6533 section 3). On bytes, without objects.

from libc.string cimport memchr

from bulkmail.wire.server_syntax cimport is_atext, same_word

cdef enum:
    MAX_ENVID = 100     # RFC 3461 section 4.4
    MAX_ORCPT = 500     # section 4.2


cdef inline int hex_digit(unsigned char c) noexcept nogil:
    """Its value, or -1. xtext has capital letters only."""
    if b'0' <= c <= b'9':
        return c - c'0'
    return c - c'A' + 10 if b'A' <= c <= b'F' else -1


cdef inline bint is_xtext(const unsigned char* p, Py_ssize_t n, bint utf8=False) noexcept nogil:
    """Section 4: printable ASCII but "+" and "=", and "+XX" for any character, which must be printable, too.

    With utf8, "+XX" may also stand for a byte from 0x80 on: so Postfix 3.7 writes an address that needs SMTPUTF8.
    """
    cdef Py_ssize_t i = 0
    cdef int c
    while i < n:
        c = p[i]
        if c == b'+':
            if i + 2 >= n or hex_digit(p[i + 1]) < 0 or hex_digit(p[i + 2]) < 0:
                return False
            c = hex_digit(p[i + 1]) * 16 + hex_digit(p[i + 2])
            if not (32 <= c < 127 or (utf8 and c >= 0x80)):
                return False
            i += 2
        elif not 32 < c < 127 or c == b'=':
            return False
        i += 1
    return n > 0


cdef inline Py_ssize_t code_point_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the "\\x{XXXX}" at p[i], or -1."""
    cdef Py_ssize_t start = i + 3
    if start >= n or p[i + 1] != b'x' or p[i + 2] != b'{':
        return -1
    i = start
    while i < n and hex_digit(p[i]) >= 0:
        i += 1
    return i + 1 if i < n and p[i] == b'}' and 2 <= i - start <= 6 else -1


cdef inline bint is_utf8_address(const unsigned char* p, Py_ssize_t n, bint utf8) noexcept nogil:
    """What follows "utf-8;": printable but "+", "=" and "\\", and "\\x{XXXX}"; with SMTPUTF8 also bytes from 0x80 on."""
    cdef Py_ssize_t i = 0
    while i < n:
        if p[i] == b'\\':
            i = code_point_end(p, i, n)
            if i < 0:
                return False
            continue
        if p[i] == b'+' or p[i] == b'=' or not (32 < p[i] < 127 or (utf8 and p[i] >= 0x80)):
            return False
        i += 1
    return n > 0


cdef inline bint is_orcpt(const unsigned char* p, Py_ssize_t n, bint utf8) noexcept nogil:
    cdef const unsigned char* end
    cdef Py_ssize_t kind, i
    if n < 1 or n > MAX_ORCPT:
        return False
    end = <const unsigned char*> memchr(p, b';', n)
    kind = 0 if end == NULL else end - p
    for i in range(kind):
        if p[i] >= 0x80 or not is_atext(p[i]):
            return False
    if kind == 5 and same_word(p, 5, b"UTF-8", 5):
        return is_utf8_address(p + 6, n - 6, utf8)
    return kind > 0 and is_xtext(p + kind + 1, n - kind - 1, utf8)


cdef inline bint is_notify(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """Section 4.1: NEVER, or a list without it."""
    cdef Py_ssize_t i = 0, start
    if same_word(p, n, b"NEVER", 5):
        return True
    while True:
        start = i
        while i < n and p[i] != b',':
            i += 1
        if not (same_word(p + start, i - start, b"SUCCESS", 7) or same_word(p + start, i - start, b"FAILURE", 7)
                or same_word(p + start, i - start, b"DELAY", 5)):
            return False
        if i >= n:
            return True
        i += 1
