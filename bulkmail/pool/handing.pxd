from bulkmail.smtp.session cimport Session

cdef class Row:
    cdef list _places               # None where one has left
    cdef Py_ssize_t _head           # nobody stands before it
    cdef readonly Py_ssize_t count
    cdef add(self, Session one)
    cdef remove(self, Session one)
    cdef Session next(self)
    cdef _close_up(self)

cdef class Idle:
    cdef Row _ready, _others
    cdef readonly Py_ssize_t room
    cpdef note(self, Session one)
    cpdef discard(self, Session one)
    cdef list _one_each(self, list taken)
    cdef _rest(self, list taken, list living, Session ended)
    cdef list _all(self, list taken)
    cdef _give(self, Session one, list share)
