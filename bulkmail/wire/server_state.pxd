from bulkmail.wire.server_buffers cimport ServerBuffers
from bulkmail.wire.server_settings cimport ServerCounts, ServerSettings

cdef enum:
    NEW, READY, MAIL, RCPT, TEXT, CHUNK, CHUNKS, FAILED, LOGIN, TLS, CLOSED

cdef enum:
    ASK_MAIL = 1
    ASK_RCPT = 2
    ASK_END = 4
    ASK_AUTH = 8
    ASK_HELLO = 16
    ASK_STARTTLS = 32
    ASK_LOGIN = 64
    ASK_DATA = 128
    ASK_QUIT = 256
    PAUSED = 512                        # no question: resume() goes on


cdef class ServerState(ServerBuffers):
    cdef readonly ServerSettings settings
    cdef readonly ServerCounts counts
    cdef readonly long long messages  # taken on this connection
    cdef readonly int asking          # the ASK_ flag of the question that is open, or 0
    cdef bint _pausing                   # the answer to it is said, but nothing behind it read
    cdef int _state
    cdef bint _esmtp                  # said EHLO or LHLO
    cdef int _errors, _commands
    # what time is told by: commands and messages done with, bytes of content; and where they stood when last looked at
    cdef long long _steps, _received, _seen_steps, _seen_received
    cdef int _waited
    # input not read yet; kept only while a question is open
    cdef bytes _data
    cdef Py_ssize_t _pos

    cpdef void in_time(self)
    cdef int _say(self, int reply) except -1
    cdef int _wrong(self, int reply) except -1
    cdef int _refused(self, int reply) except -1
    cdef int _close(self, int reply) except -1
    cdef int _ask(self, int question) except -1
    cdef int _may(self, int question, str phase, bytes word) except -1
    cdef bint _one_more(self)
