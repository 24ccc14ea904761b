# Many pieces written to a non-blocking socket with few system calls and without copying.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.errno cimport errno

cdef extern from "gather.h":
    enum:
        BM_GATHER_MAX
    Py_ssize_t bm_gather(int fd, const char** buffers, const size_t* sizes, int count) nogil
    bint bm_gather_full()


cdef object gather(int fd, object out, Py_ssize_t* taken, int* error):
    """Write `out`: bytes, or a list of bytes and of views of bytes.

    returns  what the kernel did not take, a list, or None: it took all
    taken    how many bytes it took
    error    errno, if it took no more for another reason than that it has no room; 0
    """
    cdef list pieces = [out] if type(out) is bytes else out
    cdef Py_ssize_t first = 0, count, sent, given, total = len(pieces)
    taken[0] = error[0] = 0
    while first < total:
        count = min(total - first, BM_GATHER_MAX)
        sent = _send(fd, pieces, first, count, &given, error)
        taken[0] += sent
        if sent < given:
            return _rest(pieces, first, sent)
        first += count
    return None


cdef list _rest(list pieces, Py_ssize_t place, Py_ssize_t sent):
    """What follows the first `sent` bytes of pieces[place:]."""
    while sent >= <Py_ssize_t>len(pieces[place]):
        sent -= len(pieces[place])
        place += 1
    return [memoryview(pieces[place])[sent:], *pieces[place + 1:]]


cdef Py_ssize_t _send(int fd, list pieces, Py_ssize_t first, Py_ssize_t count, Py_ssize_t* given, int* error):
    """How many bytes of pieces[first:first + count], `given` in all, the kernel took."""
    cdef const char* buffers[BM_GATHER_MAX]
    cdef size_t sizes[BM_GATHER_MAX]
    cdef Py_buffer* view
    cdef Py_ssize_t place, sent
    given[0] = 0
    for place in range(count):
        piece = pieces[first + place]
        if type(piece) is bytes:
            buffers[place], sizes[place] = PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)
        else:
            view = PyMemoryView_GET_BUFFER(piece)
            buffers[place], sizes[place] = <const char*>view.buf, view.len
        given[0] += sizes[place]
    sent = bm_gather(fd, buffers, sizes, <int>count)
    if sent >= 0:
        return sent
    if not bm_gather_full():
        error[0] = errno
    return 0
