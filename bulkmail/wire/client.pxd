from bulkmail.wire.reply cimport Reply, ReplyReader

cdef enum:
    EIGHT_BIT = 1            # the content has bytes above 127: BODY=8BITMIME where offered (RFC 6152)
    UTF8 = 2                 # an address or header needs SMTPUTF8 (RFC 6531)
    EIGHT_BIT_ONLY = 4       # with EIGHT_BIT: refused where 8BITMIME is not offered

cdef enum:
    TX_WAITING, TX_DONE, TX_NOT_TAKEN, TX_IN_DOUBT

cdef enum:
    AWAIT_NOTHING, AWAIT_COMMAND, AWAIT_VERDICT

cdef class Transaction:
    cdef readonly bytes sender
    cdef readonly list rcpts
    cdef readonly bytes body
    cdef readonly int flags
    cdef public object tag
    cdef public Py_ssize_t at
    cdef public object positions        # the caller's own, of a transaction with several recipients
    cdef readonly int tries             # how often it was NOT_TAKEN and made ready again
    cdef public object via              # the session that it went by; set by the session
    cdef readonly int state
    cdef readonly Reply reply
    cdef readonly str command
    cdef readonly bint judged           # `reply` is the verdict on the message itself
    cdef readonly dict rejected
    cdef readonly object error
    cdef readonly double mail_at, data_at, done_at
    cpdef refuse(self, object error)
    cpdef Transaction again(self)

cdef class Client:
    cdef readonly ReplyReader reader
    cdef public bint pipelining
    cdef public dict extensions
    cdef public object trace
    cdef readonly bint closing          # a 421 came, or QUIT was sent: nothing more may be asked
    cdef readonly Reply farewell        # that 421
    cdef readonly str farewell_to       # what it answered, or None
    cdef public list done               # finished transactions, oldest first; the caller empties it, or puts in a list of its own
    cdef readonly list replies          # replies to single commands, oldest first; the caller empties it
    cdef readonly Py_ssize_t begun      # transactions whose MAIL was written
    cdef readonly Py_ssize_t completed  # transactions that the server decided
    cdef public Py_ssize_t answered     # replies read so far
    cdef list _out                      # bytes to write now, in order
    cdef object _queue                  # transactions not begun
    cdef object _commands               # names of single commands whose replies are awaited
    cdef Transaction _env               # its MAIL, RCPT, DATA are under way
    cdef Transaction _body              # its end of data is sent, the verdict awaited
    cdef readonly Transaction streaming # DATA was accepted and the caller writes the content
    cdef bint _lone                     # _body is a lone dot: nobody was accepted, so its reply decides nothing
    cdef bint _rset                     # a RSET is awaited, before _env
    cdef bint _abandoned                # MAIL was accepted and no DATA followed: RSET before the next one
    cdef Py_ssize_t _sent, _got         # commands of _env sent, and answered
    cdef Py_ssize_t _accepted           # recipients of _env accepted
    cdef Reply _mail_refusal, _data_refusal
    cdef bint _go                       # 354 came for _env
    cdef Py_ssize_t _after_dot          # bytes written after the last final dot

    cpdef push(self, Transaction tx, double now)
    cpdef feed(self, bytes data, double now)
    cpdef object take_output(self)
    cpdef int waiting(self)
    cpdef Py_ssize_t load(self)
    cpdef Py_ssize_t queued(self)
    cpdef bint begins_at_once(self)
    cdef bint _free(self)
    cpdef lost(self, object why, Py_ssize_t unsent, double now)
    cpdef command(self, bytes line, str name)
    cdef _on_reply(self, int code, double now)
    cdef _on_verdict(self, int code, double now)
    cdef _hang_up(self, str answered)
    cdef _refused_early(self, double now)
    cdef _drop(self, Transaction tx, object why, double now)
    cdef _on_env_reply(self, int code, double now)
    cdef _advance(self, double now)
    cdef _step(self, double now)
    cdef _envelope_done(self, double now)
    cdef _begin(self, double now)
    cdef _finish(self, Transaction tx, int state, double now)
    cdef _write(self, bytes data)
