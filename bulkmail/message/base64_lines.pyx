# Content of attachments as text that any relay takes: base64 in lines.
#
# Owns      nothing between two calls.
# Errors    TypeError, BufferError: the caller's. MemoryError.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

from bulkmail.wire.body cimport kernels
from bulkmail.wire.kernels cimport bm_base64_size

cdef extern from *:
    Py_ssize_t PY_SSIZE_T_MAX

# From here on the GIL is released. Below it the work takes less than 0.1 ms, and a thread that gives the GIL away beside a
# busy event loop may wait a whole switch interval, 5 ms, to have it back.
cdef Py_ssize_t NOGIL_BYTES = 1 << 20


def encode_base64(data):
    """Content in base64 as a MIME part carries it (RFC 2045 section 6.8): lines of 76 digits, CRLF after each.

    data     bytes-like, any length, 0 included
    returns  bytes, whole lines; b"" for no content
    raises   TypeError, BufferError if data is not bytes-like or not contiguous

    Pieces of a multiple of 57 bytes, the last one of any length, give the same lines as the whole. No line begins with a dot,
    so the text needs nothing more for the DATA phase. The GIL is released for content of 1 MiB or more.
    """
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef uint8_t* out
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len > PY_SSIZE_T_MAX // 2 - 8:
            raise MemoryError
        lines = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>bm_base64_size(<size_t>view.len))
        p, out = <const uint8_t*>view.buf, <uint8_t*>PyBytes_AS_STRING(lines)
        if view.len < NOGIL_BYTES:
            kernels().base64_lines(out, p, <size_t>view.len)
        else:
            with nogil:
                kernels().base64_lines(out, p, <size_t>view.len)
        return lines
    finally:
        PyBuffer_Release(&view)
