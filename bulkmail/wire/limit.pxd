cdef class Limit:
    cdef readonly object rate           # a second: 0.0 is closed, None is no limit
    cdef readonly Py_ssize_t burst      # recipients that may leave at once after a pause
    cdef public Py_ssize_t connections  # transactions under way at most; 0: no limit
    cdef readonly Py_ssize_t reserved   # recipients handed out whose MAIL is not written
    cdef readonly Py_ssize_t under_way  # transactions handed out that have no end yet
    cdef double _rate                   # 0 where there is no limit
    cdef double _debt, _at              # recipients that left and are not worked off, at that time
    cdef readonly object own_burst      # as it was stated, or None
    cdef dict _caps
    cdef double _settle(self, double now) noexcept
    cdef Py_ssize_t _fitting(self, Py_ssize_t wanted, Py_ssize_t each, double now, Py_ssize_t at_once) noexcept

cdef void note_left(tuple limits, Py_ssize_t count, double now) noexcept
cdef void note_end(tuple limits, Py_ssize_t count, bint left) noexcept
