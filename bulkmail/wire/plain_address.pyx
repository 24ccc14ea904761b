# What nearly every address of a list is, decided in C: "yes" only. What is in doubt goes to `address.check_address`.

from libc.stdint cimport uint8_t

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)

cdef enum:
    LOCAL = 1       # RFC 5321 section 4.1.2, atext
    DOMAIN = 2      # letters, digits

cdef uint8_t KINDS[256]

cdef void _fill_kinds() noexcept:
    cdef int i
    for i in range(256):
        KINDS[i] = 0
    for i in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
        KINDS[i] = LOCAL | DOMAIN
    for i in b"!#$%&'*+-/=?^_`{|}~":
        KINDS[i] = LOCAL

_fill_kinds()


cdef bint is_plain(const uint8_t *p, Py_ssize_t n) noexcept nogil:
    """True only for an address that check_address gives back unchanged: a dot-atom, "@", letter-digit-hyphen labels.

    Bounds of RFC 5321 section 4.5.3.1: 64 before the "@", 254 in all; RFC 1035: 63 a label. The last label must hold a
    letter first, so that nothing that looks like an IP address is taken for a name.
    """
    cdef Py_ssize_t i = 0, start = 0
    if n > 254:
        return False
    while True:
        while i < n and KINDS[p[i]] & LOCAL:
            i += 1
        if i == start or i >= n:
            return False
        if p[i] != c".":
            break
        i += 1
        start = i
    if p[i] != c"@" or i > 64:
        return False
    i += 1
    start = i
    while True:
        while i < n and KINDS[p[i]] & DOMAIN:
            i += 1
        if i == start or i - start > 63 or p[i - 1] == c"-":
            return False
        if i == n:
            return p[start] > c"9"
        # "--" may open an A-label, whose validity is the slow path's question
        if p[i] != c"." and p[i] != c"-":
            return False
        if p[i] == c".":
            start = i + 1
        i += 1


def is_plain_address(str text not None) -> bool:
    """Whether the C rule alone accepts this address. For tests: then check_address must give it back unchanged."""
    return PyUnicode_IS_ASCII(text) and is_plain(<const uint8_t *>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
