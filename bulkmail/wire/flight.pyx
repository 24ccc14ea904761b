# The transactions of one connection in their order, and what is written for them: the state of wire.client.
#
# Owns      the queue of what is not begun, the row of what is under way, what the first of the row has been answered,
#           the bytes to write next and how many were written before.
# Promises  replies belong to the first of the row, `_head`, until it is settled; the place in the stream at which each
#           content ends is known, so that a loss can be judged.
from bulkmail.wire.transaction cimport TX_DONE

from collections import deque

from bulkmail.errors import ConnectionLost

# What the connection waits for, so that its owner can set a deadline (RFC 5321 section 4.5.3.2).
NOTHING, COMMAND, VERDICT = AWAIT_NOTHING, AWAIT_COMMAND, AWAIT_VERDICT


cdef class Flight:
    """What is queued and under way. A base of `Client`, which decides."""

    def __cinit__(self):
        self.reader = ReplyReader()
        self.offer = Offer({})
        self.done, self.replies, self._out = [], [], []
        self._queue, self._flight, self._commands = deque(), deque(), deque()

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
        return len(self._queue) + len(self._flight)

    cpdef Py_ssize_t queued(self):
        """Transactions of which nothing was written yet."""
        return len(self._queue)

    cpdef Py_ssize_t ahead(self):
        """Transactions that wait here or, by BDAT, at the server: what a window is counted in."""
        return self.load() if self.chunking else len(self._queue)

    def take_back(self):
        """The transactions of which nothing was written, for another connection; they leave this one."""
        waiting = list(self._queue)
        self._queue.clear()
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

    cdef _end_head(self, Transaction tx, int state, double now):
        """The first of the row is settled; the next one has the replies from now on."""
        self._flight.popleft()
        self._finish(tx, state, now)
        self._adopt()

    cdef _adopt(self):
        self._head = <Transaction>self._flight[0] if self._flight else None
        self._got = self._accepted = self._place = self._verdicts = self._pieces = self._pieces_answered = 0
        self._sent = 0 if self._head is None else self._head.expected
        if self._head is None:
            self._tail = None
        self._mail_refusal = self._data_refusal = None
        self._go = False

    cdef _finish(self, Transaction tx, int state, double now):
        tx.state, tx.done_at = state, now
        if state == TX_DONE:
            self.completed += 1
            if self.completed == 1 or now - tx.mail_at < self.took:
                self.took = now - tx.mail_at
        self.done.append(tx)

    # -- what is written

    cdef _write(self, bytes data):
        self._put(data)
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
