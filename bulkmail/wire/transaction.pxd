from bulkmail.wire.reply cimport Reply

cdef enum:
    EIGHT_BIT = 1            # the content has bytes above 127: BODY=8BITMIME where offered (RFC 6152)
    UTF8 = 2                 # an address or header needs SMTPUTF8 (RFC 6531)
    EIGHT_BIT_ONLY = 4       # with EIGHT_BIT: refused where 8BITMIME is not offered
    BINARY = 8               # the content is not lines: BODY=BINARYMIME, by BDAT only (RFC 3030)

cdef enum:
    TX_WAITING, TX_DONE, TX_NOT_TAKEN, TX_IN_DOUBT

# How the content follows the envelope, and so what the envelope's group ends with.
cdef enum:
    BY_DATA, BY_BDAT, BY_PIECES

cdef class Transaction:
    cdef readonly bytes sender
    cdef readonly list rcpts
    cdef readonly object body           # bytes, a tuple of them, or None
    cdef readonly Py_ssize_t body_size  # bytes of the body as it is given
    cdef readonly int flags
    cdef readonly tuple asks
    cdef readonly list rcpt_parameters
    cdef readonly Py_ssize_t size
    cdef public object tag
    cdef public Py_ssize_t at
    cdef public object positions        # the caller's own, of a transaction with several recipients
    cdef readonly int tries             # how often it was NOT_TAKEN and made ready again
    cdef public object via              # the session that it went by; set by the session
    cdef tuple limits                   # that count it, or None
    cdef bint left                      # they count it as having left
    # only wire.client writes these
    cdef public int state
    cdef public Reply reply
    cdef public str command
    cdef public bint judged
    cdef public dict rejected
    cdef public set late
    cdef public Py_ssize_t decided
    cdef public Py_ssize_t fits
    cdef public object error
    cdef public double mail_at, data_at, done_at
    cdef Transaction follower           # the one behind it in the row of its connection (wire.flight)
    # while it is under way
    cdef Py_ssize_t expected            # replies to its envelope
    cdef int manner                     # BY_DATA, BY_BDAT or BY_PIECES
    cdef bint behind                    # its MAIL was written behind a final dot that was not answered
    cdef bint clears                    # RSET was written before it
    cdef long long end                  # place in the stream behind its content, 0 while that is not written
    cpdef refuse(self, object error, Py_ssize_t fits=*)
    cpdef Transaction again(self)
    cdef count(self, tuple limits)
    cdef uncount(self)
    cdef Py_ssize_t octets(self)

cdef Transaction plain(bytes sender, list rcpts, object body, int flags, object tag, Py_ssize_t at)
cdef Transaction personal(bytes sender, bytes rcpt, object body, int flags, object tag, Py_ssize_t at)

cdef class Offer:
    cdef readonly bint eight_bit, utf8, binary, dsn, size
    cdef readonly long long size_limit
    cdef readonly Py_ssize_t rcpt_max, domain_max, mail_max
    cdef readonly dict extensions
    cdef bint refuses(self, Transaction tx) except -1
    cdef str _lacking(self, Transaction tx)
    cdef Py_ssize_t _fitting(self, list rcpts)
    cdef bytes parameters(self, Transaction tx)
    cdef bytes mail(self, Transaction tx)
    cdef bytes rcpt(self, Transaction tx, Py_ssize_t place)
    cdef bytes group(self, Transaction tx, Py_ssize_t chunk)
