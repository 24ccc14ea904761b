#include "kernels.h"

#ifdef BM_HAVE_AVX2

#include <immintrin.h>

/* By function, since the rest of the library must run on CPUs without AVX2: there is no -mavx2. */
#define AVX2 __attribute__((target("avx2")))

enum {
    BLOCK = 32,
    SUM_BLOCKS = 127, /* a block adds at most 2 to a lane's sum of 8 bits */
};

/* 0xFF in the lanes of the bytes before which something is due. */
typedef struct due {
    __m256i newline, dot;
} due;

/* Reads p[-1] too: the first byte of a piece, whose predecessor may not exist, is left to the scalar row. */
AVX2 static inline due due_at(const uint8_t *p) {
    __m256i c = _mm256_loadu_si256((const __m256i *)p);
    __m256i prev = _mm256_loadu_si256((const __m256i *)(p - 1));
    __m256i after_cr = _mm256_cmpeq_epi8(prev, _mm256_set1_epi8('\r'));
    __m256i after_lf = _mm256_cmpeq_epi8(prev, _mm256_set1_epi8('\n'));
    __m256i is_lf = _mm256_cmpeq_epi8(c, _mm256_set1_epi8('\n'));
    __m256i is_dot = _mm256_cmpeq_epi8(c, _mm256_set1_epi8('.'));
    due d;
    d.newline = _mm256_xor_si256(is_lf, after_cr);
    d.dot = _mm256_and_si256(is_dot, _mm256_or_si256(after_cr, after_lf));
    return d;
}

AVX2 static inline size_t add_lanes(__m256i v) {
    __m128i s = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (size_t)_mm_cvtsi128_si64(s) + (size_t)_mm_extract_epi64(s, 1);
}

AVX2 size_t bm_body_extra_avx2(const uint8_t *src, size_t len, int carry) {
    if (len <= BLOCK) return bm_body_extra_scalar(src, len, carry);
    size_t extra = bm_body_extra_scalar(src, 1, carry), i = 1;
    __m256i zero = _mm256_setzero_si256(), total = zero;
    while (len - i >= BLOCK) {
        size_t blocks = (len - i) / BLOCK;
        if (blocks > SUM_BLOCKS) blocks = SUM_BLOCKS;
        __m256i sum = zero;
#pragma GCC unroll 4 /* gcc does not at -O3, which costs a quarter more */
        for (; blocks; blocks--, i += BLOCK) {
            due d = due_at(src + i);
            sum = _mm256_sub_epi8(sum, _mm256_add_epi8(d.newline, d.dot)); /* 0xFF is -1 */
        }
        total = _mm256_add_epi64(total, _mm256_sad_epu8(sum, zero));
    }
    extra += add_lanes(total);
    return extra + bm_body_extra_scalar(src + i, len - i, bm_body_carry(src, i, carry));
}

AVX2 static inline void copy_block(uint8_t *out, const uint8_t *p) {
    _mm256_storeu_si256((__m256i *)out, _mm256_loadu_si256((const __m256i *)p));
}

static inline uint8_t *insert(uint8_t *out, uint8_t prev, uint8_t c) {
    if (prev == '\r') *out++ = '\n';
    if (c == '\n') *out++ = '\r';
    if (c == '.') *out++ = '.';
    return out;
}

/* A block goes out whole, and once more, shifted, from each byte before which something is inserted:
 *
 *     source   a b c L d e f g         (L: a bare LF)
 *     out      a b c L d e f g         the block
 *                    C L d e f g ...   the insertion, and a block from L on
 *
 * What is stored too far is overwritten by what comes next. It lies inside dst, because every source byte puts out
 * itself at least: where a block of input is left, so is room for a block of output. */
AVX2 size_t bm_body_encode_avx2(uint8_t *dst, const uint8_t *src, size_t len, int carry) {
    if (len <= 2 * BLOCK) return bm_body_encode_scalar(dst, src, len, carry);
    uint8_t *out = dst + bm_body_encode_scalar(dst, src, 1, carry);
    size_t i = 1;
    for (; len - i >= 2 * BLOCK; i += BLOCK, out += BLOCK) { /* 2: the shifted copies read beyond this block */
        due d = due_at(src + i);
        uint32_t at = (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(d.newline, d.dot));
        copy_block(out, src + i);
        for (; at; at &= at - 1) {
            unsigned k = (unsigned)__builtin_ctz(at);
            const uint8_t *p = src + i + k;
            uint8_t *o = insert(out + k, p[-1], p[0]);
            copy_block(o, p);
            out = o - k;
        }
    }
    out += bm_body_encode_scalar(out, src + i, len - i, bm_body_carry(src, i, carry));
    return (size_t)(out - dst);
}

/* As above, but for each dot that goes the block is stored once more from the byte behind it, one to the left. */
AVX2 size_t bm_body_bare_avx2(uint8_t *dst, const uint8_t *src, size_t len, int carry) {
    if (len <= 2 * BLOCK) return bm_body_bare_scalar(dst, src, len, carry);
    uint8_t *out = dst + bm_body_bare_scalar(dst, src, 1, carry);
    const __m256i dots = _mm256_set1_epi8('.'), lfs = _mm256_set1_epi8('\n');
    size_t i = 1;
    for (; len - i >= 2 * BLOCK; i += BLOCK, out += BLOCK) { /* 2: the shifted copies read beyond this block */
        __m256i c = _mm256_loadu_si256((const __m256i *)(src + i));
        __m256i prev = _mm256_loadu_si256((const __m256i *)(src + i - 1));
        uint32_t at = (uint32_t)_mm256_movemask_epi8(
            _mm256_and_si256(_mm256_cmpeq_epi8(c, dots), _mm256_cmpeq_epi8(prev, lfs)));
        _mm256_storeu_si256((__m256i *)out, c);
        for (; at; at &= at - 1, out--) {
            unsigned k = (unsigned)__builtin_ctz(at);
            copy_block(out + k, src + i + k + 1);
        }
    }
    out += bm_body_bare_scalar(out, src + i, len - i, bm_body_carry(src, i, BM_MID_LINE));
    return (size_t)(out - dst);
}

#endif
