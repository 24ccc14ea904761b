/* base64 without lines (RFC 4648 section 4): for encoded-words, and for what is left over of a body's lines. */
#ifndef BM_BASE64_H
#define BM_BASE64_H

#include <stddef.h>
#include <stdint.h>

static const char bm_base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static inline void bm_base64_group(uint8_t *dst, uint32_t bits) {
    dst[0] = (uint8_t)bm_base64_digits[bits >> 18];
    dst[1] = (uint8_t)bm_base64_digits[bits >> 12 & 63];
    dst[2] = (uint8_t)bm_base64_digits[bits >> 6 & 63];
    dst[3] = (uint8_t)bm_base64_digits[bits & 63];
}

/* Writes (len + 2) / 3 * 4 bytes to dst and returns how many. */
static inline size_t bm_base64(uint8_t *dst, const uint8_t *src, size_t len) {
    uint8_t *out = dst;
    for (; len >= 3; src += 3, len -= 3, out += 4) {
        bm_base64_group(out, (uint32_t)src[0] << 16 | (uint32_t)src[1] << 8 | src[2]);
    }
    if (len) {
        bm_base64_group(out, (uint32_t)src[0] << 16 | (len == 2 ? (uint32_t)src[1] << 8 : 0));
        if (len == 1) out[2] = '=';
        out[3] = '=';
        out += 4;
    }
    return (size_t)(out - dst);
}

#endif
