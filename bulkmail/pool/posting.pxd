from bulkmail.message.ready cimport Ready
from bulkmail.smtp.records cimport Receipt
from bulkmail.wire.transaction cimport Transaction

cdef class Ticket

cdef class Stream:
    cdef readonly Py_ssize_t held        # taken from the input and not yet yielded
    cdef Py_ssize_t size                 # bytes of them that are not sent
    cdef readonly Py_ssize_t ahead
    cdef Py_ssize_t most, most_bytes
    cdef readonly Py_ssize_t index       # of the next message of the input
    cdef bint _fed
    cdef list _finished
    cdef Py_ssize_t _given               # of _finished were yielded
    cdef object _loop, _reader, _feeder
    cpdef bint full(self)
    cpdef take_in(self)
    cpdef count(self, Ticket ticket)
    cdef put(self, Receipt receipt, Py_ssize_t size)
    cdef _wake_feeder(self)

cdef class Ticket:
    cdef readonly Py_ssize_t index
    cdef public Py_ssize_t parts
    cdef public Py_ssize_t size
    cdef readonly object message_id
    cdef readonly object finish
    cdef Py_ssize_t counted              # bytes, by the Stream
    cdef Receipt _whole
    cdef _end(self, Receipt receipt)

cdef class Clerk:
    cdef public Py_ssize_t batch
    cdef Ready _last
    cdef str _sender
    cdef bytes _sender_bytes
    cdef bint _knows_sender(self, str sender) except -1
    cdef Ready _ready(self, bytes message)
    cdef Transaction _transaction(self, Py_ssize_t index, object envelope, object message, object finish)

cdef class Said:
    cdef readonly object tls, relay, egress
