cdef class Judged:
    cdef bint plain                     # nothing but addresses: no option differs from its default

cdef class Envelope(Judged):
    cdef readonly object sender
    cdef readonly object recipients
    cdef readonly object size
    cdef readonly object body
    cdef readonly object smtputf8
    cdef readonly object dsn
    cdef readonly object require_tls
    cdef readonly object deliver_by
    cdef readonly object mt_priority
    cdef readonly object hold_for
    cdef readonly object hold_until
    cdef bint _is_plain(self) except -1

cdef class Receipt:
    cdef public list accepted
    cdef public list rejected
    cdef public object reply
    cdef public object message_id
    cdef public object relay
    cdef public object egress
    cdef public object tls
    cdef public Py_ssize_t bytes
    cdef public double envelope_seconds
    cdef public double data_seconds
    cdef public Py_ssize_t index
    cdef public object error
