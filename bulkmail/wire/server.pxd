from bulkmail.wire.server_buffers cimport ServerBuffers
from bulkmail.wire.server_data cimport bm_data
from bulkmail.wire.server_settings cimport ServerCounts, ServerSettings
from bulkmail.wire.server_syntax cimport Path


cdef class ServerCodec(ServerBuffers):
    cdef readonly ServerSettings settings
    cdef readonly ServerCounts counts
    cdef readonly bint secure, local
    cdef readonly str user            # who logged in
    cdef readonly int asking          # the ASK_ flag of the question that is open, or 0
    cdef readonly long long dropped   # bytes thrown away: sent ahead of TLS, or after the end
    cdef int _state
    cdef bytes _helo
    cdef bint _esmtp
    cdef int _errors, _commands
    # input not read yet; kept only while a question is open
    cdef bytes _data
    cdef Py_ssize_t _pos
    # the transaction
    cdef bint _utf8
    cdef long long _recipients, _size
    cdef bm_data _text
    # the login
    cdef object _login

    cdef int _say(self, int reply) except -1
    cdef int _wrong(self, int reply) except -1
    cdef int _refused(self, int reply) except -1
    cdef int _close(self, int reply) except -1
    cdef int _ask(self, int question) except -1
    cdef object _run(self)
    cdef int _read_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _end_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _command(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _session_command(self, const unsigned char* p, Py_ssize_t verb, Py_ssize_t n) except -1
    cdef int _alone(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _unknown(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _hello(self, const unsigned char* p, Py_ssize_t n, bint esmtp, bint lmtp) except -1
    cdef int _give_up(self) except -1
    cdef int _mail(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _rcpt(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _arguments(self, const unsigned char* p, Py_ssize_t n, Path* path, dict words,
                        ServerSettings settings) except -1
    cdef int _data_command(self) except -1
    cdef int _read_text(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef bint _sound(self)
    cdef int _pass_on(self, const unsigned char* p, int at) except -1
    cdef int _end_text(self) except -1
    cdef int _verdict(self, bytes line) except -1
    cdef int _taken(self, bytes line) except -1
    cdef int _start_tls(self) except -1
    cdef int _auth(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _auth_refusal(self) except -1
    cdef int _login_line(self, bytes line) except -1
    cdef int _judge(self) except -1
