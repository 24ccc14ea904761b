from libc.stdint cimport int64_t, uint8_t


cdef class Packer:
    cdef str route
    cdef uint8_t *data
    cdef Py_ssize_t used, room, count
    cdef int64_t number, offset     # of the last row
    cdef int add(self, int64_t number, int64_t offset) except -1
    cdef tuple take(self)


cdef class Cutter:
    cdef Py_ssize_t size
    cdef object route
    cdef dict packers, by_domain
    cdef Packer only
    cdef list whole
    cdef Packer packer(self, str route)
    cdef Packer packer_of(self, str address)
    cdef int put(self, Packer packer, int64_t number, int64_t offset) except -1
    cdef int straight(self, int64_t number, int64_t offset) except -1
