cdef extern from "events.h":
    enum:
        BM_EVENTS, BM_IN, BM_OUT
    ctypedef struct bm_event:
        pass
    int bm_events_open()
    int bm_events_watch(int set, int fd, unsigned before, unsigned what, void* owner)
    int bm_events_mute(int set, int inner, bint muted)
    int bm_events_take(int set, bm_event* found, int most)
    void* bm_event_owner(const bm_event* event)
    unsigned bm_event_what(const bm_event* event)
    void bm_events_close(int fd)
    long long bm_now()
    int bm_timer_open()
    int bm_timer_set(int timer, long long at)
    Py_ssize_t bm_receive(int fd, void* buffer, size_t size)
    bint bm_events_linger(int set, long long most) nogil
    void bm_acknowledge(int fd)

cdef class Watched:
    cdef int fd                         # -1 once it has left the hub
    cdef unsigned int wanted            # what the hub watches it for
    cdef int happened(self, unsigned int what, double now) except -1

cdef class Hub:
    cdef readonly object loop
    cdef readonly long long batches, lingered   # so far, so often
    cdef unsigned char* buffer          # READ_SIZE bytes, for whoever reads in happened()
    cdef bytearray plain                # where TLS puts what it has decrypted, made when it is needed
    cdef set _members
    cdef list _gone                     # left while a batch is under way, which may still name them
    cdef list _behind                   # to be called behind the batch
    cdef bint _busy                     # a batch is under way
    cdef int _sockets, _outer, _timer   # descriptors: the members' set; what the loop watches: that set and the timer
    cdef bint _resting                  # the timer is set, and the members' set is not watched
    cdef int _lone                      # so many batches more without a rest
    cdef int _missed                    # so often in a row nothing came while it lingered
    cdef int _unlingered                # so many batches more without lingering
    cdef long long _last                # when the last batch began
    cdef long long _gap                 # nanoseconds between two members' news, of late
    cdef object __weakref__
    cdef int watch(self, Watched one, unsigned int wanted) except -1
    cdef leave(self, Watched one)
    cpdef soon(self, callback)
    cdef int _begin(self) except -1
    cdef _end(self)
    cdef void _close(self) noexcept
    cdef int _batch(self) except -1
    cdef int _call_only(self) except -1
    cdef int _call_behind(self) except -1
    cdef int _rest(self, int found, long long began) except -1
    cdef int _linger(self) except -1
    cdef long long _pause(self, int found, long long since) noexcept

cdef enum:
    READ_SIZE = 65536                   # the most that one read takes
