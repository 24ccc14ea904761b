from libc.stdint cimport uint8_t

cdef bint is_plain(const uint8_t *p, Py_ssize_t n) noexcept nogil
