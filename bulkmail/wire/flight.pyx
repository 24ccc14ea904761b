# The transactions of one connection in their order, and what is written for them: the state of wire.client.
#
# Owns      the row: what is under way, and behind it what is not begun, each holding its follower; what the first of it has
#           been answered, the bytes to write next and how many were written before.
# Promises  replies belong to the first of the row, `_head`, until it is settled; the place in the stream at which each
#           content ends is known, so that a loss can be judged.
from cpython.bytes cimport PyBytes_GET_SIZE

from bulkmail.wire.transaction cimport TX_DONE

from bulkmail.errors import ConnectionLost

# What the connection waits for, so that its owner can set a deadline (RFC 5321 section 4.5.3.2).
NOTHING, COMMAND, VERDICT = AWAIT_NOTHING, AWAIT_COMMAND, AWAIT_VERDICT


cdef class Flight:
    """What is queued and under way. A base of `Client`, which decides."""

    def __cinit__(self):
        self.reader = ReplyReader()
        self.offer = Offer({})
        self.done, self.replies, self._out, self._commands = [], [], [], []

    @property
    def extensions(self):
        """EHLO keywords in upper case, with their parameters."""
        return self.offer.extensions

    @extensions.setter
    def extensions(self, dict offered not None):
        self.offer = Offer(offered)

    # -- how much there is, and what is awaited

    cpdef Py_ssize_t load(self):
        """Transactions taken on and not finished."""
        return self._queued + self._under_way

    cpdef Py_ssize_t queued(self):
        """Transactions of which nothing was written yet."""
        return self._queued

    cpdef Py_ssize_t ahead(self):
        """Transactions that wait here or, by BDAT, at the server: what a window is counted in."""
        return self._queued + (self._under_way if self.chunking else 0)

    def take_back(self):
        """The transactions of which nothing was written, for another connection; they leave this one."""
        cdef Transaction tx = self._next, following
        cdef list waiting = []
        while tx is not None:
            waiting.append(tx)
            tx.uncount()
            tx.follower, following = None, tx.follower
            tx = following
        self._next, self._last, self._queued = None, self._tail, 0
        if self._tail is not None:
            self._tail.follower = None
        return waiting

    cpdef int waiting(self):
        """NOTHING, COMMAND or VERDICT: what the next reply is for."""
        cdef Transaction tx = self._head
        if self._drain:
            return AWAIT_COMMAND
        if tx is not None:
            if tx.clears or self._got < self._sent:
                return AWAIT_COMMAND
            return AWAIT_VERDICT if tx.end else AWAIT_NOTHING
        return AWAIT_COMMAND if self._commands else AWAIT_NOTHING

    def awaited(self):
        """What the next reply answers, for errors: "greeting", a command's name, "end of data", or None."""
        cdef Transaction tx = self._head
        if self._drain:
            return "BDAT"
        if tx is not None:
            if tx.clears:
                return "RSET"
            if self._got < self._sent:
                return self._envelope_word(tx)
            return "end of data" if tx.end else "DATA"
        return self._commands[0] if self._commands else None

    cdef str _envelope_word(self, Transaction tx):
        return "MAIL" if self._got == 0 else "RCPT" if self._got <= len(tx.rcpts) else "DATA"

    cpdef object take_output(self):
        """What to write now: bytes, a list of bytes and views of bytes to be written together, or None."""
        cdef object out
        if not self._out:
            return None
        out = self._out[0] if len(self._out) == 1 else self._out
        self._out = []
        return out

    # -- the row

    cdef _enqueue(self, Transaction tx):
        if self._last is not None:
            self._last.follower = tx
        if self._next is None:
            self._next = tx
        self._last = tx
        self._queued += 1

    cdef Transaction _take_up(self):
        """The first that waits, which is under way from now on."""
        cdef Transaction tx = self._next
        self._next, self._tail = tx.follower, tx
        self._queued -= 1
        self._under_way += 1
        return tx

    cdef _end_head(self, Transaction tx, int state, double now):
        """The first of the row is settled; the next one has the replies from now on."""
        cdef Transaction following = tx.follower
        tx.follower = None
        if tx is self._last:
            self._last = None
        self._under_way -= 1
        self._finish(tx, state, now)
        self._adopt(following if self._under_way else None)

    cdef _adopt(self, Transaction tx):
        self._head = tx
        self._got = self._accepted = self._place = self._verdicts = self._pieces = self._pieces_answered = 0
        self._sent = 0 if tx is None else tx.expected
        if tx is None:
            self._tail = None
        self._mail_refusal = self._data_refusal = None
        self._go = False

    cdef _finish(self, Transaction tx, int state, double now):
        tx.state, tx.done_at = state, now
        tx.uncount()
        if state == TX_DONE:
            self.completed += 1
            if self.completed == 1 or now - tx.mail_at < self.took:
                self.took = now - tx.mail_at
        self.done.append(tx)

    # -- what is written

    cdef _write(self, bytes data):
        self._out.append(data)
        self._written += PyBytes_GET_SIZE(data)
        if self.trace is not None:
            self.trace("C", data)

    cdef _put(self, object piece):
        self._out.append(piece)
        self._written += len(piece)

    cdef _write_message(self, Transaction tx, object content, Py_ssize_t size):
        if type(content) is tuple:
            self._out.extend(content)
            self._written += size
        else:
            self._put(content)
        if self.trace is not None:
            self.trace("C", b"<message, %d bytes>\r\n" % size)
        tx.end = self._written

    # -- the server's farewell

    cdef _hang_up(self, str answered):
        self.closing, self.farewell, self.farewell_to = True, self.reader.take(), answered

    def parting(self):
        """The error that the server's 421 makes."""
        return ConnectionLost(
            f"the server closes: {self.farewell}", reply=self.farewell, command=self.farewell_to, permanent=False)
