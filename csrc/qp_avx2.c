#include "kernels.h"
#include "qp.h"

#ifdef BM_HAVE_AVX2

#include <immintrin.h>

/* By function, since the rest of the library must run on CPUs without AVX2: there is no -mavx2. */
#define AVX2 __attribute__((target("avx2,bmi")))

enum { BLOCK = 64 };

/* Which of 32 bytes end a run of literal ones: a bit each. Dots do not, since only the first of a line is special. Bytes
 * below 0x80 are looked up by their two halves, a bit for each high half that has such bytes at all:
 *
 *     high half   bit   low halves
 *     0           1     all but 9 (TAB)
 *     1           2     all
 *     2           4     2 6 7 (" & ') in HTML
 *     3           8     D (=), in HTML also C E (< >)
 *     7           16    F (DEL)
 */
typedef struct classes {
    __m256i low, high;
} classes;

AVX2 static inline classes classes_for(int html) {
    const char quote = html ? 4 : 0, angle = html ? 8 : 0;
    const char low[16] = {3, 3, 3 | quote, 3, 3, 3, 3 | quote, 3 | quote, 3, 2, 3, 3, 3 | angle, 3 | 8, 3 | angle, 3 | 16};
    const char high[16] = {1, 2, 4, 8, 0, 0, 0, 16};
    classes c;
    c.low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low));
    c.high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high));
    return c;
}

AVX2 static inline uint32_t special_32(__m256i text, classes c) {
    __m256i half = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(c.low, _mm256_and_si256(text, half));
    __m256i high = _mm256_shuffle_epi8(c.high, _mm256_and_si256(_mm256_srli_epi16(text, 4), half));
    __m256i literal = _mm256_cmpeq_epi8(_mm256_and_si256(low, high), _mm256_setzero_si256());
    return ~(uint32_t)_mm256_movemask_epi8(literal) | (uint32_t)_mm256_movemask_epi8(text);
}

AVX2 static inline uint64_t special_64(const uint8_t *src, classes c) {
    __m256i first = _mm256_loadu_si256((const __m256i *)src), second = _mm256_loadu_si256((const __m256i *)(src + 32));
    return special_32(first, c) | (uint64_t)special_32(second, c) << 32;
}

AVX2 static inline void copy_block(uint8_t *dst, const uint8_t *src) {
    __m256i first = _mm256_loadu_si256((const __m256i *)src), second = _mm256_loadu_si256((const __m256i *)(src + 32));
    _mm256_storeu_si256((__m256i *)dst, first);
    _mm256_storeu_si256((__m256i *)(dst + 32), second);
}

AVX2 void bm_qp_text_avx2(bm_pen *pen, const uint8_t *src, size_t len, int html) {
    const uint8_t *end = src + len;
    const classes c = classes_for(html);
    bm_pen at = *pen; /* in registers */
    while (end - src > 2 * BLOCK) {
        const uint8_t *next = src + BLOCK;
        uint64_t special = special_64(src, c);
        while (src < next) {
            if (at.col > 0 || *src != '.') {
                uint64_t here = special >> (BLOCK - (next - src));
                size_t room = (size_t)(BM_QP_LINE - 1 - at.col);
                size_t run = here ? (size_t)__builtin_ctzll(here) : (size_t)(next - src);
                copy_block(at.p, src);
                int whole = !here && run < room;
                if (run > room) run = room;
                src += run;
                at.p += run;
                at.col += (ptrdiff_t)run;
                if (whole) break;
            }
            do src += bm_qp_step(&at, src, (size_t)(end - src), html);
            while (src < next && bm_qp_class[*src] == BM_QP_HEX);
        }
    }
    *pen = at;
    bm_qp_text_scalar(pen, src, (size_t)(end - src), html);
}

#endif
