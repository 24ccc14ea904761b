from libc.stdint cimport int64_t

cdef enum:
    BLOCK = 32768
    SLOTS = 256
    WINDOW = 65536

# Rows that lie so far apart are read one by one: more than that between two costs more to copy than another call.
cdef enum:
    FAR = 4096
    FAR_ROW = 1024

cdef Py_ssize_t bm_pread(int fd, void *data, size_t n, int64_t at) noexcept


cdef class Blocks:
    cdef char *_data[SLOTS]
    cdef Py_ssize_t _size[SLOTS]
    cdef int64_t _block[SLOTS]
    cdef int _asked[SLOTS]
    cdef const char *find(self, int fd, int64_t at, Py_ssize_t *size) noexcept
    cdef bint _read(self, int fd, Py_ssize_t slot, int64_t start) noexcept


cdef class RowWindow:
    cdef int _fd
    cdef int64_t _size, _mtime_ns, _base
    cdef Blocks _blocks
    cdef char *_data
    cdef Py_ssize_t _held_size
    cdef bint unchanged(self) noexcept
    cdef const char *row(self, int64_t at, int64_t wanted, bint far, Py_ssize_t *size) noexcept
    cdef const char *_held(self, int64_t at, Py_ssize_t *size) noexcept
    cdef bint _line(self, const char *p, Py_ssize_t n, int64_t at, Py_ssize_t *size) noexcept
