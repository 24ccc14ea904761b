from bulkmail.wire.server_auth cimport ServerAuth
from bulkmail.wire.server_syntax cimport Path
from bulkmail.wire.server_words cimport Words


cdef class ServerCodec(ServerAuth):
    cdef readonly long long dropped   # bytes thrown away: sent ahead of TLS, or after the end
    cdef bytes _helo
    cdef bytes _name                  # of an EHLO that is asked about
    cdef bint _extended               # and whether it is EHLO
    cdef Words _words                 # what the parameters of this transaction said
    cdef tuple _farewell              # the 421 of leave(), until it can be said

    cdef int _depart(self) except -1
    cdef object _run(self)
    cdef object _next(self)
    cdef int _go_on(self, int question) except -1
    cdef int _read_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _end_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _garbled(self, int reply, bint bdat) except -1
    cdef int _command(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _session_command(self, const unsigned char* p, Py_ssize_t verb, Py_ssize_t n) except -1
    cdef int _alone(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _unknown(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _hello(self, const unsigned char* p, Py_ssize_t n, bint esmtp, bint lmtp) except -1
    cdef int _welcome(self) except -1
    cdef int _give_up(self) except -1
    cdef int _mail(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _rcpt(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _arguments(self, const unsigned char* p, Py_ssize_t n, Path* path, bint rcpt, dict values) except -1
    cdef int _start_tls(self) except -1
    cdef int _await_tls(self) except -1
