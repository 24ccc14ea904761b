# Where a chunk's rows are, packed: row numbers and byte offsets as varints of their differences. No files, no state.

from cpython.array cimport array, clone
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef uint8_t *put_varint(uint8_t *out, int64_t value) noexcept nogil:
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
            out = put_varint(put_varint(out, number - last_number), offset - last_offset)
            last_number, last_offset = number, offset
        return PyBytes_FromStringAndSize(<char *>start, out - start)
    finally:
        PyMem_Free(start)


def unpack_rows(bytes blob not None):
    """The (numbers, offsets) of pack_rows, arrays of type "q". ValueError: the blob is cut or not one of ours."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(blob)
    cdef const uint8_t *end = p + PyBytes_GET_SIZE(blob)
    cdef Py_ssize_t values = _values(p, end), i
    cdef array numbers = clone(WHOLE, values // 2, False), offsets = clone(WHOLE, values // 2, False)
    cdef int64_t number = 0, offset = 0
    if values % 2:
        raise ValueError("packed rows are damaged")
    for i in range(values // 2):
        p = _add_varint(_add_varint(p, &number), &offset)
        numbers.data.as_longlongs[i], offsets.data.as_longlongs[i] = number, offset
    return numbers, offsets


cdef array WHOLE = array("q")


cdef Py_ssize_t _values(const uint8_t *p, const uint8_t *end) except -1:
    """How many varints there are, each of them whole."""
    cdef Py_ssize_t count = 0
    cdef int size = 0
    while p < end:
        size += 1
        if size > MAX_PACKED // 2:
            break
        if p[0] < 0x80:
            count += 1
            size = 0
        p += 1
    if size:
        raise ValueError("packed rows are damaged")
    return count


cdef inline const uint8_t *_add_varint(const uint8_t *p, int64_t *value) noexcept nogil:
    cdef uint64_t z = p[0] & 0x7F
    cdef int shift = 7
    while p[0] >= 0x80:
        p += 1
        z |= <uint64_t>(p[0] & 0x7F) << shift
        shift += 7
    # damaged ones may be beyond all bounds: sums of theirs wrap
    value[0] = <int64_t>(<uint64_t>value[0] + ((z >> 1) ^ (0 - (z & 1))))
    return p + 1
