from bulkmail.wire.server_data cimport bm_data
from bulkmail.wire.server_state cimport ServerState


cdef enum:
    R_OWN = -2                        # -1 would say that an exception was raised


cdef class ServerText(ServerState):
    # the transaction
    cdef bint _binary                 # BODY=BINARYMIME
    cdef long long _recipients, _tries, _size       # taken; asked for; bytes of content
    # DATA
    cdef bm_data _text
    # BDAT
    cdef long long _chunk             # its bytes that are still to come
    cdef bint _last
    cdef int _came                    # the state that it came in
    cdef int _refusal                 # why its bytes are thrown away, or R_OK
    cdef bytes _own_refusal           # R_OWN: what the caller refused it with
    cdef bint _chunk_asked            # ASK_DATA is about BDAT
    cdef unsigned char _behind        # the last byte of content: an LF must follow a CR, in whatever chunk

    cdef bint _under_way(self)
    cdef int _begin_text(self) except -1
    cdef int _out_of_order(self, int reply) except -1
    cdef int _data_command(self) except -1
    cdef int _go_ahead(self) except -1
    cdef int _read_text(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef bint _sound(self)
    cdef int _pass_on(self, const unsigned char* p, int at) except -1
    cdef int _end_text(self) except -1
    cdef int _bdat(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _chunk_refusal(self) except -1
    cdef int _read_chunk(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _take_chunk(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _mend_chunk(self, int at, const unsigned char* p, Py_ssize_t n) except -1
    cdef bint _grow(self, Py_ssize_t size)
    cdef int _end_chunk(self) except -1
    cdef int _settle_chunk(self) except -1
    cdef int _refuse_chunk(self, bytes line) except -1
    cdef bytes _line(self, int reply)
    cdef int _fail(self, int reply) except -1
    cdef int _complete(self) except -1
    cdef int _abort(self, int reply) except -1
    cdef int _verdict(self, bytes line) except -1
    cdef int _divided(self, list refusals, bytes accepted) except -1
    cdef int _end_transaction(self) except -1
    cdef int _taken(self, bytes line) except -1
