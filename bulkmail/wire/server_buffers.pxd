cdef class ServerBuffers:
    cdef unsigned char* line           # the part of a command line that came without its end
    cdef Py_ssize_t line_len, _line_room
    cdef bint line_too_long
    cdef unsigned char* _out
    cdef Py_ssize_t _out_len, _out_room
    cdef list _events

    cdef int put(self, bytes reply) except -1
    cdef int hold(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int forget_line(self) except -1
    cdef int emit(self, tuple event) except -1
    cdef object take_events(self)
