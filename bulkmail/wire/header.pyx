# The header section of a ready message, as far as whoever sends it has to know it. RFC 5322 sections 2.1 and 3.6.4.
#
# Promises  linear time; nothing behind the empty line is read.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr

# Bytes of a message that are searched for its Message-ID; no header is longer.
cdef enum:
    SEARCHED = 65536


def message_id(bytes content not None):
    """The Message-ID that a composed message has, or None."""
    return message_id_c(content)


cdef Head look(bytes content):
    cdef const char* p = PyBytes_AS_STRING(content)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(content), line = 0
    cdef Head head
    head.begins, head.blind = begins_with_field(p, n), False
    while line < n and not is_empty(p + line, n - line):
        if (p[line] | 32 == c"b" or p[line] | 32 == c"r") and (
                opens(p + line, n - line, b"bcc", 3) or opens(p + line, n - line, b"resent-bcc", 10)):
            head.blind = True
        line = next_line(p, line, n)
    head.end = line
    return head


cdef object message_id_c(bytes content):
    cdef const char* p = PyBytes_AS_STRING(content)
    cdef Py_ssize_t n = min(PyBytes_GET_SIZE(content), SEARCHED), line = 0
    while line < n and not is_empty(p + line, n - line):
        if p[line] | 32 == c"m" and opens(p + line, n - line, b"message-id:", 11):
            return in_brackets(p, line + 11, n)
        line = next_line(p, line, n)
    return None


cdef object in_brackets(const char* p, Py_ssize_t at, Py_ssize_t n):
    """The <...> that begins behind the white space at `at`; None: something else does, or the header ends."""
    cdef Py_ssize_t start
    while at < n and (p[at] == c" " or 9 <= p[at] <= 13):
        if p[at] == c"\n" and is_empty(p + at + 1, n - at - 1):
            return None
        at += 1
    start = at
    if at >= n or p[at] != c"<":
        return None
    at += 1
    while at < n and p[at] != c">":
        if p[at] == c"<" or p[at] == c"\r" or p[at] == c"\n":
            return None
        at += 1
    return PyUnicode_DecodeASCII(p + start, at + 1 - start, "replace") if at < n else None


cdef bint begins_with_field(const char* p, Py_ssize_t n) noexcept:
    """Whether a field's name and its colon stand first."""
    cdef Py_ssize_t at = 0
    while at < n and c"!" <= p[at] <= c"~" and p[at] != c":":
        at += 1
    if at == 0:
        return False
    while at < n and (p[at] == c" " or p[at] == c"\t"):
        at += 1
    return at < n and p[at] == c":"


cdef inline Py_ssize_t next_line(const char* p, Py_ssize_t line, Py_ssize_t n) noexcept:
    cdef const char* end = <const char*>memchr(p + line, c"\n", n - line)
    return n if end == NULL else end - p + 1


cdef inline bint is_empty(const char* p, Py_ssize_t n) noexcept:
    return n > 0 and (p[0] == c"\n" or (n > 1 and p[0] == c"\r" and p[1] == c"\n"))


cdef bint opens(const char* p, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept:
    """Whether the line begins with `word`, which is in lower case."""
    cdef Py_ssize_t at
    if n < size:
        return False
    for at in range(size):
        if p[at] != word[at] and not (c"A" <= p[at] <= c"Z" and p[at] | 32 == word[at]):
            return False
    return True
