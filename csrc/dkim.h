/* DKIM canonicalization (RFC 6376 section 3.4) of messages as they stand on the wire. Used by bulkmail/message/canon.pyx.
 *
 * Nothing here allocates, fails, keeps a pointer, or needs the GIL. Newlines are CRLF only, as everything that makes
 * messages here has them.
 *
 * A body is canonicalized in pieces that may be cut anywhere. What happens to a byte depends on its neighbours alone:
 *
 *     RELAX    a blank (space or tab) before a blank or a CR goes, any other becomes a space: runs are one space, and
 *              none is left before a CRLF
 *     DOTS     a dot that follows a LF goes: the wire has it doubled (RFC 5321 section 4.5.2)
 *
 * Empty lines at the end, which both ways of canonicalization ignore, are the caller's: only they need to know the end.
 */
#ifndef BULKMAIL_DKIM_H
#define BULKMAIL_DKIM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BM_DKIM_RELAX = 1, BM_DKIM_DOTS = 2 };

/* How far beyond its output bm_dkim_body may write. */
#define BM_DKIM_SLACK 32

static inline int bm_is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

/* One byte between its neighbours, to out. Returns the new end. */
static inline uint8_t *bm_dkim_put(uint8_t *out, uint8_t prev, uint8_t c, uint8_t next, int how) {
    if ((how & BM_DKIM_DOTS) && c == '.' && prev == '\n') return out;
    if ((how & BM_DKIM_RELAX) && bm_is_blank(c)) {
        if (bm_is_blank(next) || next == '\r') return out;
        c = ' ';
    }
    *out++ = c;
    return out;
}

static inline uint8_t *bm_dkim_plain(uint8_t *out, const uint8_t *p, size_t len, uint8_t prev, uint8_t next, int how) {
    for (size_t i = 0; i < len; i++) {
        out = bm_dkim_put(out, i ? p[i - 1] : prev, p[i], i + 1 < len ? p[i + 1] : next, how);
    }
    return out;
}

/* MSVC has neither function-level targets nor __builtin_cpu_supports. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(_MSC_VER) && defined(__x86_64__)
#  define BM_DKIM_AVX2 1
#  include <immintrin.h>

/* For each set of bytes of 8 that stay, the shuffle that closes the gaps. Filled once, at import. */
static uint8_t bm_dkim_closing[256][8];

static inline void bm_dkim_init(void) {
    for (unsigned kept = 0; kept < 256; kept++) {
        unsigned n = 0;
        for (uint8_t k = 0; k < 8; k++) {
            if (kept >> k & 1) bm_dkim_closing[kept][n++] = k;
        }
    }
}

static inline int bm_dkim_has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}

/* The bytes of 16 that stay, without gaps; at most 8 bytes beyond the new end are overwritten. */
__attribute__((target("avx2,popcnt"))) static inline uint8_t *bm_dkim_close(uint8_t *out, __m128i v, unsigned kept) {
    __m128i low = _mm_loadl_epi64((const __m128i *)bm_dkim_closing[kept & 0xff]);
    __m128i high = _mm_loadl_epi64((const __m128i *)bm_dkim_closing[kept >> 8]);
    _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(v, low));
    out += __builtin_popcount(kept & 0xff);
    _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(_mm_srli_si128(v, 8), high));
    return out + __builtin_popcount(kept >> 8);
}

/* Blocks of 32 between the first and the last byte, whose neighbours are in no other piece. */
__attribute__((target("avx2,popcnt"))) static inline uint8_t *bm_dkim_avx2(uint8_t *out, const uint8_t *p, size_t len,
                                                                         uint8_t prev, uint8_t next, int how) {
    if (len < 34) return bm_dkim_plain(out, p, len, prev, next, how);
    const __m256i space = _mm256_set1_epi8(' '), tab = _mm256_set1_epi8('\t');
    const __m256i cr = _mm256_set1_epi8('\r'), lf = _mm256_set1_epi8('\n'), dot = _mm256_set1_epi8('.');
    size_t i = 1;
    out = bm_dkim_put(out, prev, p[0], p[1], how);
    for (; i + 33 <= len; i += 32) {
        __m256i c = _mm256_loadu_si256((const __m256i *)(p + i)), gone = _mm256_setzero_si256();
        if (how & BM_DKIM_RELAX) {
            __m256i n = _mm256_loadu_si256((const __m256i *)(p + i + 1));
            __m256i is_tab = _mm256_cmpeq_epi8(c, tab);
            __m256i blank = _mm256_or_si256(_mm256_cmpeq_epi8(c, space), is_tab);
            __m256i next_blank = _mm256_or_si256(_mm256_cmpeq_epi8(n, space), _mm256_cmpeq_epi8(n, tab));
            gone = _mm256_and_si256(blank, _mm256_or_si256(next_blank, _mm256_cmpeq_epi8(n, cr)));
            c = _mm256_blendv_epi8(c, space, is_tab);
        }
        if (how & BM_DKIM_DOTS) {
            __m256i before = _mm256_loadu_si256((const __m256i *)(p + i - 1));
            gone = _mm256_or_si256(gone, _mm256_and_si256(_mm256_cmpeq_epi8(c, dot), _mm256_cmpeq_epi8(before, lf)));
        }
        unsigned kept = ~(unsigned)_mm256_movemask_epi8(gone);
        if (kept == 0xffffffffu) {
            _mm256_storeu_si256((__m256i *)out, c);
            out += 32;
        } else {
            out = bm_dkim_close(out, _mm256_castsi256_si128(c), kept & 0xffff);
            out = bm_dkim_close(out, _mm256_extracti128_si256(c, 1), kept >> 16);
        }
    }
    return bm_dkim_plain(out, p + i, len - i, p[i - 1], next, how);
}
#else
#  define BM_DKIM_AVX2 0
static inline void bm_dkim_init(void) {}
static inline int bm_dkim_has_avx2(void) { return 0; }
#endif

