cdef class Reply:
    cdef readonly int code
    cdef bytes _raw              # the reply's lines as received, CRLF kept
    cdef tuple _lines

cdef class ReplyReader:
    cdef bytes _buf              # unread bytes; _buf[_pos:] is not consumed
    cdef Py_ssize_t _pos
    cdef Py_ssize_t _scanned     # _buf[_pos:_scanned] holds no complete reply
    cdef Py_ssize_t _line        # where the line that is being read begins
    cdef int _code               # of the multi-line reply being read, 0 if none
    # the reply that next_reply() found last
    cdef Py_ssize_t _start, _end
    cdef int feed(self, bytes data) except -1
    cdef int next_reply(self) except -1
    cdef Reply take(self)
    cdef Py_ssize_t pending(self)
