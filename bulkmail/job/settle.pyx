# Chunks in hand, claimed and settled by the batch: what would be Python per recipient otherwise.
#
# Owns      the position up to which each chunk in hand is claimed, its outcome bytes, how many are under way.
# Promises  no Python call a recipient for plain deliveries; everything else is handed back.
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from collections import deque

from bulkmail.job.detail cimport DetailBuffer
from bulkmail.wire.transaction cimport EIGHT_BIT, TX_DONE, UTF8, Transaction


cdef extern from "memory.h":
    void bm_keep_freed_memory(size_t size)

# What one commit covers of messages of 100 KB: as much as a job has in hand of anything but huge messages.
cdef enum:
    KEPT_BYTES = 64 << 20


def keep_freed_memory():
    """Have the allocator keep up to KEPT_BYTES of freed memory for the next batch of messages (glibc only)."""
    bm_keep_freed_memory(KEPT_BYTES)


cdef class Work:
    """A leased chunk in hand.

    chunk        the ledger's Chunk; its outcome bytes are changed here
    claimed      positions below it are claimed, or were decided before
    outstanding  positions claimed and without an outcome
    dirty        changed since the last commit
    """

    def __init__(self, chunk):
        self.chunk, self._outcome = chunk, chunk.outcome
        self.numbers, self.offsets = chunk.numbers, chunk.offsets
        self._waiting = self._outcome.count(b".", chunk.claimed)
        self.n, self.claimed, self.no, self.attempt = chunk.n, chunk.claimed, chunk.no, chunk.attempt

    def claim(self, Py_ssize_t most):
        """The next positions that wait, at most `most`; they are claimed from now on (to be committed before use)."""
        cdef char* outcome = PyByteArray_AS_STRING(self._outcome)
        cdef Py_ssize_t place = self.claimed
        cdef list taken = []
        while place < self.n and len(taken) < most:
            if outcome[place] == c".":
                taken.append(place)
            place += 1
        if place == self.claimed:
            return taken
        self.claimed, self.dirty = place, True
        self.outstanding += len(taken)
        self._waiting -= len(taken)
        return taken

    def waiting(self):
        """How many positions are not claimed yet."""
        return self._waiting

    def settle(self, Py_ssize_t place, int outcome, bint was_under_way=True):
        """Set one outcome byte."""
        self._outcome[place] = outcome
        self.outstanding -= was_under_way
        self.dirty = True

    def row(self):
        """The chunk as an Advance wants it; it is clean then."""
        self.dirty = False
        return self.no, self.chunk.fence, self.claimed, bytes(self._outcome)

    def finished(self):
        """Nobody in it waits any more: the ledger has let go of it too."""
        return b"." not in self._outcome and b"d" not in self._outcome


def settle_delivered(list finished, DetailBuffer details not None, int relay, int egress, set dirty not None):
    """Settle the transactions that delivered to everybody in them.

    finished  Transactions: `tag` is their Work, and `at` the position, or `positions` the list of them
    dirty     the Work objects touched are added to it
    returns   (the transactions that need a closer look, recipients delivered at attempt 0, at later ones, bytes)
    """
    cdef Transaction tx
    cdef Work work, last = None
    cdef list rest = []
    cdef Py_ssize_t first_time = 0, again = 0, size = 0, count, place
    cdef char* outcome = NULL
    for tx in finished:
        if (tx.state != TX_DONE or tx.rejected is not None or tx.error is not None or tx.reply is None
                or tx.reply.code >= 300 or not tx.judged):
            rest.append(tx)
            continue
        work = <Work?>tx.tag
        if work is not last:
            last, outcome = work, PyByteArray_AS_STRING(work._outcome)
            work.dirty = True
            dirty.add(work)
        if tx.positions is None:
            count = 1
            outcome[tx.at] = c"D"
            details.add(work.no, tx.at, work.attempt + 1, relay, egress, tx.mail_at, tx.done_at, tx.reply.code, tx.reply._raw, c"D")
        else:
            count = len(tx.positions)
            for place in tx.positions:
                outcome[place] = c"D"
                details.add(work.no, place, work.attempt + 1, relay, egress, tx.mail_at, tx.done_at, tx.reply.code, tx.reply._raw, c"D")
        work.outstanding -= count
        size += tx.body_size
        if work.attempt:
            again += count
        else:
            first_time += count
    return rest, first_time, again, size


