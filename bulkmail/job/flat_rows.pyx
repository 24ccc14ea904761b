# A JSON row of the usual kind, looked at without making an object of it: is it good, and where are its fields?
#
# The usual kind is one flat object whose strings have no backslash. Everything else, and all that is wrong, is "not for
# me": the caller decodes it with orjson, which is the rule. So what is accepted here must be good there too, with the
# same address; tests/unit/job/test_flat_rows.py holds the two against each other.
#
# Sources   RFC 8259 (JSON), RFC 3629 section 4 (UTF-8).

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

cdef extern from *:
    """
    #include <string.h>
    #define BM_ONES 0x0101010101010101u
    #define BM_HIGHS 0x8080808080808080u
    #if defined(_MSC_VER)
    #include <intrin.h>
    static int bm_lowest_byte(uint64_t marks) {
        unsigned long bit;
        _BitScanForward64(&bit, marks);
        return (int)(bit >> 3);
    }
    #else
    #define bm_lowest_byte(marks) (__builtin_ctzll(marks) >> 3)
    #endif
    static inline uint64_t bm_eight(const void *p) {
        uint64_t eight;
        memcpy(&eight, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        eight = __builtin_bswap64(eight);
    #endif
        return eight;
    }
    """
    const uint64_t ONES "BM_ONES", HIGHS "BM_HIGHS"
    int lowest_byte "bm_lowest_byte"(uint64_t marks) noexcept nogil
    uint64_t eight_at "bm_eight"(const void *p) noexcept nogil

from bulkmail.wire.plain_address cimport is_plain

cdef enum:
    MAX_DIGITS = 300    # a number of more may be beyond a double, which orjson refuses


cdef bint flat_fields(const char *p, Py_ssize_t n, const Names *names, Field *fields) noexcept nogil:
    """Find the fields `names[0]` (the address), names[1] and so on; False for a row that is not of the usual kind.

    p, n    one row without its line end; nothing is read beyond
    fields  as many as names; text NULL: the row lacks it. The address is a plain one.
    """
    cdef const uint8_t *row = <const uint8_t *>p
    cdef Py_ssize_t i = _blank(row, 0, n), key, key_size, start
    cdef int which
    for which in range(names.count):
        fields[which].text = NULL
    if i >= n or row[i] != c"{":
        return False
    while True:
        i = _blank(row, i + 1, n)
        if i >= n or row[i] != c'"':
            return False
        key = i + 1
        i = _string_end(row, key, n)
        if i < 0:
            return False
        key_size = i - key
        i = _blank(row, i + 1, n)
        if i >= n or row[i] != c":":
            return False
        i = start = _blank(row, i + 1, n)
        i = _value_end(row, i, n)
        if i < 0:
            return False
        which = _which(p + key, key_size, names)
        if which >= 0:
            # null is as if it were missing; of keys that stand twice the last one counts
            if fields[which].text != NULL or row[start] == c"n":
                return False
            fields[which].quoted = row[start] == c'"'
            fields[which].text = p + start + fields[which].quoted
            fields[which].size = i - start - 2 * fields[which].quoted
        i = _blank(row, i, n)
        if i < n and row[i] == c",":
            continue
        return (i < n and row[i] == c"}" and _blank(row, i + 1, n) == n and fields[0].text != NULL and fields[0].quoted
                and is_plain(<const uint8_t *>fields[0].text, fields[0].size))


cdef bint all_there(const Names *names, const Field *fields) noexcept nogil:
    cdef int which
    for which in range(names.count):
        if fields[which].text == NULL:
            return False
    return True


cdef inline int _which(const char *key, Py_ssize_t size, const Names *names) noexcept nogil:
    cdef int i
    for i in range(names.count):
        if names.items[i].size == size and memcmp(names.items[i].text, key, size) == 0:
            return i
    return -1


