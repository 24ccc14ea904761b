# What happened to recipients, packed: records of deliveries, and arithmetic on outcome bytes. No files, no clock.
#
# A record is what the report tells of one delivery: about 70 bytes in hand, about 15 once encoded, since each one is
# written as its difference from the one before it in the same chunk.
#
# Owns      records of up to MAX_RECORDS deliveries and up to MAX_TEXT bytes of replies, until flush().
# Promises  add() costs no Python object; flush() gives every record once, in the order they came, by chunk.
# Errors    MemoryError; ValueError from decode() and tally() where bytes are damaged.
#
# A record's bytes; numbers are LEB128 varints, signed ones zigzag:
#   flags, position - (previous position + 1), milliseconds from the previous start, milliseconds it took,
#   [attempt, relay, egress, code, outcome]   unless SAME_HEAD: as in the record before
#   [prefix, suffix, length, bytes]           unless SAME_REPLY: the reply before with its middle replaced
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport llrint
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from typing import NamedTuple

# A commit covers some 512 recipients; this many means that none has been made for a long time, and add() says so.
MAX_RECORDS = 65536
# A reply is a line of up to 512 bytes (RFC 5321 section 4.5.3.1.5); of a longer one the report needs no more.
MAX_REPLY_KEPT = 512
cdef enum:
    RECORDS_BOUND = 65536
    REPLY_BOUND = 512
    TEXT_BOUND = 8 << 20
    FIRST_ROOM = 1024
    HEAD_BOUND = 128             # the longest encoding of everything but the reply: 12 varints of at most 10 bytes

cdef enum:
    SAME_HEAD = 1
    SAME_REPLY = 2


class Detail(NamedTuple):
    """One delivery, or another outcome with its reply. started, ended: Unix seconds, to the millisecond."""

    position: int
    attempt: int
    relay: int
    egress: int
    started: float
    ended: float
    code: int
    reply: bytes
    outcome: int


# ---- encoding --------------------------------------------------------------------------------------------------------

cdef inline char* put(char* out, uint64_t value) noexcept nogil:
    while value >= 128:
        out[0] = <char>(value | 128)
        out += 1
        value >>= 7
    out[0] = <char>value
    return out + 1


cdef inline uint64_t zigzag(int64_t value) noexcept nogil:
    return (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)


cdef inline int64_t milliseconds(double seconds) noexcept nogil:
    # Clamped to a range that survives subtraction; NaN becomes 0.
    return llrint(seconds * 1000.0) if -1e12 < seconds < 1e12 else 0


cdef inline bint same_head(const Record* a, const Record* b) noexcept nogil:
    return (a.attempt == b.attempt and a.relay == b.relay and a.egress == b.egress and a.code == b.code
            and a.outcome == b.outcome)


