from bulkmail.net.hub cimport Hub
from bulkmail.net.stream cimport Receiver, Stream
from bulkmail.wire.client cimport Client
from bulkmail.wire.transaction cimport Transaction

cdef class Turn:
    cdef readonly list done
    cdef readonly list hungry
    cdef readonly list ended
    cdef public bint crossing
    cdef Hub hub                    # of its sessions' streams, or None
    cdef object _loop, _callback
    cdef double _delay
    cdef bint _coarse
    cdef int _scheduled
    cpdef note(self, bint soon)

cdef class Session(Receiver):
    cdef readonly Client wire
    cdef readonly Turn turn
    cdef readonly object transport
    cdef readonly object tls            # ssl object of TLS with the server, or None; whoever asks for TLS asks here
    cdef public bint secured            # encrypted by the word of who connected it, TLS of ours or not
    cdef public bint tunnelled          # the TLS that its transport has from the start is a proxy's
    cdef readonly object error          # why it ended, or None while it lives
    cdef readonly object closed         # future: resolved when it ended
    cdef public object label            # whatever the owner keeps with it
    cdef public Py_ssize_t window       # transactions that may wait behind those under way
    cdef public Py_ssize_t left         # transactions that it may still be given
    cdef public double command_timeout, data_timeout
    cdef public double idle_since       # nothing is awaited since; 0: never yet
    cdef object row                     # its owner's: where it waits for work, and what it said then (pool.handing)
    cdef Py_ssize_t place, noted
    cdef object _loop, _timer
    cdef object _waiter                 # future of the reply to a single command
    cdef object _changed                # future: see _news
    cdef double _deadline, _timer_at
    cdef Py_ssize_t _size, _rcpts       # of the transaction that it was given last
    cdef Stream _stream                 # the transport, if it is one
    cdef int _fd                        # of a connection in clear, while we may write to it past the transport; or -1
    cdef Py_ssize_t _low_water          # while _paused, more than so many bytes are unsent
    cdef bint _hungry, _dry             # the owner was asked for work; and had better be quick
    cdef bint _paused
    cdef bint _leaving                  # QUIT was sent
    cpdef push(self, list transactions)
    cpdef bint ready(self)
    cpdef Py_ssize_t room(self)
    cdef _flush(self)
    cdef _received(self, double now)
    cdef bint _offer(self)
    cdef long long _round           # transactions begun when the window was widened last, or was to be
    cdef long long _round_done      # and completed
    cdef double _round_at
    cdef bint _far(self)
    cdef bint _side_by_side(self)
    cdef double _stamp(self, double now)
    cdef _widen(self)
    cdef _notify(self)
    cdef _loss(self, str what)
    cdef str _waiting_for(self)
    cdef _await_next(self, double now)
    cdef _arm(self, double deadline)
    cdef _fail(self, object error, Py_ssize_t unsent)
