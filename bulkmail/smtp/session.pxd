from bulkmail.wire.client cimport Client, Transaction

cdef class Turn:
    cdef readonly list done
    cdef readonly list hungry
    cdef readonly list ended
    cdef object _loop, _callback
    cdef double _delay
    cdef int _scheduled
    cpdef note(self, bint soon)

cdef class Session:
    cdef readonly Client wire
    cdef readonly Turn turn
    cdef readonly object transport
    cdef readonly object error          # why it ended, or None while it lives
    cdef readonly object closed         # future: resolved when it ended
    cdef public object label            # whatever the owner keeps with it
    cdef public Py_ssize_t window       # transactions that may wait behind those under way
    cdef public Py_ssize_t left         # transactions that it may still be given
    cdef public double command_timeout, data_timeout
    cdef readonly double idle_since
    cdef object _loop, _waiter, _drained, _timer
    cdef double _deadline, _timer_at
    cdef str _phase, _doing
    cdef bint _hungry, _paused, _farewell_said
    cpdef push(self, list transactions)
    cdef _flush(self)
    cdef _received(self, double now)
    cdef _await_next(self, double now)
    cdef _arm(self, double deadline)
    cdef _fail(self, object error, Py_ssize_t unsent)
