from bulkmail.wire.server_text cimport ServerText


cdef class ServerAuth(ServerText):
    cdef readonly bint secure, local  # AUTH is for those
    cdef readonly str user            # who logged in
    cdef object _login
    cdef bytes _denial                # the refusal that follows when the client has answered what is wrong with its token

    cdef int _auth_refusal(self) except -1
    cdef int _auth(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _login_line(self, bytes line) except -1
    cdef int _judge(self) except -1
    cdef int _deny(self, int code, bytes line) except -1
