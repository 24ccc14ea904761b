from libc.stdint cimport int32_t, int64_t

cdef struct Record:
    int64_t chunk
    double started
    double ended
    int32_t position
    int32_t attempt
    int32_t relay
    int32_t egress
    int32_t code
    int32_t outcome
    int32_t text             # where its reply begins in the buffer's text
    int32_t length
    int32_t next             # of the same chunk; -1 at the end

cdef class DetailBuffer:
    cdef Record* _records
    cdef char* _text
    cdef Py_ssize_t _count, _room            # records: held, allocated
    cdef Py_ssize_t _used, _text_room        # bytes of text: held, allocated
    cdef readonly double offset
    cpdef bint add(self, int64_t chunk, int32_t position, int32_t attempt, int32_t relay, int32_t egress,
                   double started, double ended, int32_t code, bytes reply, int32_t outcome) except -1
    cdef bint _grow(self, Py_ssize_t length) except -1
    cdef list _chain(self)
    cdef bytes _encode(self, int32_t first)
