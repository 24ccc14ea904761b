#include "base64.h"
#include "kernels.h"

size_t bm_base64_lines_scalar(uint8_t *dst, const uint8_t *src, size_t len) {
    uint8_t *out = dst;
    while (len) {
        size_t n = len < BM_BASE64_LINE ? len : BM_BASE64_LINE;
        out += bm_base64(out, src, n);
        *out++ = '\r';
        *out++ = '\n';
        src += n;
        len -= n;
    }
    return (size_t)(out - dst);
}
