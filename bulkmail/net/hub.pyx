# All sockets of an event loop behind one descriptor (Linux).
#
# Why it has this shape. A loop's own transports cost a Python call, a bytes object and a callback's context for each
# read, and the loop is woken for each reply. Here the loop watches one descriptor; one callback takes what is ready of
# all sockets, and each is read into the same buffer and handed on in C.
#
# Where much comes in, waking up costs more than what is done then, for us and for whoever answers. So after a batch the
# sockets are not watched for a moment, a timer is: what comes meanwhile is one batch. The moment is as long as half of
# the members need to answer, so that the server still has the others' work. A batch that finds nothing ends that.
# Nothing is lost by it: epoll tells what is ready, not what has become so.
#
# With few sockets it is the other way round: each answer is waited for, and two processors that go to sleep and wake each
# other take longer than the answer does. So where answers come at once the hub lingers for them, and sleeps if none came.
#
# Owns      two epoll descriptors, a timer, the read buffer; its members while they are in it.
# Promises  a member's happened() is called from the loop alone, never from within a call to it or to the hub; a batch is
#           bounded, and other callbacks of the loop have their turn between batches.
# Errors    happened() sees to its own; what it raises all the same (KeyboardInterrupt) leaves the hub as it should be.
from libc.errno cimport errno
from libc.stdlib cimport free, malloc

import os
from weakref import WeakKeyDictionary, ref

cdef enum:
    MOST = 256              # sockets that one batch looks at
    MANY = 10               # members from which on it rests: fewer have little to share a batch, and it lingers
    LONGEST = 1_000_000     # nanoseconds that a rest may last, from the beginning of a batch to the next one
    QUIET = 5_000_000       # nanoseconds without a batch: it is the line that takes time, and the rest of a round is near
    LONE = 16               # batches without a rest behind one that was not worth it: a single one may talk among thousands
    LINGER = 50_000         # nanoseconds without sleep: to sleep and be woken costs both sides together about as much
    MISSES = 4              # times in a row that nothing came: the server takes longer
    UNLINGERED = 64         # batches until it tries again: less than a microsecond each is then lost

AVAILABLE = bool(BM_EVENTS)
# Off, connections are given to the event loop's own transports, as on systems that have no hub.
enabled = AVAILABLE and os.environ.get("BULKMAIL_HUB") != "off"

# The hub is kept by the loop that watches its descriptor, and nobody else, so that neither keeps the other.
_hubs = WeakKeyDictionary()


def hub_of(loop):
    """The loop's hub; None where there can be none, or it is turned off."""
    if not enabled:
        return None
    known = _hubs.get(loop)
    hub = None if known is None else known()
    if hub is None:
        hub = Hub(loop)
        _hubs[loop] = ref(hub)
    return hub


cdef class Watched:
    """What a hub watches. A base of net.stream.Stream."""

    def __cinit__(self):
        self.fd = -1

    cdef int happened(self, unsigned int what, double now) except -1:
        """what: BM_IN and BM_OUT, or bits that are neither when it was hung up; as a hint. now: the loop's time."""
        return 0