/* Canonicalizes p[0..len) to dst, which has room for len + BM_DKIM_SLACK bytes and does not overlap it.
 *
 * prev, next   the bytes around it, in other pieces: '\n' where the body begins, '\r' where it ends
 * how          BM_DKIM_RELAX and BM_DKIM_DOTS
 * fast         what bm_dkim_has_avx2 said; bm_dkim_init was called
 * returns      how many bytes were written, at most len */
static inline size_t bm_dkim_body(uint8_t *dst, const uint8_t *p, size_t len, uint8_t prev, uint8_t next, int how,
                                  int fast) {
#if BM_DKIM_AVX2
    if (fast) {
        switch (how) { /* constants, so that each way has a loop of its own */
        case BM_DKIM_RELAX: return (size_t)(bm_dkim_avx2(dst, p, len, prev, next, BM_DKIM_RELAX) - dst);
        case BM_DKIM_DOTS: return (size_t)(bm_dkim_avx2(dst, p, len, prev, next, BM_DKIM_DOTS) - dst);
        case BM_DKIM_RELAX | BM_DKIM_DOTS:
            return (size_t)(bm_dkim_avx2(dst, p, len, prev, next, BM_DKIM_RELAX | BM_DKIM_DOTS) - dst);
        }
    }
#else
    (void)fast;
#endif
    return (size_t)(bm_dkim_plain(dst, p, len, prev, next, how) - dst);
}

/* ---- header fields -------------------------------------------------------------------------------------------------
 * A field is its line and the lines that begin with a blank, the last CRLF included (RFC 5322 section 2.2). */

/* The end of the field that begins at p, whatever it is; end if there is no further line. */
static inline const uint8_t *bm_field_end(const uint8_t *p, const uint8_t *end) {
    for (;;) {
        const uint8_t *lf = (const uint8_t *)memchr(p, '\n', (size_t)(end - p));
        if (!lf) return end;
        p = lf + 1;
        if (p == end || !bm_is_blank(*p)) return p;
    }
}

/* The length of the field's name, blanks before its colon not counted; 0 if there is no colon. */
static inline size_t bm_field_name(const uint8_t *p, const uint8_t *end) {
    const uint8_t *colon = (const uint8_t *)memchr(p, ':', (size_t)(end - p));
    size_t n = colon ? (size_t)(colon - p) : 0;
    while (n && bm_is_blank(p[n - 1])) n--;
    return n;
}

static inline uint8_t bm_lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c; }

/* Section 3.4.2: the name in lower case, the lines joined, each run of blanks one space, none around the value. Writes
 * p[0..len) in at most len bytes, without the CRLF, and returns how many. */
static inline size_t bm_dkim_field(uint8_t *dst, const uint8_t *p, size_t len) {
    const uint8_t *end = p + len;
    size_t name = bm_field_name(p, end);
    uint8_t *out = dst;
    for (size_t i = 0; i < name; i++) *out++ = bm_lower(p[i]);
    const uint8_t *value = p + name;
    while (value < end && *value != ':') value++;
    if (value < end) *out++ = *value++;
    int blank = 0, begun = 0;
    for (; value < end; value++) {
        uint8_t c = *value;
        if (c == '\r' || c == '\n') continue; /* of a fold, or of the end */
        if (bm_is_blank(c)) {
            blank = begun;
            continue;
        }
        if (blank) *out++ = ' ';
        blank = 0;
        begun = 1;
        *out++ = c;
    }
    return (size_t)(out - dst);
}

#endif
