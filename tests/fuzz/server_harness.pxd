# The types that make the harness fast where it is compiled.

cimport cython

from bulkmail.wire.server cimport ServerCodec
from bulkmail.wire.server_settings cimport ServerCounts, ServerSettings


cdef class Case:
    cdef readonly int offers, answers, cut, late
    cdef readonly ServerSettings settings
    cdef readonly list acts
    cdef readonly bytes stream


cdef class Talk:
    cdef readonly Case case
    cdef readonly ServerCounts counts
    cdef readonly ServerCodec codec
    cdef readonly list events
    cdef readonly bytes replies
    cdef int answers, late, waited
    cdef bint left

    cpdef live_through(self, bytes past)
    cpdef enhanced(self)
    cpdef hear(self, bytes piece)
    cpdef answer(self)
    cpdef reply_to(self, int question)
    cpdef settle(self)
    cpdef do(self, int act)
    cpdef note(self, object events)
    cpdef end(self)
    cpdef settled(self)


@cython.locals(start=cython.Py_ssize_t, at=cython.Py_ssize_t)
cpdef list split(bytes stream)

@cython.locals(i=cython.Py_ssize_t)
cpdef list bytewise(bytes part, int cut)

@cython.locals(at=cython.Py_ssize_t, state=cython.longlong, size=cython.Py_ssize_t)
cpdef list drawn(bytes part, int cut)
