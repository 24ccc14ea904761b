from bulkmail.wire.reply cimport Reply, ReplyReader
from bulkmail.wire.transaction cimport Offer, Transaction

cdef enum:
    AWAIT_NOTHING, AWAIT_COMMAND, AWAIT_VERDICT

cdef class Flight:
    cdef readonly ReplyReader reader
    cdef readonly Offer offer
    cdef public bint pipelining, chunking, lmtp, crossing
    cdef public object trace
    cdef readonly bint closing          # a 421 came, or QUIT was sent: nothing more may be asked
    cdef readonly Reply farewell        # that 421
    cdef readonly str farewell_to       # what it answered, or None
    cdef public list done               # finished transactions, oldest first; the caller empties it, or puts in a list of its own
    cdef readonly list replies          # replies to single commands, oldest first; the caller empties it
    cdef readonly Py_ssize_t begun      # transactions whose MAIL was written
    cdef readonly Py_ssize_t completed  # transactions that the server decided
    cdef public Py_ssize_t answered     # replies read so far
    cdef readonly double took           # seconds from MAIL to the end of the quickest transaction: the length of the line
    cdef readonly Transaction streaming # its envelope was accepted and the caller writes the content
    cdef list _out                      # bytes to write now, in order
    cdef list _commands                 # names of single commands whose replies are awaited
    cdef bint _abandoned                # MAIL was accepted and no message followed: RSET before the next one
    cdef int _refused_ahead             # transactions sent by BDAT that got nowhere, on this connection
    cdef long long _written             # bytes written so far
    cdef Py_ssize_t _drain              # replies to chunks of a message that was given up: to be dropped
    # the row: transactions whose MAIL was written and that are not settled, and behind them those that wait
    cdef Transaction _tail              # the last that is under way, or None
    cdef Transaction _next              # the first that waits, or None
    cdef Transaction _last              # the last of all, or None
    cdef Py_ssize_t _under_way, _queued
    # of the first that is under way, or None
    cdef Transaction _head
    cdef Py_ssize_t _sent, _got         # commands of its envelope sent, and answered
    cdef Py_ssize_t _accepted           # its recipients accepted
    cdef Reply _mail_refusal, _data_refusal
    cdef bint _go                       # 354 came for it
    cdef Py_ssize_t _place, _verdicts   # LMTP: the recipient whose verdict is next; verdicts that came
    cdef Py_ssize_t _pieces, _pieces_answered   # chunks of it that were written before the last, and answered
    cdef int _carry                     # of the content that is streamed

    cpdef object take_output(self)
    cpdef int waiting(self)
    cpdef Py_ssize_t load(self)
    cpdef Py_ssize_t queued(self)
    cpdef Py_ssize_t ahead(self)
    cdef str _envelope_word(self, Transaction tx)
    cdef _end_head(self, Transaction tx, int state, double now)
    cdef _enqueue(self, Transaction tx)
    cdef Transaction _take_up(self)
    cdef _adopt(self, Transaction tx)
    cdef _finish(self, Transaction tx, int state, double now)
    cdef _write(self, bytes data)
    cdef _put(self, object piece)
    cdef _write_message(self, Transaction tx, object content, Py_ssize_t size)
    cdef _hang_up(self, str answered)
