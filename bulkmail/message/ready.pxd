cdef class Ready:
    cdef readonly bytes data
    cdef readonly bytes content
    cdef readonly bytes body
    cdef readonly bint ascii
    cdef readonly object message_id

cdef Ready make_ready(bytes data)