cdef class Hand:
    """What of a route is in hand and on no connection. A base of `Stock`.

    size     recipients that share a transaction
    claimed  (chunk, positions) whose claim is committed, in a deque
    signing  recipients whose message is being signed
    ready    transactions that are composed, and signed, in a deque
    passed   recipients handed to pools in this run
    """

    def __init__(self, Py_ssize_t size):
        self.size, self.claimed, self.ready = size, deque(), deque()

    cpdef Py_ssize_t held(self) except -1:
        """Recipients that are claimed, committed, and not handed to a pool."""
        cdef Py_ssize_t count = self.signing
        cdef Transaction tx
        if self.size == 1:
            count += len(self.ready)
        else:
            for tx in self.ready:
                count += len(tx.rcpts)
        for _, places in self.claimed:
            count += len(<list>places)
        return count

    cpdef bint in_hand(self):
        """Something is claimed and not handed to a pool."""
        return bool(self.ready) or bool(self.claimed) or self.signing != 0

    def next_to_compose(self, Py_ssize_t room=-1):
        """Claimed positions that are to be composed until `room` transactions are ready (-1: all), or None.

        No sooner than they are asked for: a message is then still in the processor's cache when it is written.
        """
        cdef Py_ssize_t most
        cdef list places
        if not self.claimed or (room >= 0 and len(self.ready) >= room):
            return None
        if room < 0:
            return self.claimed.popleft()
        work, places = self.claimed.popleft()
        most = (room - len(self.ready)) * self.size
        if len(places) > most:
            self.claimed.appendleft((work, places[most:]))
            places = places[:most]
        return work, places

    def hand_out(self, list taken not None, Py_ssize_t count, tuple limits):
        """Move the first `count` of `ready` to `taken`; how many recipients that are.

        limits  that have handed them out, or None
        """
        cdef object popleft = self.ready.popleft
        cdef Transaction tx
        cdef Py_ssize_t before = self.passed
        for _ in range(count):
            tx = popleft()
            if limits is not None:
                tx.count(limits)
            taken.append(tx)
            self.passed += len(tx.rcpts)
        return self.passed - before


def held(hands):
    """By all of these together."""
    cdef Py_ssize_t count = 0
    cdef Hand hand
    for hand in hands:
        count += hand.held()
    return count


def waiting(dict works not None):
    """Positions of these chunks (by whatever key) that are not claimed yet."""
    cdef Py_ssize_t count = 0
    cdef Work work
    for work in works.values():
        count += work._waiting
    return count


cpdef int flags_of(bytes sender, list rcpts, object body):
    """The flags of a Transaction: what it needs of the server."""
    cdef int flags = 0 if is_ascii(body) else EIGHT_BIT
    cdef bytes rcpt
    cdef char bits = bits_of(sender)
    for rcpt in rcpts:
        bits |= bits_of(rcpt)
    return flags | UTF8 if bits & 0x80 else flags


cdef inline char bits_of(bytes address) noexcept:
    """The bits that any of its bytes has."""
    cdef const char* p = PyBytes_AS_STRING(address)
    cdef char bits = 0
    cdef Py_ssize_t size = PyBytes_GET_SIZE(address), place = 0
    cdef uint64_t eight, all_eight = 0
    while place + 8 <= size:
        memcpy(&eight, p + place, 8)
        all_eight |= eight
        place += 8
    while place < size:
        bits |= p[place]
        place += 1
    return bits | <char>0x80 if all_eight & 0x8080808080808080u else bits


cdef bint is_ascii(object body):
    return all([piece.isascii() for piece in body]) if type(body) is tuple else body.isascii()


def personal_transactions(list composed, Work work not None, list places, bint eight_bit):
    """(transactions, [(index, exception)]) of composed messages: each (sender, rcpt, body), or an exception.

    eight_bit  the bodies may have bytes beyond ASCII
    """
    cdef list made = [], failed = []
    cdef Py_ssize_t index
    cdef int flags, same = EIGHT_BIT if eight_bit else 0
    cdef bytes sender, rcpt
    for index in range(len(composed)):
        item = composed[index]
        if type(item) is tuple:
            sender, rcpt, body = item
            flags = same if rcpt.isascii() and sender.isascii() else UTF8 | EIGHT_BIT
            made.append(Transaction(sender, [rcpt], body, flags, work, places[index]))
        else:
            failed.append((index, item))
    return made, failed


def ask(Transaction tx not None, tuple asks, list rcpt_parameters):
    """Have a transaction that waits ask for more: as its constructor's arguments."""
    if rcpt_parameters is not None and len(rcpt_parameters) != len(tx.rcpts):
        raise ValueError(f"{len(rcpt_parameters)} rcpt_parameters for {len(tx.rcpts)} recipients")
    tx.asks, tx.rcpt_parameters = asks, rcpt_parameters


def wire_addresses(list rows not None):
    """The recipients of these rows, for RCPT (address.address_bytes)."""
    cdef dict row
    return [(<str?>row["email"]).encode() for row in rows]


def shared_transaction(bytes sender, object body, list rcpts, Work work not None, list places):
    """One message to all `rcpts`, which stand at `places` of the chunk."""
    cdef Transaction tx = Transaction(sender, rcpts, body, flags_of(sender, rcpts, body), work, -1)
    tx.positions = places
    return tx
