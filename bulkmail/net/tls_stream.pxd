from bulkmail.net.stream cimport Stream

cdef class TlsStream(Stream):
    cdef readonly object shaken         # future of the handshake's end
    cdef object _tls, _incoming, _outgoing
    cdef object _give, _take            # of the two buffers: write what came, read what is to leave
    cdef object _get, _put, _pending    # of TLS: read, write, how much is decrypted and not read
    cdef list _backlog                  # bytes that TLS does not take before it has read something
    cdef Py_ssize_t _wire, _plain       # bytes on the wire, bytes of ours: of the oldest write of which some may be held
    cdef list _marks                    # (bytes on the wire, bytes of ours) of each write behind it
    cdef bint _made
    cdef bint _between                  # TLS has been given nothing beyond the records that it has read
    cdef int _shake(self) except -1
    cdef int _decrypt(self, double now, bint alone=*) except -1
    cdef int _encrypt(self, bytes data) except -1
    cdef int _pass_on(self, Py_ssize_t plain=*, list records=*) except -1
