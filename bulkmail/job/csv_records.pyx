# CSV: where a record ends, and its fields. RFC 4180, as the standard library's csv module reads it with strict=True; in C
# since that module takes 2 us a row, and knows no byte offsets.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr


cdef Py_ssize_t csv_end(const char *p, Py_ssize_t n, char delimiter, bint *unclosed) noexcept nogil:
    """Index of the LF that ends the record at p, or -1; then `unclosed` says whether p[:n] ends inside quotes."""
    cdef Py_ssize_t i = 0
    cdef const char *hit
    cdef bint opens = True      # the next byte is a field's first
    while i < n:
        if opens and p[i] == c'"':
            i += 1
            while True:
                hit = <const char *>memchr(p + i, c'"', n - i)
                if hit == NULL:
                    unclosed[0] = True
                    return -1
                i = hit - p + 1
                if i >= n or p[i] != c'"':
                    break
                i += 1
            opens = False
            continue
        if p[i] == c"\n":
            return i
        opens = p[i] == delimiter
        i += 1
    return -1


cdef list csv_fields(const char *p, Py_ssize_t size, char delimiter):
    """The fields of one record without its line end. ValueError says what is wrong; UnicodeDecodeError (one too) what is not UTF-8."""
    cdef list fields = []
    cdef const char *end = p + size
    cdef const char *hit
    while True:
        if p < end and p[0] == c'"':
            fields.append(_quoted(&p, end))
            if p < end and p[0] != delimiter:
                raise ValueError('a quoted field goes on after its closing quote; inside, a quote is written twice ("")')
        else:
            hit = <const char *>memchr(p, delimiter, end - p)
            if hit == NULL:
                hit = end
            fields.append(PyUnicode_DecodeUTF8(p, hit - p, NULL))
            p = hit
        if p == end:
            return fields
        p += 1


cdef str _quoted(const char **at, const char *end):
    """The quoted field at `at`, which moves behind its closing quote."""
    cdef const char *p = at[0] + 1
    cdef const char *hit
    cdef str text = ""
    while True:
        hit = <const char *>memchr(p, c'"', end - p)
        if hit == NULL:
            raise ValueError("a quoted field is never closed")
        at[0] = hit + 1
        if hit + 1 == end or hit[1] != c'"':
            field = PyUnicode_DecodeUTF8(p, hit - p, NULL)
            return text + field if text else field
        text += PyUnicode_DecodeUTF8(p, hit + 1 - p, NULL)
        p = hit + 2


def split_csv(bytes data not None, str delimiter not None) -> tuple[list[str], int]:
    """(fields of the first record, where the next one begins). ValueError: it is not CSV or not UTF-8."""
    cdef const char *p = PyBytes_AS_STRING(data)
    cdef bint unclosed = False
    cdef Py_ssize_t size = csv_end(p, PyBytes_GET_SIZE(data), ord(delimiter), &unclosed), end
    end = PyBytes_GET_SIZE(data) if size < 0 else size
    return csv_fields(p, end - (end > 0 and p[end - 1] == c"\r"), ord(delimiter)), min(end + 1, len(data))
