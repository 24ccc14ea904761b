# The message as the DATA phase needs it: dots doubled, newlines CRLF, the end marked. RFC 5321 sections 2.3.8, 4.1.1.4
# and 4.5.2. No input can end a message early or leave a bare CR or LF in it, which is what SMTP smuggling lives on.
#
# Owns      nothing between two calls; the state of a message in pieces is the caller's `carry`.
# Promises  linear time; each output is allocated once, at its size; any way of cutting the input gives the same bytes.
# Errors    TypeError, ValueError: the caller's. MemoryError.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from bulkmail.wire.kernels cimport BM_AFTER_CR, BM_LINE_START, BM_MID_LINE, bm_body_carry, bm_row

cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize_ "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** text, Py_ssize_t size) except -1
    void Py_XDECREF(PyObject* o)

cdef extern from "kernels.h" nogil:
    bm_row bm
    void bm_kernels_init() noexcept
    const bm_row* bm_row_at(size_t i) noexcept
    int bm_force_row(const char* name) noexcept


# From here on the GIL is released. Below it the work is some 0.1 ms (1 ms if every byte is a newline), and a thread
# that gives the GIL away beside a busy event loop may wait a whole switch interval, 5 ms, to have it back.
cdef Py_ssize_t NOGIL_BYTES = 1 << 20

# What closes a message, by the carry: at the start of a line, after a CR that waits for its LF, within a line.
cdef tuple ENDS = (b".\r\n", b"\n.\r\n", b"\r\n.\r\n")

bm_kernels_init()


cdef const bm_row* kernels() noexcept nogil:
    return &bm


cdef size_t extra_of(const uint8_t* p, Py_ssize_t n, int carry) noexcept:
    cdef size_t extra
    if n < NOGIL_BYTES:
        return bm.body_extra(p, <size_t>n, carry)
    with nogil:
        extra = bm.body_extra(p, <size_t>n, carry)
    return extra


cdef void write(uint8_t* out, const uint8_t* p, Py_ssize_t n, size_t extra, int carry) noexcept nogil:
    if extra == 0:
        memcpy(out, p, <size_t>n)
    else:
        bm.body_encode(out, p, <size_t>n, carry)


cdef bytes encoded(const uint8_t* p, Py_ssize_t n, size_t extra, int carry, bytes end):
    cdef Py_ssize_t size = n + <Py_ssize_t>extra
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size + len(end))
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(result)
    if n < NOGIL_BYTES:
        write(out, p, n, extra, carry)
    else:
        with nogil:
            write(out, p, n, extra, carry)
    memcpy(out + size, PyBytes_AS_STRING(end), <size_t>len(end))
    return result


cdef bytes encode_message_c(const unsigned char* p, Py_ssize_t n):
    cdef int after = bm_body_carry(p, <size_t>n, BM_LINE_START)
    return encoded(p, n, extra_of(p, n, BM_LINE_START), BM_LINE_START, <bytes>ENDS[after])


cdef object steady(object data):
    """`data` if its bytes cannot change, else a copy of them as bytes.

    Another thread or, for a mapped file, another process may write to the rest, and a byte that changed after the
    output was sized would be written beyond it.
    """
    if PyBytes_CheckExact(data):
        return data
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a message is bytes-like, not {type(data).__name__}") from None
    return view if view.c_contiguous and type(view.obj) is bytes else view.tobytes()


cdef int checked(int carry) except -1:
    if BM_LINE_START <= carry <= BM_MID_LINE:
        return carry
    raise ValueError(f"carry is 0 or what encode_body returned, not {carry}")


