from bulkmail.net.hub cimport Hub, Watched

cdef class Receiver:
    cdef int received(self, const unsigned char* data, Py_ssize_t size, double now) except -1

cdef class Stream(Watched):
    cdef readonly Hub hub
    cdef Receiver _receiver
    cdef object _sock
    cdef list _held                     # what the kernel did not take yet, or None
    cdef Py_ssize_t _unsent             # bytes of it
    cdef Py_ssize_t _refused            # bytes that came behind its end
    cdef Py_ssize_t _high, _low
    cdef bint _reading                  # it is to read, and no end of the stream was seen
    cdef bint _ended_in                 # the other side sends no more
    cdef bint _paused                   # the receiver was told to write no more
    cdef bint _closing                  # nothing more is taken
    cdef bint _over                     # its connection_lost() is called or on its way
    cdef int send(self, object out) except -1
    cdef int _open(self, Hub hub, object sock, Receiver receiver) except -1
    cdef int _watch(self) except -1
    cdef int _came(self, const unsigned char* data, Py_ssize_t size, double now) except -1
    cdef _drop(self)
    cdef int _read(self, double now) except -1
    cdef int _on_eof(self) except -1
    cdef int _write_on(self) except -1
    cdef int _pause(self) except -1
    cdef int _fail(self, int error) except -1
    cdef int _fault(self, object error) except -1
    cdef int _end(self, object error) except -1

cdef Py_ssize_t size_of(object out) except -1
