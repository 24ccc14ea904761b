# The C kernels of csrc/, declared for Cython; kernels.h and qp.h have their contracts. The table in use is body's `kernels()`.

from libc.stdint cimport uint8_t


cdef extern from "kernels.h" nogil:
    ctypedef struct bm_pen:
        uint8_t* p
        Py_ssize_t col

    ctypedef struct bm_row:
        const char* name
        size_t (*body_extra)(const uint8_t* src, size_t len, int carry) noexcept nogil
        size_t (*body_encode)(uint8_t* dst, const uint8_t* src, size_t len, int carry) noexcept nogil
        size_t (*body_bare)(uint8_t* dst, const uint8_t* src, size_t len, int carry) noexcept nogil
        size_t (*base64_lines)(uint8_t* dst, const uint8_t* src, size_t len) noexcept nogil
        void (*qp_text)(bm_pen* pen, const uint8_t* src, size_t len, bint html) noexcept nogil

    int BM_LINE_START, BM_AFTER_CR, BM_MID_LINE
    int bm_body_carry(const uint8_t* src, size_t len, int carry) noexcept

    size_t bm_base64_size(size_t len) noexcept

    enum:
        BM_QP_LINE
    size_t bm_qp_bound(size_t len) noexcept
    void bm_qp_guard_blank(bm_pen* pen) noexcept
    void bm_qp_soft_break(bm_pen* pen) noexcept


cdef extern from "base64.h" nogil:
    size_t bm_base64(uint8_t* dst, const uint8_t* src, size_t len) noexcept
