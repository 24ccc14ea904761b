#include "kernels.h"

#ifdef BM_HAVE_AVX2

#include <immintrin.h>

/* By function, since the rest of the library must run on CPUs without AVX2: there is no -mavx2. */
#define AVX2 __attribute__((target("avx2")))

enum {
    STEP = 24,     /* source bytes that become one vector of 32 digits */
    OVERREAD = 4,  /* a step loads its second 12 bytes as 16 */
};

/* Four 6-bit numbers from each group of 3 bytes, after W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding Using
 * AVX2 Instructions" (ACM TWEB 12, 2018). A 32-bit lane has the group as b a c b, lowest byte first:
 *
 *     as 16-bit halves   bbbbcccc ccdddddd   aaaaaabb bbbbcccc        (aaaaaa, bbbbbb, cccccc, dddddd: the numbers)
 *     mulhi              00cccccc 00000000   00000000 00aaaaaa        shifts right by 10 and 6, then
 *     mullo              00dddddd ........   ........ 00bbbbbb        left by 4 and 8: or-ed to a b c d, a byte each
 */
AVX2 static inline __m256i numbers(const uint8_t *src) {
    __m128i low = _mm_loadu_si128((const __m128i *)src), high = _mm_loadu_si128((const __m128i *)(src + STEP / 2));
    __m256i groups = _mm256_shuffle_epi8(
        _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1),
        _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10,
                         1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10));
    __m256i ac = _mm256_mulhi_epu16(_mm256_and_si256(groups, _mm256_set1_epi32(0x0fc0fc00)),
                                    _mm256_set1_epi32(0x04000040));
    __m256i bd = _mm256_mullo_epi16(_mm256_and_si256(groups, _mm256_set1_epi32(0x003f03f0)),
                                    _mm256_set1_epi32(0x01000010));
    return _mm256_or_si256(ac, bd);
}

/* A number's distance to its digit depends on its range: 0 for a-z, 1 to 10 for the figures, 11 "+", 12 "/", 13 A-Z. */
AVX2 static inline __m256i digits(__m256i n) {
    const __m256i distance = _mm256_setr_epi8(
        'a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
        '+' - 62, '/' - 63, 'A', 0, 0,
        'a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
        '+' - 62, '/' - 63, 'A', 0, 0);
    __m256i capital = _mm256_and_si256(_mm256_cmpgt_epi8(_mm256_set1_epi8(26), n), _mm256_set1_epi8(13));
    __m256i range = _mm256_or_si256(_mm256_subs_epu8(n, _mm256_set1_epi8(51)), capital);
    return _mm256_add_epi8(n, _mm256_shuffle_epi8(distance, range));
}

AVX2 static inline void encode_step(uint8_t *dst, const uint8_t *src) {
    _mm256_storeu_si256((__m256i *)dst, digits(numbers(src)));
}

/* A line is two steps and a third that ends where the line does: it does 15 bytes of the second once more. */
AVX2 size_t bm_base64_lines_avx2(uint8_t *dst, const uint8_t *src, size_t len) {
    enum { LAST = BM_BASE64_LINE - STEP, LAST_DIGITS = LAST / 3 * 4 };
    uint8_t *out = dst;
    for (; len >= BM_BASE64_LINE + OVERREAD; src += BM_BASE64_LINE, len -= BM_BASE64_LINE) {
        encode_step(out, src);
        encode_step(out + 32, src + STEP);
        encode_step(out + LAST_DIGITS, src + LAST);
        out[76] = '\r';
        out[77] = '\n';
        out += 78;
    }
    return (size_t)(out - dst) + bm_base64_lines_scalar(out, src, len);
}

#endif
