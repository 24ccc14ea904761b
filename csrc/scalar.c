#include "kernels.h"

#include <string.h>

/* Portable C, quick through what the compiler and the C library do with it: the sum has no branches, so that compilers
 * make it vectors of the kind that every x86-64 and ARM64 CPU has; lines are found by memchr and copied by memcpy. */

/* A byte that stands for src[-1]. */
static uint8_t before(int carry) {
    return carry == BM_LINE_START ? '\n' : carry == BM_AFTER_CR ? '\r' : ' ';
}

static unsigned newline_due(uint8_t prev, uint8_t c) {
    return (unsigned)(c == '\n') ^ (unsigned)(prev == '\r');
}

static unsigned dot_due(uint8_t prev, uint8_t c) {
    return (unsigned)(c == '.') & ((unsigned)(prev == '\n') | (unsigned)(prev == '\r'));
}

enum { SUM_BYTES = 112 }; /* each byte adds at most 2 to a sum of 8 bits */

/* What is due before the len bytes that follow text[0]. */
static size_t sum(const uint8_t *text, size_t len) {
    uint8_t due = 0;
    for (size_t i = 0; i < len; i++) {
        due = (uint8_t)(due + newline_due(text[i], text[i + 1]) + dot_due(text[i], text[i + 1]));
    }
    return due;
}

size_t bm_body_extra_scalar(const uint8_t *src, size_t len, int carry) {
    if (len == 0) return 0;
    size_t extra = newline_due(before(carry), src[0]) + dot_due(before(carry), src[0]);
    for (; len > SUM_BYTES; src += SUM_BYTES, len -= SUM_BYTES) extra += sum(src, SUM_BYTES);
    return extra + sum(src, len - 1);
}

static uint8_t *put(uint8_t *out, uint8_t prev, uint8_t c) {
    if (newline_due(prev, c)) *out++ = c == '\n' ? '\r' : '\n';
    if (dot_due(prev, c)) *out++ = '.';
    *out++ = c;
    return out;
}

static const uint8_t *find(const uint8_t *p, const uint8_t *end, int c) {
    const uint8_t *found = memchr(p, c, (size_t)(end - p));
    return found ? found : end;
}

size_t bm_body_encode_scalar(uint8_t *dst, const uint8_t *src, size_t len, int carry) {
    if (len == 0) return 0;
    const uint8_t *p = src, *end = src + len, *lf = src;
    uint8_t *out = dst, prev = before(carry);
    while (p < end) {
        if (lf <= p) lf = find(p, end, '\n'); /* not again for each CR of a line, which would take quadratic time */
        const uint8_t *stop = find(p, lf, '\r');
        if (stop > p) { /* text, to which only its first byte can bring a change */
            out = put(out, prev, *p++);
            memcpy(out, p, (size_t)(stop - p));
            out += stop - p;
            p = stop;
            prev = ' ';
        }
        for (; p < end && (*p == '\r' || *p == '\n'); prev = *p++) out = put(out, prev, *p);
    }
    return (size_t)(out - dst);
}

size_t bm_body_bare_scalar(uint8_t *dst, const uint8_t *src, size_t len, int carry) {
    const uint8_t *p = src, *end = src + len;
    uint8_t *out = dst;
    int opens = carry == BM_LINE_START;
    for (; p < end; opens = 1) {
        if (opens && *p == '.') p++;
        const uint8_t *stop = find(p, end, '\n');
        if (stop < end) stop++;
        memcpy(out, p, (size_t)(stop - p));
        out += stop - p;
        p = stop;
    }
    return (size_t)(out - dst);
}
