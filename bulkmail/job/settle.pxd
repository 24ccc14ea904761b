cdef class Work:
    cdef readonly object chunk
    cdef readonly object numbers, offsets
    cdef readonly Py_ssize_t n
    cdef public Py_ssize_t claimed, outstanding
    cdef readonly int no, attempt
    cdef public bint dirty
    cdef bytearray _outcome
    cdef Py_ssize_t _waiting

cdef class Hand:
    cdef readonly object claimed, ready
    cdef readonly Py_ssize_t size
    cdef public Py_ssize_t signing, passed
    cpdef Py_ssize_t held(self) except -1
    cpdef bint in_hand(self)
