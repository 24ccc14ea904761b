# Recipients' places, sorted by route and packed as they come: what a chunk of each route has so far.
#
# Some 4 bytes a row, not the 100 that Python's integers take: a thousand routes hold up to a million rows meanwhile.

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t

from bulkmail.job.packing cimport MAX_PACKED, put_varint

from bulkmail.pool.domains import ELSEWHERE

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    Py_ssize_t PyUnicode_FindChar(object text, Py_UCS4 character, Py_ssize_t start, Py_ssize_t end, int direction)
    str PyUnicode_Substring(object text, Py_ssize_t start, Py_ssize_t end)

# Domains whose route is at hand, some 150 bytes each: half of a usual list is at ten domains, the rest at very many.
REMEMBERED = 1 << 14
cdef Py_ssize_t DOMAINS_BOUND = REMEMBERED


cdef class Packer:
    """Rows of one route, in the form of packing.pack_rows."""

    def __cinit__(self, str route):
        self.route = route

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int add(self, int64_t number, int64_t offset) except -1:
        cdef uint8_t *grown
        cdef uint8_t *end
        if self.room - self.used < MAX_PACKED:
            grown = <uint8_t *>PyMem_Realloc(self.data, 2 * self.room + 8 * MAX_PACKED)
            if grown == NULL:
                raise MemoryError()
            self.data, self.room = grown, 2 * self.room + 8 * MAX_PACKED
        end = put_varint(put_varint(self.data + self.used, number - self.number), offset - self.offset)
        self.used = end - self.data
        self.number, self.offset = number, offset
        self.count += 1
        return 0

    cdef tuple take(self):
        chunk = self.route, PyBytes_FromStringAndSize(<char *>self.data, self.used), self.count
        self.used = self.count = self.number = self.offset = 0
        return chunk


cdef class Cutter:
    """Cuts rows into chunks of `size`, each of one route.

    route   the route of a domain; None: all rows have one, ELSEWHERE; only then may a RowParser put rows in itself
    """

    def __init__(self, Py_ssize_t size, route=None):
        self.size, self.route = size, route
        self.packers, self.by_domain, self.whole = {}, {}, []
        self.only = self.packer(ELSEWHERE) if route is None else None

    cdef Packer packer(self, str route):
        packer = self.packers.get(route)
        if packer is None:
            packer = self.packers[route] = Packer(route)
        return packer

    cdef Packer packer_of(self, str address):
        cdef Py_ssize_t end = PyUnicode_GET_LENGTH(address)
        cdef str domain = PyUnicode_Substring(address, PyUnicode_FindChar(address, c"@", 0, end, -1) + 1, end)
        cdef PyObject *held = PyDict_GetItemWithError(self.by_domain, domain)
        if held != NULL:
            return <Packer>held
        if len(self.by_domain) >= DOMAINS_BOUND:
            self.by_domain.clear()
        packer = self.by_domain[domain] = self.packer(self.route(domain))
        return packer

    def add(self, list numbers not None, list offsets not None, list addresses not None, skip=None):
        """Rows of a batch but those whose places are in `skip`; the chunks that are whole: (route, packed rows, n)."""
        cdef list whole
        cdef Packer packer = self.only
        cdef Py_ssize_t i
        for i in range(len(numbers)):
            if skip is not None and i in skip:
                continue
            if self.only is None:
                packer = self.packer_of(addresses[i])
            self.put(packer, numbers[i], offsets[i])
        whole, self.whole = self.whole, []
        return whole

    cdef int put(self, Packer packer, int64_t number, int64_t offset) except -1:
        packer.add(number, offset)
        if packer.count == self.size:
            self.whole.append(packer.take())
        return 0

    cdef int straight(self, int64_t number, int64_t offset) except -1:
        """A row of which nothing else is asked; the chunk that it fills is given by the next add()."""
        return self.put(self.only, number, offset)

    def rest(self):
        """The chunks that are not whole, at the end."""
        return [(<Packer>packer).take() for packer in self.packers.values() if (<Packer>packer).count]
