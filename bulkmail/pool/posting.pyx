# The plain messages of a Mailer, from the caller's input to their receipts: ready bytes with an Envelope of nothing but
# ASCII addresses. Almost all of a long stream is that, and it takes no task, future, await or Python call a message.
# Whatever is not plain is left to pool.parcel and pool.mailer, with the same results.
#
# Owns      a Stream: the receipts that nobody has asked for yet. A Clerk: the last message, encoded.
# Promises  a Stream holds `most` messages and about `most_bytes` at the most.
# Errors    none of its own.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsASCIIString
from libc.stdint cimport uint8_t

from bulkmail.message.ready cimport Ready, make_ready
from bulkmail.smtp.records cimport Envelope, Receipt
from bulkmail.wire.plain_address cimport is_plain
from bulkmail.wire.transaction cimport EIGHT_BIT, TX_DONE, Transaction, plain

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)

MAX_TRIES = 3  # a transaction that no server took is tried on another connection this often
cdef Py_ssize_t TRIES = MAX_TRIES
# Taken from an input that never blocks before the loop has its turn: some 0.1 ms.
cdef Py_ssize_t AT_ONCE = 64
# A message that is sent to one after the other is encoded once, if it is no larger.
cdef Py_ssize_t KEPT_BYTES = 1 << 20


cdef class Stream:
    """What a run of send_many() holds. Iterating gives the receipts there are; the run is over when `over` is true.

    ahead         how many are taken from the input and not yielded, until widen() says more
    most          the most that it comes to
    most_bytes    bytes of those that are not sent
    """

    def __init__(self, loop, Py_ssize_t ahead, Py_ssize_t most, Py_ssize_t most_bytes):
        self._loop, self.ahead, self.most, self.most_bytes = loop, ahead, most, most_bytes
        self._finished = []

    # -- the input

    cpdef bint full(self):
        return self.held >= self.ahead or self.size >= self.most_bytes

    def widen(self, Py_ssize_t wanted):
        """So many could be in use at a time: hold no fewer."""
        if wanted > self.ahead and self.ahead < self.most:
            self.ahead = min(wanted, self.most)
            self._wake_feeder()

    def room(self):
        """Future: it is no longer full."""
        self._feeder = self._loop.create_future()
        return self._feeder

    cpdef take_in(self):
        """Count another message of the input."""
        self.held += 1
        self.index += 1

    cpdef count(self, Ticket ticket):
        """Its bytes are held until it has its end."""
        if ticket.parts == 0:
            return
        ticket.counted = ticket.size
        self.size += ticket.counted

    def fed(self, task):
        """The task that takes the input is done; a done-callback."""
        self._fed = True
        if not task.cancelled():
            task.exception()       # looked at, should the caller not stay for it
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # -- the receipts

    def add(self, Receipt receipt not None):
        """Of a message that was not sent at all."""
        self.put(receipt, 0)

    cdef put(self, Receipt receipt, Py_ssize_t size):
        self.size -= size
        self._finished.append(receipt)
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None

    def __iter__(self):
        return self

    def __next__(self):
        cdef Receipt receipt
        if self._given == len(self._finished):
            if self._given:
                self._finished, self._given = [], 0
            raise StopIteration
        receipt = self._finished[self._given]
        self._finished[self._given] = None     # the list is emptied by the batch, what it holds is not
        self._given += 1
        self.held -= 1
        if self._feeder is not None:
            self._wake_feeder()
        return receipt

    cdef _wake_feeder(self):
        # not at the first place that is free: the input is taken by the batch
        if self._feeder is not None and self.held <= self.ahead * 3 // 4 and self.size < self.most_bytes:
            if not self._feeder.done():
                self._feeder.set_result(None)
            self._feeder = None

    @property
    def over(self):
        return self._fed and self.held == 0

    def news(self):
        """Future: there is a receipt, or the input is over."""
        self._reader = self._loop.create_future()
        if self._finished or self.over:
            self._reader.set_result(None)
        return self._reader


@cython.freelist(1024)
cdef class Ticket:
    """A message's transactions, as far as they have no end, and what its receipt will say.

    parts    transactions without an end
    size     bytes of the content
    finish   who is told: a Stream, or a callable that gets the Receipt
    """

    def __init__(self, Py_ssize_t index, Py_ssize_t parts, Py_ssize_t size, message_id, finish):
        self.index, self.parts, self.size, self.message_id, self.finish = index, parts, size, message_id, finish

    @property
    def accepted(self):
        """Whether somebody has it already."""
        return self._whole is not None and bool(self._whole.accepted)

    def add(self, Receipt part not None):
        """Another transaction has its end."""
        cdef Receipt whole = self._whole
        self.parts -= 1
        if whole is None:
            self._whole = part
        else:
            whole.accepted += part.accepted
            whole.rejected += part.rejected
            if part.accepted or whole.reply is None:
                whole.reply = part.reply
                whole.tls, whole.relay, whole.egress = part.tls, part.relay, part.egress
            whole.error = None if whole.accepted else part.error
            whole.envelope_seconds += part.envelope_seconds
            whole.data_seconds += part.data_seconds
        if self.parts == 0:
            self._end(self._whole)

    cdef _end(self, Receipt receipt):
        receipt.index, receipt.bytes, receipt.message_id = self.index, self.size, self.message_id
        if type(self.finish) is Stream:
            (<Stream>self.finish).put(receipt, self.counted)
        else:
            self.finish(receipt)


