from libc.stdint cimport int64_t, uint8_t

cdef enum:
    MAX_PACKED = 20     # bytes of a row: two varints of 64 bits

cdef uint8_t *put_varint(uint8_t *out, int64_t value) noexcept nogil
