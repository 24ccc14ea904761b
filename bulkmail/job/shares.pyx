# Recipients dealt out to shares by a hash of their address: the same on every machine, in any order of the list.

import hashlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t

from bulkmail.job.seen cimport _siphash

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)

cdef enum:
    MAX_BOUNDS = 64
    MAX_FOLDED = 256    # an address has 254 characters at most


cdef class Shares:
    """Shares of all possible addresses.

    purpose   what they are for: shares of two purposes have nothing to do with each other
    job       the job's name: nor have those of two jobs
    bounds    rising, each in 0..2**64 - 1: share i is for hashes below bounds[i], the last one for all others

    Case is ignored in the whole address. SipHash, so that even small shares of similar addresses are even.
    """

    cdef uint64_t key[2]
    cdef uint64_t bounds[MAX_BOUNDS]
    cdef int count

    def __init__(self, str purpose not None, str job not None, bounds):
        cdef bytes key = hashlib.blake2b(f"{purpose}\0{job}".encode(), digest_size=16).digest()
        cdef int i
        bounds = list(bounds)
        if len(bounds) > MAX_BOUNDS or bounds != sorted(bounds):
            raise ValueError(f"at most {MAX_BOUNDS} bounds that rise are expected")
        for i in range(8):      # little-endian wherever this runs
            self.key[0] = self.key[0] | (<uint64_t><uint8_t>key[i] << (8 * i))
            self.key[1] = self.key[1] | (<uint64_t><uint8_t>key[8 + i] << (8 * i))
        self.count = len(bounds)
        for i in range(self.count):
            self.bounds[i] = bounds[i]

    def of(self, str address not None) -> int:
        """The share of an address."""
        return self.share(self.hashed(address))

    def of_all(self, list addresses not None) -> bytes:
        """The share of each address, a byte each."""
        cdef Py_ssize_t i, n = len(addresses)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
        cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(out)
        for i in range(n):
            p[i] = self.share(self.hashed(<str?>addresses[i]))
        return out

    cdef int share(self, uint64_t h) noexcept:
        cdef int i
        for i in range(self.count):
            if h < self.bounds[i]:
                return i
        return self.count

    cdef uint64_t hashed(self, str address) except? 0:
        cdef uint8_t folded[MAX_FOLDED]
        cdef const uint8_t *p
        cdef Py_ssize_t i, n
        cdef bytes encoded
        if PyUnicode_IS_ASCII(address) and PyUnicode_GET_LENGTH(address) <= MAX_FOLDED:
            p, n = <const uint8_t *>PyUnicode_DATA(address), PyUnicode_GET_LENGTH(address)
            for i in range(n):
                folded[i] = p[i] + 32 if c"A" <= p[i] <= c"Z" else p[i]
            return _siphash(folded, n, self.key[0], self.key[1])
        encoded = address.lower().encode("utf-8", "surrogatepass")
        return _siphash(<const uint8_t *>PyBytes_AS_STRING(encoded), len(encoded), self.key[0], self.key[1])
