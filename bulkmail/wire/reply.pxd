cimport cython

cdef extern from "reply.h" nogil:
    ctypedef struct bm_reply_scan:
        size_t start, end, line
        int begun
    int bm_reply_next(bm_reply_scan* scan, const unsigned char* buf, size_t size)
    void bm_reply_dropped(bm_reply_scan* scan)
    size_t bm_reply_kept(const unsigned char* reply, size_t size)
    int BM_REPLY_MAX, BM_REPLY_RANGE, BM_REPLY_MIXED, BM_REPLY_LONG

cdef class Reply:
    cdef readonly int code
    cdef bytes _raw              # the reply's lines as received, CRLF kept; of a long one the beginning
    cdef Py_ssize_t _dropped     # bytes of the reply that are not in _raw
    cdef tuple _lines

@cython.final
cdef class ReplyReader:
    cdef const unsigned char* _data   # what is read, _size bytes; what lies before _scan.end is consumed
    cdef Py_ssize_t _size
    cdef bytes _tail             # keeps _data between two reads, and while it is more than what came
    cdef bm_reply_scan _scan
    cdef int _code               # of the reply that next_reply() found last
    cdef int begin(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int keep(self) except -1
    cdef _hold(self, bytes data)
    cdef int next_reply(self) except -1
    cdef Reply take(self)
    cdef bytes raw(self)
    cdef Py_ssize_t pending(self)
    cdef str _problem(self, int error)
