# Who was seen: a set of addresses for duplicates and suppression lists, ten million in some 120 MB.

import os

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define bm_prefetch(p) __builtin_prefetch(p)
    #else
    #define bm_prefetch(p) ((void)(p))
    #endif
    """
    void prefetch "bm_prefetch"(const void *p) noexcept nogil


cdef uint64_t _rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef uint64_t _siphash(const uint8_t *p, Py_ssize_t n, uint64_t k0, uint64_t k1) noexcept nogil:
    """SipHash-2-4 (Aumasson and Bernstein, 2012). Keyed, so that nobody can subscribe an address that collides."""
    cdef uint64_t v[4]
    cdef uint64_t m
    cdef Py_ssize_t i, words = n >> 3
    v[0], v[1] = k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du
    v[2], v[3] = k0 ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u
    for i in range(words + 1):
        if i < words:
            memcpy(&m, p + 8 * i, 8)
        else:
            m = 0
            memcpy(&m, p + 8 * i, n & 7)
            m |= <uint64_t>n << 56
        v[3] ^= m
        _sip_round(v)
        _sip_round(v)
        v[0] ^= m
    v[2] ^= 0xFF
    for i in range(4):
        _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef void _sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = _rotl(v[1], 13) ^ v[0]
    v[0] = _rotl(v[0], 32)
    v[2] += v[3]
    v[3] = _rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _rotl(v[1], 17) ^ v[2]
    v[2] = _rotl(v[2], 32)


def siphash(bytes data not None, bytes key not None) -> int:
    """SipHash-2-4 of data under a 16-byte key. For tests against the paper's vectors."""
    cdef uint64_t k[2]
    if len(key) != 16:
        raise ValueError("a key has 16 bytes")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    return _siphash(<const uint8_t *>PyBytes_AS_STRING(data), len(data), k[0], k[1])


cdef enum:
    FIRST_SIZE = 16
    MAX_FOLDED = 256    # an address has 254 at most
    AT_ONCE = 64        # addresses whose slots are on their way from memory together


cdef class AddressSet:
    """A set of addresses in 10 to 13 bytes each: 64-bit keyed hashes, open addressing.

    exact    False: case is ignored in the whole address; True: in the domain only

    Two addresses share a hash with a chance of n * n / 2**65: three in a million for a set of ten million.
    """

    def __cinit__(self, *, bint exact=False):
        memcpy(self.key, PyBytes_AS_STRING(os.urandom(16)), 16)
        self.exact = exact

    def __dealloc__(self):
        cdef int i
        for i in range(TABLES):
            PyMem_Free(self.tables[i].slots)

    def __len__(self):
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        cdef int i
        return sum([8 * self.tables[i].size for i in range(TABLES)])

    def add(self, str address not None) -> bool:
        """True if it was not in the set before."""
        return self.put(self.hashed(address))

    def add_all(self, list addresses not None) -> list[int]:
        """Add them, in this order; the places of those that were there already."""
        return self._known(addresses, True)

    def __contains__(self, str address not None):
        cdef uint64_t h = self.hashed(address)
        return _slot(&self.tables[h >> 58], h, False)

    def places_of(self, list addresses not None) -> list[int]:
        """The places of those that are in the set."""
        return self._known(addresses, False)

    cdef list _known(self, list addresses, bint adding):
        """The places of those that are in the set, after adding those that are not, one after the other."""
        cdef uint64_t hashes[AT_ONCE]
        cdef uint64_t h
        cdef Py_ssize_t start, i, n = len(addresses)
        cdef list known = []
        for start in range(0, n, AT_ONCE):
            for i in range(start, min(start + AT_ONCE, n)):
                hashes[i - start] = self.hashed(addresses[i])
                _prefetch(&self.tables[hashes[i - start] >> 58], hashes[i - start])
            for i in range(start, min(start + AT_ONCE, n)):
                h = hashes[i - start]
                if (not self.put(h)) if adding else _slot(&self.tables[h >> 58], h, False):
                    known.append(i)
        return known

    def has_digest(self, bytes digest not None) -> bool:
        """Whether a hash of an address is in the set, as its bytes."""
        cdef uint64_t h = self.hashed_bytes(digest)
        return _slot(&self.tables[h >> 58], h, False)

    cdef uint64_t hashed_bytes(self, bytes digest) noexcept:
        return _siphash(<const uint8_t *>PyBytes_AS_STRING(digest), len(digest), self.key[0], self.key[1]) or 1

    cdef int put(self, uint64_t h) except -1:
        """1 if it was not there before, else 0."""
        cdef Table *table = &self.tables[h >> 58]
        # 0.8: linear probing still ends after some 13 steps, within two cache lines
        if <uint64_t>table.used * 5 >= <uint64_t>table.size * 4:
            _grow(table)
        if _slot(table, h, True):
            return 0
        self.count += 1
        return 1

    cdef uint64_t hashed(self, str address) except? 0:
        cdef Py_ssize_t start = address.rfind("@") + 1 if self.exact else 0
        if PyUnicode_IS_ASCII(address) and PyUnicode_GET_LENGTH(address) <= MAX_FOLDED:
            return self.hashed_ascii(<const uint8_t *>PyUnicode_DATA(address), PyUnicode_GET_LENGTH(address), start)
        return self.hashed_bytes((address[:start] + address[start:].lower()).encode("utf-8", "surrogatepass"))

    cdef uint64_t hashed_ascii(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t start) noexcept:
        """n: at most MAX_FOLDED. start: where case begins to be ignored."""
        cdef uint8_t folded[MAX_FOLDED]
        cdef Py_ssize_t i
        memcpy(folded, p, start)
        for i in range(start, n):
            folded[i] = p[i] + 32 if c"A" <= p[i] <= c"Z" else p[i]
        return _siphash(folded, n, self.key[0], self.key[1]) or 1      # 0 marks an empty slot


cdef inline uint32_t _first(const Table *table, uint64_t h) noexcept:
    return <uint32_t>((((h >> 26) & 0xFFFFFFFFu) * table.size) >> 32)     # the bits below those that chose the table


cdef inline void _prefetch(const Table *table, uint64_t h) noexcept:
    if table.size:
        prefetch(&table.slots[_first(table, h)])


cdef bint _slot(Table *table, uint64_t h, bint put) noexcept:
    """Whether h is in the table; with put, it is put where it was missed."""
    cdef uint32_t i
    if table.size == 0:
        return False
    i = _first(table, h)
    while table.slots[i] != h:
        if table.slots[i] == 0:
            if put:
                table.slots[i] = h
                table.used += 1
            return False
        i = 0 if i + 1 == table.size else i + 1
    return True


cdef int _grow(Table *table) except -1:
    """A quarter as large again: at least 0.64 of the slots stay in use, 12.5 bytes an address."""
    cdef Table grown
    cdef uint32_t i
    grown.used = 0
    grown.size = FIRST_SIZE if table.size == 0 else table.size + (table.size >> 2)
    grown.slots = <uint64_t *>PyMem_Calloc(grown.size, 8)
    if grown.slots == NULL:
        raise MemoryError()
    for i in range(table.size):
        if table.slots[i]:
            _slot(&grown, table.slots[i], True)
    PyMem_Free(table.slots)
    table[0] = grown
    return 0
