# How many recipients may leave in any time, counted where they leave: when MAIL is written. No clock: times are parameters.
#
# A leaky bucket. Each recipient that leaves adds one to `debt`, which time works off at the rate. Whoever is handed out
# and waits in a session is `reserved`: it adds to the debt only when its MAIL is written, whenever that is.
#
# Promises  debt + reserved is never above the burst when something is handed out, and writing moves one to the other. So
#           no debt is ever above the burst; and since what left in a window is the debt at its end, less that at its
#           beginning, plus what was worked off meanwhile: at most rate x T + burst in any window of T seconds. Where the
#           rate changes in between: the integral of the rate plus the larger burst.
# Owns      nothing but numbers. Times are monotonic seconds; one that lies behind counts as the latest so far.
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport INFINITY, floor

BURST_SECONDS = 0.1          # the burst that a rate allows: a tenth of a second's worth, at least one
OWN = "own"                  # the cap that __init__ and change() set

cdef double SLACK = 1e-9     # seconds: a float that is late by rounding is not late
cdef double CRUMB = 1e-9     # recipients: what adding up leaves


cdef class Limit:
    """rate: a second, or None; burst: at once after a pause, default floor(rate x 0.1 s), at least one.

    connections   transactions under way at most; 0: no limit
    """

    def __init__(self, rate=None, burst=None, Py_ssize_t connections=0):
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate is above 0, not {rate}")
        self.connections = connections
        self.own_burst = burst
        self._caps = {OWN: (rate, None)}
        self._refresh()

    # -- how fast

    def change(self, rate, double now, burst=None, until=None):
        """From `now` on another rate: None is no limit, 0 is closed. burst: None for a tenth of a second's worth.

        until   of a closed one: when it will be changed (monotonic seconds); wait() then says so
        """
        self.own_burst = burst
        return self.cap(OWN, rate, now, until)

    def cap(self, str name not None, rate, double now, until=None):
        """One of several that have a say: the least of all caps holds. rate: None takes this one away, 0 closes.

        returns whether less may leave than before: what waits in sessions is then to be taken back
        """
        if rate is not None and not rate >= 0:
            raise ValueError(f"a rate is 0 or more, not {rate}")
        self._settle(now)
        before, burst = self.rate, self.burst
        if rate is None and name != OWN:
            self._caps.pop(name, None)
        else:
            self._caps[name] = (rate, until)
        self._refresh()
        return self.rate is not None and (before is None or self.rate < before or self.burst < burst)

    def caps(self):
        """{name: rate} of those that say something."""
        return {name: rate for name, (rate, _) in self._caps.items() if rate is not None}

    def _refresh(self):
        rates = [float(rate) for rate, _ in self._caps.values() if rate is not None]
        self.rate = min(rates) if rates else None
        self._rate = self.rate or 0.0
        burst = self.own_burst if self.own_burst is not None else self._rate * BURST_SECONDS
        self.burst = max(1, int(floor(burst)))

    @property
    def limited(self):
        """Whether there is a rate, or a number of connections."""
        return self.rate is not None or self.connections > 0

    cdef double _settle(self, double now) noexcept:
        if now > self._at:
            self._debt -= (now - self._at) * self._rate
            if self._debt < 0 or self.rate is None:
                self._debt = 0
            self._at = now
        return self._debt

    # -- how many

    def room(self, double now):
        """How many recipients may leave at `now`: a whole number, or infinity."""
        if self.rate is None:
            return INFINITY
        if self._rate == 0:
            return 0
        return max(0, int(floor(self.burst - self._settle(now) - self.reserved + SLACK * self._rate + CRUMB)))

    def grant(self, Py_ssize_t wanted, double now):
        """How many of `wanted` may leave at `now`; they count as having left."""
        cdef Py_ssize_t granted = max(0, int(min(wanted, self.room(now))))
        if self.rate is not None:
            self._debt += granted
        return granted

    def give_back(self, Py_ssize_t count):
        """Of the granted ones `count` did not leave, and no time has passed since."""
        self._debt = max(0.0, self._debt - count)

    def places(self):
        """Transactions that may be handed out beside those under way: a whole number, or infinity."""
        return max(0, self.connections - self.under_way) if self.connections else INFINITY

    def wait(self, double now, Py_ssize_t count=1):
        """Seconds until `count` may leave (at most the burst): exact if nothing is reserved, else the least it can be.

        Infinity: closed, and nobody knows for how long. A number of connections is not waited for: who ends tells.
        """
        cdef double over
        if self.rate is None:
            return 0.0
        if self._rate == 0:
            return max(0.0, self._opens() - now)
        over = self._settle(now) + self.reserved + min(count, self.burst) - self.burst
        return over / self._rate if over > SLACK * self._rate + CRUMB else 0.0

    def _opens(self):
        times = [until for rate, until in self._caps.values() if rate is not None and rate == 0]
        return INFINITY if None in times else max(times)

    cdef Py_ssize_t _fitting(self, Py_ssize_t wanted, Py_ssize_t each, double now, Py_ssize_t at_once) noexcept:
        cdef double room
        if self.connections > 0:
            wanted = max(0, min(wanted, self.connections - self.under_way))
        if self.rate is None or wanted == 0:
            return wanted
        room = self.burst - self._settle(now) - self.reserved + SLACK * self._rate + CRUMB
        if room < each or self._rate == 0:
            return 0
        # Half of the burst may wait in sessions: the other half is worked off meanwhile, so that the rate is used.
        return min(wanted, <Py_ssize_t>(room / each), at_once + max(0, self.burst // 2 - self.reserved) // each)

    def __repr__(self):
        return f"<Limit {self.rate}/s burst {self.burst}, {self.reserved} reserved, {self.under_way} under way>"


def reserve(tuple limits not None, Py_ssize_t wanted, Py_ssize_t each, double now, Py_ssize_t at_once):
    """How many of `wanted` transactions of `each` recipients all limits allow; they are handed out, and to be marked.

    at_once   so many of them, the first, will have their MAIL written at once
    """
    cdef Limit limit
    at_once = max(0, at_once)
    for limit in limits:
        wanted = limit._fitting(wanted, each, now, at_once)
        if wanted <= 0:
            return 0
    for limit in limits:
        limit.reserved += wanted * each
        limit.under_way += wanted
    return wanted


cdef void note_left(tuple limits, Py_ssize_t count, double now) noexcept:
    """MAIL of a transaction with so many recipients is written."""
    cdef Py_ssize_t place
    cdef Limit limit
    for place in range(PyTuple_GET_SIZE(limits)):
        limit = <Limit>PyTuple_GET_ITEM(limits, place)
        limit.reserved -= count
        if limit.rate is not None:
            limit._settle(now)
            limit._debt += count


cdef void note_end(tuple limits, Py_ssize_t count, bint left) noexcept:
    """A transaction has its end. left: its MAIL was written."""
    cdef Py_ssize_t place
    cdef Limit limit
    for place in range(PyTuple_GET_SIZE(limits)):
        limit = <Limit>PyTuple_GET_ITEM(limits, place)
        limit.under_way -= 1
        if not left:
            limit.reserved -= count
