# A message of bytes, looked at once: what message.raw does to it, and what a transaction has to know of it. Every byte is
# read by the body's kernels (vectors where the CPU has them), the header's lines once more.
#
# What has to be changed or explained is left to message.raw: make_ready() then gives None.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr

from bulkmail.wire.body cimport encode_message_c, undotted
from bulkmail.wire.header cimport Head, look, message_id_c

cdef Py_ssize_t FINAL_DOT = 3


cdef class Ready:
    """data     as it was given
    content  with CRLF newlines; the same object if they are so already
    body     ready for DATA
    ascii    no byte is above 127
    """


def ready(bytes data not None):
    """A message as `raw.prepare` gives it back, encoded; None: it has a Bcc field, or cannot be sent."""
    return make_ready(data)


cdef Ready make_ready(bytes data):
    cdef Ready made = Ready.__new__(Ready)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Head head
    made.data = data
    made.body = encode_message_c(<const unsigned char*>PyBytes_AS_STRING(data), size)
    made.content = content_of(data, made.body)
    head = look(made.content)
    if not head.begins or head.blind:
        return None
    if memchr(PyBytes_AS_STRING(made.content), 0, PyBytes_GET_SIZE(made.content)) != NULL:
        return None
    made.ascii = made.content.isascii()
    made.message_id = message_id_c(made.content)
    return made


cdef bytes content_of(bytes data, bytes body):
    """`data` with CRLF newlines and one at its end: the body without its escapes. The same bytes if that is so already."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef bytes content
    if PyBytes_GET_SIZE(body) == size + FINAL_DOT:
        return data
    content = bytes(undotted(memoryview(body)[:PyBytes_GET_SIZE(body) - FINAL_DOT], 0))
    return data if PyBytes_GET_SIZE(content) == size else content
