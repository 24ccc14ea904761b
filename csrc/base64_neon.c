#include "base64.h"
#include "kernels.h"

#ifdef BM_HAVE_NEON

#include <arm_neon.h>

/* The loads take groups of 3 bytes apart, the stores put groups of 4 digits together; 64 digits are a table's size. */
static inline void encode_48(uint8_t *dst, const uint8_t *src, uint8x16x4_t table) {
    const uint8x16_t low = vdupq_n_u8(63);
    uint8x16x3_t g = vld3q_u8(src);
    uint8x16x4_t n;
    n.val[0] = vqtbl4q_u8(table, vshrq_n_u8(g.val[0], 2));
    n.val[1] = vqtbl4q_u8(table, vandq_u8(vsliq_n_u8(vshrq_n_u8(g.val[1], 4), g.val[0], 4), low));
    n.val[2] = vqtbl4q_u8(table, vandq_u8(vsliq_n_u8(vshrq_n_u8(g.val[2], 6), g.val[1], 2), low));
    n.val[3] = vqtbl4q_u8(table, vandq_u8(g.val[2], low));
    vst4q_u8(dst, n);
}

static inline void encode_24(uint8_t *dst, const uint8_t *src, uint8x16x4_t table) {
    const uint8x8_t low = vdup_n_u8(63);
    uint8x8x3_t g = vld3_u8(src);
    uint8x8x4_t n;
    n.val[0] = vqtbl4_u8(table, vshr_n_u8(g.val[0], 2));
    n.val[1] = vqtbl4_u8(table, vand_u8(vsli_n_u8(vshr_n_u8(g.val[1], 4), g.val[0], 4), low));
    n.val[2] = vqtbl4_u8(table, vand_u8(vsli_n_u8(vshr_n_u8(g.val[2], 6), g.val[1], 2), low));
    n.val[3] = vqtbl4_u8(table, vand_u8(g.val[2], low));
    vst4_u8(dst, n);
}

/* A line is 48 bytes and its last 24: 15 of them are done twice. */
size_t bm_base64_lines_neon(uint8_t *dst, const uint8_t *src, size_t len) {
    enum { LAST = BM_BASE64_LINE - 24, LAST_DIGITS = LAST / 3 * 4 };
    const uint8x16x4_t table = vld1q_u8_x4((const uint8_t *)bm_base64_digits);
    uint8_t *out = dst;
    for (; len >= BM_BASE64_LINE; src += BM_BASE64_LINE, len -= BM_BASE64_LINE, out += BM_BASE64_LINE_SIZE) {
        encode_48(out, src, table);
        encode_24(out + LAST_DIGITS, src + LAST, table);
        out[76] = '\r';
        out[77] = '\n';
    }
    return (size_t)(out - dst) + bm_base64_lines_scalar(out, src, len);
}

#endif