cdef class Hub:
    """Has descriptors while it has members."""

    def __cinit__(self, loop):
        self._sockets = self._outer = self._timer = -1
        self._members, self._gone, self._behind = set(), [], []
        self.loop = loop
        self.buffer = <unsigned char*>malloc(READ_SIZE)
        if self.buffer == NULL:
            raise MemoryError()

    def __dealloc__(self):
        self._close()           # there are still descriptors if its loop was closed before its members had left
        free(self.buffer)

    def __len__(self):
        return len(self._members)

    # -- members

    cdef int watch(self, Watched one, unsigned int wanted) except -1:
        """Watch `one`, from now on a member, for `wanted` alone."""
        if wanted == one.wanted or one.fd < 0:
            return 0
        if self._sockets < 0:
            self._begin()
        # what is not found has been closed by somebody else, and is watched no more
        if bm_events_watch(self._sockets, one.fd, one.wanted, wanted, <void*>one) < 0 and wanted:
            raise OSError(errno, os.strerror(errno))
        one.wanted = wanted
        self._members.add(one)
        return 0

    cdef leave(self, Watched one):
        """It is no member any more; before its descriptor is closed."""
        self.watch(one, 0)
        one.fd = -1
        self._members.discard(one)
        if self._busy:
            self._gone.append(one)
        elif not self._members:
            self._end()

    cpdef soon(self, callback):
        """Have it called behind the batch that is under way, or soon."""
        if self._busy:
            self._behind.append(callback)
        else:
            self.loop.call_soon(callback)

    # -- batches

    def _on_ready(self):
        cdef long long began = bm_now()
        cdef int found = 0
        self.batches += 1
        try:
            self._busy = True
            found = self._batch()
            self._busy = False
            self._call_behind()
        finally:
            self._busy = False
            self._gone.clear()
            while self._behind:     # something was raised that ends the program, or means to
                self.loop.call_soon(self._behind.pop(0))
            if not self._members:
                self._end()
            else:
                self._rest(found, began)
                if len(self._members) < MANY:       # and so it does not rest
                    self._linger()

    cdef int _batch(self) except -1:
        cdef bm_event events[MOST]
        cdef int place, found
        cdef double now
        cdef Watched one
        if len(self._members) == 1:
            return self._call_only()
        found = bm_events_take(self._sockets, events, MOST)
        if found > 0:
            now = self.loop.time()
            for place in range(found):
                one = <Watched>bm_event_owner(&events[place])
                if one.wanted:
                    one.happened(bm_event_what(&events[place]), now)
        return found

    cdef int _call_only(self) except -1:
        """The news can only be the one member's, so nobody is asked whose: with one connection each reply is a batch."""
        cdef Watched one
        for one in self._members:       # next(iter()) would make an iterator for each reply
            break
        if one.wanted:
            one.happened(one.wanted, self.loop.time())
        return 1

    cdef int _call_behind(self) except -1:
        while self._behind:         # not busy any more: nothing is added meanwhile
            callback = self._behind.pop(0)
            try:
                callback()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.loop.call_exception_handler({"message": f"Exception in {callback!r}", "exception": error})
        return 0

    cdef int _rest(self, int found, long long began) except -1:
        cdef long long since = began - self._last
        cdef long long pause = self._pause(found, since)
        self._last = began
        if since > QUIET:
            self._lone = LONE
        if self._resting and found < 2:
            self._lone, pause = LONE, 0
        elif self._lone > 0:
            self._lone, pause = self._lone - 1, 0
        if not pause and not self._resting:
            return 0
        if (pause > 0) != self._resting:
            bm_events_mute(self._outer, self._sockets, pause > 0)
        bm_timer_set(self._timer, began + pause if pause else 0)
        self._resting = pause > 0
        return 0

    cdef int _linger(self) except -1:
        """Wait a moment for the next batch, without the interpreter's lock. What was in part may be complete then."""
        cdef Watched one
        cdef bint came
        if self._unlingered > 0:
            self._unlingered -= 1
            return 0
        self.lingered += 1
        with nogil:
            came = bm_events_linger(self._sockets, LINGER)
        if came:
            self._missed = 0
            return 0
        for one in self._members:
            bm_acknowledge(one.fd)
        self._missed += 1
        if self._missed >= MISSES:
            self._missed, self._unlingered = MISSES - 1, UNLINGERED
        return 0

    cdef long long _pause(self, int found, long long since) noexcept:
        """How long to rest: until half of the members will have news, at the pace of late; 0 where that is too long."""
        cdef Py_ssize_t members = len(self._members)
        cdef long long pause
        if found == 0 or members < MANY:
            return 0
        self._gap += (min(since, LONGEST) // found - self._gap) // 4
        pause = min(self._gap * (members // 2), LONGEST)
        return pause if pause >= 2 * self._gap else 0

    # -- descriptors

    cdef int _begin(self) except -1:
        self._sockets, self._outer, self._timer = bm_events_open(), bm_events_open(), bm_timer_open()
        if (self._sockets < 0 or self._outer < 0 or self._timer < 0
                or bm_events_watch(self._outer, self._sockets, 0, BM_IN, NULL) < 0
                or bm_events_watch(self._outer, self._timer, 0, BM_IN, NULL) < 0):
            error = OSError(errno, os.strerror(errno))
            self._close()
            raise error
        self.loop.add_reader(self._outer, self._on_ready)
        return 0

    cdef _end(self):
        if self._outer >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._outer)
        self._close()

    cdef void _close(self) noexcept:
        if self._timer >= 0:
            bm_events_close(self._timer)
        if self._outer >= 0:
            bm_events_close(self._outer)
        if self._sockets >= 0:
            bm_events_close(self._sockets)
        self._sockets = self._outer = self._timer = -1
        self._resting, self._last = False, 0