cdef class Clerk:
    """Makes the transactions of plain messages. batch: recipients of a transaction, at most."""

    def __init__(self, Py_ssize_t batch):
        self.batch = batch

    def take(self, source, Stream stream not None, list made not None):
        """Transactions of the next messages of an iterator, into `made`, until the loop should have its turn.

        returns  None; the input's next message, in a tuple, if it is not plain; () if the input is over
        raises   what the input raises
        """
        cdef Py_ssize_t count
        cdef Transaction tx
        for count in range(AT_ONCE):
            if stream.full():
                return None
            try:
                item = next(source)
            except StopIteration:
                return ()
            tx = self.one(stream.index, item, stream)
            if tx is None:
                return (item,)
            stream.take_in()
            stream.count(tx.tag)
            made.append(tx)
        return None

    def one(self, Py_ssize_t index, item, finish):
        """The Transaction of a message, (Envelope, bytes); None if it is anything else."""
        if type(item) is not tuple or len(<tuple>item) != 2:
            return None
        return self._transaction(index, (<tuple>item)[0], (<tuple>item)[1], finish)

    cdef Transaction _transaction(self, Py_ssize_t index, object envelope, object message, object finish):
        cdef Ready ready
        cdef Ticket ticket
        cdef Transaction tx
        cdef Envelope given
        cdef list rcpts
        if type(envelope) is not Envelope or type(message) is not bytes:
            return None
        given = <Envelope>envelope
        rcpts = wire_addresses(given, self.batch)
        if rcpts is None or not self._knows_sender(given.sender):
            return None
        ready = self._ready(<bytes>message)
        if ready is None:
            return None
        ticket = Ticket.__new__(Ticket)
        ticket.index, ticket.parts, ticket.finish = index, 1, finish
        ticket.size, ticket.message_id = PyBytes_GET_SIZE(ready.content), ready.message_id
        tx = plain(self._sender_bytes, rcpts, ready.body, 0 if ready.ascii else EIGHT_BIT, ticket, TRIES)
        tx.positions = list(<tuple>given.recipients)
        return tx

    cdef bint _knows_sender(self, str sender) except -1:
        if sender is self._sender:
            return True
        found = b"" if sender == "" else plain_bytes(sender)
        if found is None:
            return False
        self._sender, self._sender_bytes = sender, found
        return True

    cdef Ready _ready(self, bytes message):
        cdef Ready ready
        if self._last is not None and self._last.data is message:
            return self._last
        ready = make_ready(message)
        if ready is not None:
            self._last = ready if PyBytes_GET_SIZE(message) <= KEPT_BYTES else None
        return ready


cdef list wire_addresses(Envelope envelope, Py_ssize_t most):
    """The recipients for RCPT; None: there are none or more than `most`, or not all of them are plain."""
    cdef tuple recipients
    cdef list found = []
    if not envelope.plain:
        return None
    recipients = <tuple>envelope.recipients
    if not 0 < len(recipients) <= most:
        return None
    for recipient in recipients:
        address = plain_bytes(recipient)
        if address is None:
            return None
        found.append(address)
    return found


cdef bytes plain_bytes(str address):
    if not PyUnicode_IS_ASCII(address) or not is_plain(<const uint8_t*>PyUnicode_DATA(address), PyUnicode_GET_LENGTH(address)):
        return None
    return PyUnicode_AsASCIIString(address)


cdef class Said:
    """What receipts say of a session, as its label has it (smtp.open)."""

    def __init__(self, label):
        self.tls, self.relay, self.egress = label.tls, label.endpoint.host, label.egress


def give_receipts(list finished not None, dict said not None):
    """The receipts of those transactions that were taken for everybody. Returns the others, which need a closer look.

    said   {session: Said}: sessions that transactions may have gone by
    """
    cdef Transaction tx
    cdef Ticket ticket
    cdef Receipt made
    cdef list rest = []
    cdef Said by
    for tx in finished:
        ticket, by = tx.tag, said.get(tx.via)
        if (by is None or tx.state != TX_DONE or tx.rejected is not None or tx.error is not None or tx.reply is None
                or tx.reply.code >= 300 or not tx.judged or tx.mail_at == 0 or ticket.parts != 1):
            rest.append(tx)
            continue
        made = Receipt.__new__(Receipt)
        made.accepted, made.rejected, made.reply = tx.positions, [], tx.reply
        made.tls, made.relay, made.egress = by.tls, by.relay, by.egress
        made.envelope_seconds = (tx.data_at if tx.data_at >= tx.mail_at else tx.done_at) - tx.mail_at
        made.data_seconds = tx.done_at - tx.mail_at - made.envelope_seconds
        if ticket._whole is not None:
            ticket.add(made)
        else:
            ticket.parts = 0
            ticket._end(made)
    return rest


def hand_out(object queue not None, list taken not None, Py_ssize_t count):
    """Move transactions from the deque `queue` to `taken`, until there are `count`."""
    cdef Py_ssize_t place
    cdef object popleft = queue.popleft
    for place in range(min(<Py_ssize_t>len(queue), count - <Py_ssize_t>len(taken))):
        taken.append(popleft())
