cdef Py_ssize_t csv_end(const char *p, Py_ssize_t n, char delimiter, bint *unclosed) noexcept nogil
cdef list csv_fields(const char *p, Py_ssize_t size, char delimiter)
