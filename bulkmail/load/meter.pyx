# What a load run counts, by the batch of finished transactions.
#
# Owns      the counts and a histogram of latencies of a fixed size, however many messages there are.
# Promises  no Python call and no allocation a message for plain deliveries; their transactions are made ready for the
#           next message. Everything else is handed back.
from libc.string cimport memset

from bulkmail.wire.transaction cimport TX_DONE, Transaction

# Buckets as in HdrHistogram: below 2 * STEPS microseconds one for each, above it STEPS for each power of two. A bucket is
# then at most 1/64 of its value wide, and its middle at most 0.8 % off. 2^40 microseconds are twelve days.
cdef enum:
    STEPS = 64
    HIGHEST = 40
    BUCKETS = (HIGHEST - 5) * STEPS


cdef class Histogram:
    """Latencies, to within 1 % or half a microsecond, in a fixed amount of memory."""
    cdef readonly long long count
    cdef long long _buckets[BUCKETS]

    def __cinit__(self):
        memset(self._buckets, 0, sizeof(self._buckets))

    cpdef record(self, double seconds):
        self._buckets[bucket_of(seconds)] += 1
        self.count += 1

    def percentile(self, double percent):
        """The latency in seconds that `percent` of all (0 to 100) did not exceed; None where there are none."""
        cdef long long rank = max(1, <long long>(self.count * percent / 100 + 0.999999)), seen = 0
        cdef int place
        if self.count == 0:
            return None
        for place in range(BUCKETS):
            seen += self._buckets[place]
            if seen >= min(rank, self.count):
                break
        return middle_of(place)


cdef int bucket_of(double seconds) noexcept:
    cdef unsigned long long rest
    cdef int power = 0
    if not seconds > 0:
        return 0
    if seconds * 1e6 >= <double>(<unsigned long long>1 << HIGHEST):
        return BUCKETS - 1
    rest = <unsigned long long>(seconds * 1e6)
    while rest >= 2 * STEPS:
        rest >>= 1
        power += 1
    return power * STEPS + <int>rest


cdef double middle_of(int place):
    """Seconds."""
    cdef int power = max(0, place // STEPS - 1)
    cdef double width = <double>(<unsigned long long>1 << power)
    return ((place - power * STEPS) * width + width / 2) / 1e6


cdef class Meter:
    """latencies   of the messages that were taken: from MAIL to the verdict
    taken       messages that the server took, for one recipient at least
    """
    cdef readonly Histogram latencies
    cdef public long long taken

    def __init__(self):
        self.latencies = Histogram()

    def note(self, list finished not None, list spare not None):
        """Count the transactions that were taken for everybody; they are ready again and in `spare`. Returns the rest."""
        cdef Transaction tx
        cdef list rest = []
        for tx in finished:
            if (tx.state != TX_DONE or tx.rejected is not None or tx.error is not None or tx.reply is None
                    or tx.reply.code >= 300 or not tx.judged):
                rest.append(tx)
                continue
            self.count(tx)
            spare.append(renewed(tx))
        return rest

    cpdef count(self, Transaction tx):
        """One that was taken."""
        self.taken += 1
        self.latencies.record(tx.done_at - tx.mail_at)


cpdef Transaction renewed(Transaction tx):
    """The same, for another message."""
    retried(tx)
    tx.tries = 0
    return tx


cpdef Transaction retried(Transaction tx):
    """The same, for the same message on another connection; one that was never begun has not been tried."""
    tx.again()
    tx.tries -= tx.mail_at == 0
    tx.mail_at = 0
    return tx
