from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef uint64_t _siphash(const uint8_t *p, Py_ssize_t n, uint64_t k0, uint64_t k1) noexcept nogil

cdef enum:
    TABLES = 64     # a set grows one table at a time, so that what growing needs besides is a sixty-fourth of the whole

cdef struct Table:
    uint64_t *slots     # 0: empty
    uint32_t size, used

cdef class AddressSet:
    cdef Table tables[TABLES]
    cdef uint64_t key[2]
    cdef bint exact
    cdef readonly Py_ssize_t count

    cdef uint64_t hashed(self, str address) except? 0
    cdef uint64_t hashed_ascii(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t start) noexcept
    cdef uint64_t hashed_bytes(self, bytes digest) noexcept
    cdef int put(self, uint64_t h) except -1
    cdef list _known(self, list addresses, bint adding)