cdef inline Py_ssize_t _blank(const uint8_t *p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and (p[i] == c" " or p[i] == c"\t"):
        i += 1
    return i


cdef inline Py_ssize_t _string_end(const uint8_t *p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Index of the quote that ends the string whose text begins at i; -1: a backslash, a control, no UTF-8, no end."""
    cdef uint64_t eight, quotes, slashes, marks
    while True:
        # Eight bytes at a time up to a quote, a backslash, a control or what is beyond ASCII. Of the marks of each kind
        # the lowest is right, as a subtraction borrows upwards only; so the lowest of all is.
        marks = 0
        while i + 8 <= n:
            eight = eight_at(p + i)
            quotes, slashes = eight ^ (ONES * c'"'), eight ^ (ONES * c"\\")
            marks = (eight | (eight - ONES * 32) | (quotes - ONES) | (slashes - ONES)) & HIGHS
            if marks != 0:
                i += lowest_byte(marks)
                break
            i += 8
        if marks == 0:
            while i < n and 32 <= p[i] < 128 and p[i] != c'"' and p[i] != c"\\":
                i += 1
            if i >= n:
                return -1
        if p[i] == c'"':
            return i
        i = _character_end(p, i, n)
        if i < 0:
            return -1


cdef inline Py_ssize_t _character_end(const uint8_t *p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind a character beyond ASCII; -1 if there is none: RFC 3629 section 4."""
    cdef uint8_t first = p[i], low = 0x80, high = 0xBF
    cdef int k, more
    if 0xC2 <= first <= 0xDF:
        more = 1
    elif 0xE0 <= first <= 0xEF:
        more = 2
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
    elif 0xF0 <= first <= 0xF4:
        more = 3
        if first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
    else:
        return -1
    if i + more >= n or not low <= p[i + 1] <= high:
        return -1
    for k in range(2, more + 1):
        if p[i + k] & 0xC0 != 0x80:
            return -1
    return i + more + 1


cdef inline Py_ssize_t _value_end(const uint8_t *p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind a string, a number or a literal; -1 for all else."""
    if i >= n:
        return -1
    if p[i] == c'"':
        i = _string_end(p, i + 1, n)
        return i + 1 if i >= 0 else -1
    if p[i] == c"t":
        return i + 4 if n - i >= 4 and memcmp(p + i, b"true", 4) == 0 else -1
    if p[i] == c"n":
        return i + 4 if n - i >= 4 and memcmp(p + i, b"null", 4) == 0 else -1
    if p[i] == c"f":
        return i + 5 if n - i >= 5 and memcmp(p + i, b"false", 5) == 0 else -1
    return _number_end(p, i, n)


cdef inline Py_ssize_t _number_end(const uint8_t *p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind a number without an exponent."""
    cdef Py_ssize_t start
    if p[i] == c"-":
        i += 1
    start = i
    while i < n and c"0" <= p[i] <= c"9":
        i += 1
    if i == start or i - start > MAX_DIGITS or (p[start] == c"0" and i > start + 1):
        return -1
    if i < n and p[i] == c".":
        start = i + 1
        i = start
        while i < n and c"0" <= p[i] <= c"9":
            i += 1
        if i == start:
            return -1
    return i


cdef int name_fields(Names *names, list held) except -1:
    """Fill `names` from their bytes, which `held` goes on to own; "email" is the first."""
    cdef int i
    if len(held) > MAX_NAMES:
        raise ValueError(f"{len(held)} names, at most {MAX_NAMES}")
    names.count = <int>len(held)
    for i in range(names.count):
        names.items[i].text, names.items[i].size = PyBytes_AS_STRING(held[i]), PyBytes_GET_SIZE(held[i])
    return 0


def find_fields(bytes row not None, names=()) -> dict[str, str] | None:
    """What these fields of a row of the usual kind say, the address among them, or None. For tests."""
    cdef Names wanted
    cdef Field fields[MAX_NAMES]
    held = [name.encode() for name in dict.fromkeys(["email", *names])]
    name_fields(&wanted, held)
    if not flat_fields(PyBytes_AS_STRING(row), PyBytes_GET_SIZE(row), &wanted, fields):
        return None
    return {held[i].decode(): fields[i].text[:fields[i].size].decode()
            for i in range(wanted.count) if fields[i].text != NULL}


def find_email(bytes row not None, required=()) -> str | None:
    """The address of a row of the usual kind that has all these fields, or None. For tests."""
    found = find_fields(row, required)
    return None if found is None or not found.keys() >= set(required) else found["email"]
