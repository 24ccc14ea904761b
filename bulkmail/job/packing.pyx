# Where a chunk's rows are, packed: row numbers and byte offsets as varints of their differences. No files, no state.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t



cdef enum:
    MAX_PACKED = 20     # bytes of a row: two varints of 64 bits


cdef uint8_t *_put(uint8_t *out, int64_t value) noexcept nogil:
    """Zigzag varint: small differences of either sign in one byte."""
    cdef uint64_t z = (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)
    while z >= 0x80:
        out[0] = <uint8_t>(z | 0x80)
        z >>= 7
        out += 1
    out[0] = <uint8_t>z
    return out + 1


def pack_rows(numbers, offsets) -> bytes:
    """Row numbers and byte offsets as differences: some 3 bytes a row for neighbours, in any order at most 20.

    numbers, offsets   sequences of int of one length, each in 0..2**62
    """
    cdef Py_ssize_t i, n = len(numbers)
    cdef int64_t number, offset, last_number = 0, last_offset = 0
    cdef uint8_t *start
    cdef uint8_t *out
    if len(offsets) != n:
        raise ValueError(f"{n} numbers and {len(offsets)} offsets")
    start = out = <uint8_t *>PyMem_Malloc(max(n, 1) * MAX_PACKED)
    if start == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            number, offset = numbers[i], offsets[i]
            out = _put(_put(out, number - last_number), offset - last_offset)
            last_number, last_offset = number, offset
        return PyBytes_FromStringAndSize(<char *>start, out - start)
    finally:
        PyMem_Free(start)


def unpack_rows(bytes blob not None) -> tuple[list[int], list[int]]:
    """The (numbers, offsets) of pack_rows. ValueError: the blob is cut or not one of ours."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(blob)
    cdef const uint8_t *end = p + PyBytes_GET_SIZE(blob)
    cdef list numbers = [], offsets = []
    cdef int64_t last[2]
    cdef uint64_t z
    cdef int shift, which = 0
    last[0] = last[1] = 0
    while p < end:
        z, shift = 0, 0
        while True:
            if p == end or shift > 63:
                raise ValueError("packed rows are damaged")
            z |= <uint64_t>(p[0] & 0x7F) << shift
            if p[0] < 0x80:
                break
            shift += 7
            p += 1
        p += 1
        last[which] += <int64_t>(z >> 1) ^ -<int64_t>(z & 1)
        (offsets if which else numbers).append(last[which])
        which ^= 1
    if which:
        raise ValueError("packed rows are damaged")
    return numbers, offsets