cdef char* put_reply(char* out, const char* old, Py_ssize_t old_size, const char* new, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t shared = min(old_size, size), prefix = 0, suffix = 0
    while prefix < shared and old[prefix] == new[prefix]:
        prefix += 1
    while suffix < shared - prefix and old[old_size - 1 - suffix] == new[size - 1 - suffix]:
        suffix += 1
    out = put(out, prefix)
    out = put(out, suffix)
    out = put(out, size - prefix - suffix)
    memcpy(out, new + prefix, size - prefix - suffix)
    return out + (size - prefix - suffix)


cdef char* put_record(char* out, const Record* r, const Record* before, const char* text) noexcept nogil:
    cdef int64_t start = milliseconds(r.started), took = milliseconds(r.ended) - start
    cdef bint head = same_head(r, before)
    cdef bint reply = r.text == before.text and r.length == before.length
    out = put(out, (SAME_HEAD if head else 0) | (SAME_REPLY if reply else 0))
    out = put(out, zigzag(<int64_t>r.position - before.position - 1))
    out = put(out, zigzag(start - milliseconds(before.started)))
    out = put(out, zigzag(took))
    if not head:
        out = put(out, zigzag(r.attempt))
        out = put(out, zigzag(r.relay))
        out = put(out, zigzag(r.egress))
        out = put(out, zigzag(r.code))
        out = put(out, zigzag(r.outcome))
    if not reply:
        out = put_reply(out, text + before.text, before.length, text + r.text, r.length)
    return out


cdef class DetailBuffer:
    """Collects records of deliveries between two commits.

    offset  added to every time: pass time.time() - loop.time() where times come from the loop's clock

    add(chunk, position, attempt, relay, egress, started, ended, code, reply, outcome) -> bool
        reply: the server's bytes, with or without code and line end, kept up to MAX_REPLY_KEPT; relay, egress: numbers
        from name_id; False: the buffer is full and nothing was kept, so flush and add again
    flush() -> [(chunk, records)], empty afterwards
    """

    def __cinit__(self, double offset=0.0):
        self.offset = offset

    def __dealloc__(self):
        free(self._records)
        free(self._text)

    def __len__(self):
        return self._count

    cdef bint _grow(self, Py_ssize_t length) except -1:
        """Make room for one more record and `length` bytes of text; False at the bounds."""
        cdef void* moved
        cdef Py_ssize_t room
        if self._count >= RECORDS_BOUND or self._used + length > TEXT_BOUND:
            return False
        if self._count == self._room:
            room = max(FIRST_ROOM, self._room * 2)
            moved = realloc(self._records, room * sizeof(Record))
            if moved is NULL:
                raise MemoryError()
            self._records = <Record*>moved
            self._room = room
        if self._used + length > self._text_room:
            room = max(self._used + length, 2 * self._text_room, 64 * FIRST_ROOM)
            moved = realloc(self._text, room)
            if moved is NULL:
                raise MemoryError()
            self._text = <char*>moved
            self._text_room = room
        return True

    cpdef bint add(self, int64_t chunk, int32_t position, int32_t attempt, int32_t relay, int32_t egress,
                   double started, double ended, int32_t code, bytes reply, int32_t outcome) except -1:
        cdef Py_ssize_t length = min(PyBytes_GET_SIZE(reply), <Py_ssize_t>REPLY_BOUND) if reply is not None else 0
        cdef const char* bytes_ = PyBytes_AS_STRING(reply) if length else NULL
        cdef Record* r
        cdef const Record* before
        if self._count == self._room or self._used + length > self._text_room:
            if not self._grow(length):
                return False
        r = self._records + self._count
        r.chunk, r.position, r.attempt, r.relay, r.egress = chunk, position, attempt, relay, egress
        r.started, r.ended = started + self.offset, ended + self.offset
        r.code, r.outcome, r.next = code, outcome, -1
        r.text, r.length = <int32_t>self._used, <int32_t>length
        if self._count:
            before = r - 1
            if before.length == length and (length == 0 or memcmp(self._text + before.text, bytes_, length) == 0):
                r.text = before.text
                self._count += 1
                return True
        if length:
            memcpy(self._text + self._used, bytes_, length)
            self._used += length
        self._count += 1
        return True

    def flush(self):
        """[(chunk number, its records)] of all that was added; chunks in the order of their first record."""
        found = [(self._records[first].chunk, self._encode(first)) for first in self._chain()]
        self._count = self._used = 0
        return found

    cdef list _chain(self):
        """Link the records of each chunk; the index of each chunk's first one.

        A job has a handful of chunks in hand, and neighbours are mostly of one, so a look through the chunks met is
        short.
        """
        cdef list firsts = []
        cdef int32_t i, k = 0, met = 0
        cdef int32_t* lasts = NULL
        cdef Record* records = self._records
        if self._count == 0:
            return firsts
        lasts = <int32_t*>malloc(self._count * sizeof(int32_t))
        if lasts is NULL:
            raise MemoryError()
        try:
            for i in range(<int32_t>self._count):
                if k == met or records[lasts[k]].chunk != records[i].chunk:
                    k = 0
                    while k < met and records[lasts[k]].chunk != records[i].chunk:
                        k += 1
                if k == met:
                    firsts.append(i)
                    met += 1
                else:
                    records[lasts[k]].next = i
                lasts[k] = i
        finally:
            free(lasts)
        return firsts

    cdef bytes _encode(self, int32_t first):
        cdef Record zero
        cdef const Record* before = &zero
        cdef Py_ssize_t bound = 0
        cdef int32_t i = first
        cdef char* buffer
        cdef char* end
        memset(&zero, 0, sizeof(Record))
        zero.position = -1
        while i >= 0:
            bound += HEAD_BOUND + self._records[i].length
            i = self._records[i].next
        buffer = <char*>malloc(bound)
        if buffer is NULL:
            raise MemoryError()
        try:
            end = buffer
            i = first
            while i >= 0:
                end = put_record(end, self._records + i, before, self._text)
                before = self._records + i
                i = before.next
            return PyBytes_FromStringAndSize(buffer, end - buffer)
        finally:
            free(buffer)


# ---- decoding --------------------------------------------------------------------------------------------------------

cdef inline int64_t within(int64_t value) except? -1:
    """value, if it can be a number or a sum of ours: the clamp in milliseconds() is far below. Sums so never overflow."""
    if not -(<int64_t>1 << 60) < value < (<int64_t>1 << 60):
        raise ValueError("a damaged detail record: a number is out of all bounds")
    return value


cdef class _Reader:
    cdef bytes _data
    cdef Py_ssize_t at, size

    def __cinit__(self, bytes data not None):
        self._data = data
        self.size = PyBytes_GET_SIZE(data)

    cdef uint64_t number(self) except? 1:
        cdef uint64_t value = 0
        cdef int shift = 0
        cdef uint8_t byte
        while shift < 64 and self.at < self.size:
            byte = <uint8_t>PyBytes_AS_STRING(self._data)[self.at]
            self.at += 1
            value |= <uint64_t>(byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError(f"a damaged detail record: no number ends at byte {self.at}")

    cdef int64_t signed(self) except? -1:
        cdef uint64_t value = self.number()
        return within(<int64_t>(value >> 1) ^ -<int64_t>(value & 1))

    cdef bytes reply(self, bytes old):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(old)
        cdef uint64_t prefix = self.number(), suffix = self.number(), middle = self.number()
        if (prefix > <uint64_t>size or suffix > <uint64_t>size - prefix
                or middle > <uint64_t>(self.size - self.at)):
            raise ValueError(f"a damaged detail record: the reply at byte {self.at} is longer than what is there")
        found = old[:prefix] + self._data[self.at:self.at + <Py_ssize_t>middle] + old[size - <Py_ssize_t>suffix:]
        self.at += <Py_ssize_t>middle
        return found

    cdef int skip_reply(self) except -1:
        self.number()
        self.number()
        cdef uint64_t middle = self.number()
        if middle > <uint64_t>(self.size - self.at):
            raise ValueError(f"a damaged detail record: the reply at byte {self.at} is longer than what is there")
        self.at += <Py_ssize_t>middle
        return 0


def decode(records):
    """The Details of what flush() gave for one chunk, in order. Raises ValueError where the bytes are damaged."""
    cdef _Reader reader = _Reader(records)
    cdef int64_t position = -1, start = 0
    cdef uint64_t flags
    head = (0, 0, 0)
    code, outcome, reply = 0, 0, b""
    while reader.at < reader.size:
        flags = reader.number()
        position = within(position + reader.signed() + 1)
        start = within(start + reader.signed())
        took = within(start + reader.signed()) - start
        if not flags & SAME_HEAD:
            head = (reader.signed(), reader.signed(), reader.signed())
            code, outcome = reader.signed(), reader.signed()
        if not flags & SAME_REPLY:
            reply = reader.reply(reply)
        yield Detail(position, *head, start / 1000.0, (start + took) / 1000.0, code, reply, outcome)


# Slots of time taken: 8 an octave, so that a time is known to 12 %; the last one is 37 hours and more.
cdef enum:
    TOOK_SLOTS = 208


cdef inline Py_ssize_t took_slot(int64_t ms) noexcept nogil:
    # Below 8 ms one each; then 8 for every doubling.
    cdef int shift = 0
    if ms < 0:
        return 0
    while (ms >> shift) > 15:
        shift += 1
    return min(8 * shift + (ms >> shift), <int64_t>TOOK_SLOTS - 1)


cdef _note(dict found, key, Py_ssize_t count):
    if count:
        found[key] = found.get(key, 0) + count


def sum_deliveries(records, dict seconds not None, dict ways not None, list took not None):
    """Add up the deliveries in what flush() gave for one chunk: as decode(), without an object for each.

    seconds  Unix second in which it was delivered -> how many
    ways     (relay, egress) -> how many
    took     TOOK_SLOTS numbers: how many took so long (from MAIL to the reply); took_bounds() says what a slot means

    Raises ValueError where the bytes are damaged; some are counted then.
    """
    cdef _Reader reader = _Reader(records)
    cdef int64_t start = 0, spent, second = 0, last = 0, position = -1
    cdef Py_ssize_t by_second = 0, by_way = 0, i
    cdef Py_ssize_t[TOOK_SLOTS] slots
    cdef uint64_t flags
    cdef object way = (0, 0)
    cdef bint delivered = False
    memset(slots, 0, sizeof(slots))
    while reader.at < reader.size:
        flags = reader.number()
        position = within(position + reader.signed() + 1)
        start = within(start + reader.signed())
        spent = within(start + reader.signed()) - start
        if not flags & SAME_HEAD:
            _note(ways, way, by_way)
            by_way = 0
            reader.signed()
            way = (reader.signed(), reader.signed())
            reader.signed()
            delivered = reader.signed() == c"D"
        if not flags & SAME_REPLY:
            reader.skip_reply()
        if not delivered:
            continue
        by_way += 1
        slots[took_slot(spent)] += 1
        second = (start + spent) // 1000
        if second != last:
            _note(seconds, last, by_second)
            by_second, last = 0, second
        by_second += 1
    _note(ways, way, by_way)
    _note(seconds, last, by_second)
    for i in range(TOOK_SLOTS):
        if slots[i]:
            took[i] += slots[i]


def took_bounds():
    """The least milliseconds of each slot of sum_deliveries()."""
    return [slot if slot < 16 else (slot % 8 + 8) << (slot // 8 - 1) for slot in range(TOOK_SLOTS)]


# ---- outcome bytes ---------------------------------------------------------------------------------------------------

cdef const char* ORDER = b".DFdmS?r"      # as ledger.OUTCOMES

# STEPS[old][new]: 1 only where the recipient was claimed, 2 always. The rules are at the head of the module ledger.
cdef uint8_t STEPS[256][256]

cdef void _allow(uint8_t old, const char* new, uint8_t how) noexcept:
    cdef int i = 0
    while new[i]:
        STEPS[old][<uint8_t>new[i]] = how
        i += 1

cdef void _fill_steps() noexcept:
    cdef int i
    memset(STEPS, 0, sizeof(STEPS))
    for i in range(8):
        STEPS[<uint8_t>ORDER[i]][<uint8_t>ORDER[i]] = 2
    _allow(c".", b"Dd?", 1)
    _allow(c".", b"FSm", 2)
    _allow(c"d", b"mF", 2)
    _allow(c"?", b"DFdm", 2)

_fill_steps()


def tally(bytes outcome not None, Py_ssize_t claimed):
    """How many recipients have each outcome, in the order of ledger.OUTCOMES; those without one below `claimed` last.

    The first number holds those without one from `claimed` on. Raises ValueError where a byte is no outcome.
    """
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(outcome)
    cdef Py_ssize_t[256] seen
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(outcome)
    cdef Py_ssize_t open_claims = 0, known = 0
    memset(seen, 0, sizeof(seen))
    for i in range(n):
        seen[data[i]] += 1
    if seen[<uint8_t>c"."]:
        for i in range(min(claimed, n)):
            open_claims += data[i] == <uint8_t>c"."
    for i in range(8):
        known += seen[<uint8_t>ORDER[i]]
    if known != n:
        raise ValueError(f"{n - known} of {n} bytes are no outcome")
    return (seen[<uint8_t>c"."] - open_claims, seen[<uint8_t>c"D"], seen[<uint8_t>c"F"], seen[<uint8_t>c"d"],
            seen[<uint8_t>c"m"], seen[<uint8_t>c"S"], seen[<uint8_t>c"?"], seen[<uint8_t>c"r"], open_claims)


cdef uint64_t EIGHT_DELIVERED = 0x0101010101010101u * c"D", EIGHT_WAITING = 0x0101010101010101u * c"."


def bad_step(bytes old not None, bytes new not None, Py_ssize_t claimed):
    """The first position whose outcome may not change so, or -1. Equal lengths are the caller's to check."""
    cdef const uint8_t* a = <const uint8_t*>PyBytes_AS_STRING(old)
    cdef const uint8_t* b = <const uint8_t*>PyBytes_AS_STRING(new)
    cdef Py_ssize_t i = 0, n = min(PyBytes_GET_SIZE(old), PyBytes_GET_SIZE(new))
    cdef uint64_t before, after
    cdef uint8_t how
    while i < n:
        if i + 8 <= n:      # of a chunk most are delivered, or wait, and stay so
            memcpy(&before, a + i, 8)
            memcpy(&after, b + i, 8)
            if before == after and (before == EIGHT_DELIVERED or before == EIGHT_WAITING):
                i += 8
                continue
        how = STEPS[a[i]][b[i]]
        if how == 0 or (how == 1 and i >= claimed):
            return i
        i += 1
    return -1