def encode_body(chunk, int carry):
    """Prepare one piece of a message for the DATA phase (RFC 5321 sections 2.3.8, 4.5.2).

    Doubles a "." that opens a line; makes a bare CR or LF a CRLF. No input can end the message early.

    chunk    bytes-like, any length, 0 included; copied first unless it is bytes or a view of bytes
    carry    0 for the first piece, then whatever the last call returned
    returns  (bytes to send, carry); at most 2 * len(chunk) + 1 bytes; bytes that need no change are returned as such
    raises   TypeError if chunk is not bytes-like, ValueError for a carry that no call returned

    A CR at the end of a piece goes out at once and the LF that it may lack with the next piece or `end_body`. Any way
    of cutting the input gives the same output. The GIL is released for pieces of 1 MiB or more.
    """
    cdef Py_buffer view
    cdef size_t extra
    checked(carry)
    chunk = steady(chunk)
    PyObject_GetBuffer(chunk, &view, PyBUF_SIMPLE)
    try:
        extra = extra_of(<const uint8_t*>view.buf, view.len, carry)
        if extra or not PyBytes_CheckExact(chunk):
            chunk = encoded(<const uint8_t*>view.buf, view.len, extra, carry, b"")
        return chunk, bm_body_carry(<const uint8_t*>view.buf, <size_t>view.len, carry)
    finally:
        PyBuffer_Release(&view)


def end_body(int carry):
    """What closes a message after its last piece: the CRLF or LF that is lacking, and the final dot with its CRLF.

    carry    what the last `encode_body` returned; 0 for a message without content
    raises   ValueError for a carry that no call returned
    """
    return ENDS[checked(carry)]


def encode_message(data):
    """A whole message for the DATA phase, final dot included: `encode_body` and `end_body` in one allocation.

    data     bytes-like, any length, 0 included; copied first unless it is bytes or a view of bytes
    returns  bytes that end with CRLF "." CRLF; b".\\r\\n" for a message without content
    raises   TypeError if data is not bytes-like
    """
    cdef Py_buffer view
    data = steady(data)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return encode_message_c(<const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef object bare_content(object body):
    if type(body) is not tuple:
        return without_dot(body)
    cdef Py_ssize_t last = len(<tuple>body) - 1, place
    cdef list bare = [bare_piece((<tuple>body)[place]) for place in range(last)]
    bare.append(without_dot((<tuple>body)[last]))
    return tuple(bare)


cdef object bare_piece(bytes piece):
    # there are many of them in a message, and hardly one has a dot that was doubled
    if extra_of(<const uint8_t*>PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), BM_LINE_START) == 0:
        return piece
    return undotted(piece, BM_LINE_START)


cdef object without_dot(bytes piece):
    return undotted(memoryview(piece)[:len(piece) - 3], BM_LINE_START)


cpdef object undotted(object text, int carry):
    """What encode_body or encode_message made of a text, without its final dot, as BDAT wants it: no dot is doubled.

    text     bytes, or a view of bytes; CRLF only
    carry    what encode_body was given
    returns  `text` itself where no line opens with a dot, else bytes
    """
    cdef Py_buffer view
    cdef PyObject* content = NULL
    cdef const uint8_t* p
    cdef Py_ssize_t size
    checked(carry)
    PyObject_GetBuffer(text, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        if extra_of(p, view.len, carry) == 0:
            return text
        content = PyBytes_FromStringAndSize_(NULL, view.len)
        size = bare(<uint8_t*>PyBytes_AS_STRING(<bytes>content), p, view.len, carry)
        _PyBytes_Resize(&content, size)
        return <bytes>content
    finally:
        Py_XDECREF(content)     # the result is a second reference
        PyBuffer_Release(&view)


cdef Py_ssize_t bare(uint8_t* out, const uint8_t* p, Py_ssize_t n, int carry) noexcept:
    cdef size_t size
    if n < NOGIL_BYTES:
        return <Py_ssize_t>bm.body_bare(out, p, <size_t>n, carry)
    with nogil:
        size = bm.body_bare(out, p, <size_t>n, carry)
    return <Py_ssize_t>size


def kernel_rows():
    """The instruction sets that this CPU and this build have kernels for, weakest first. The last one is in use."""
    cdef size_t i = 0
    rows = []
    while bm_row_at(i) != NULL:
        rows.append(bm_row_at(i).name.decode())
        i += 1
    return tuple(rows)


def force_row(str name not None):
    """Use the named row of `kernel_rows` from now on: for tests and benchmarks. No other thread may be encoding.

    raises   ValueError if there is no such row here; nothing is changed then
    """
    if bm_force_row(name.encode()) != 0:
        raise ValueError(f"no kernel row {name!r} here; there are {', '.join(kernel_rows())}")
