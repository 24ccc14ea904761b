#include "kernels.h"
#include "qp.h"

#define L BM_QP_LITERAL
#define AMP BM_QP_AMPERSAND
#define LT BM_QP_LESS
#define GT BM_QP_GREATER
#define DQ BM_QP_DOUBLE_QUOTE
#define SQ BM_QP_SINGLE_QUOTE
#define DOT BM_QP_DOT
#define LF BM_QP_LINE_FEED
#define CR BM_QP_RETURN
#define H BM_QP_HEX
#define H16 H, H, H, H, H, H, H, H, H, H, H, H, H, H, H, H

const uint8_t bm_qp_class[256] = {
    /* clang-format off */
    H, H, H, H, H, H, H, H, H, L, LF, H, H, CR, H, H,
    H16,
    L, L, DQ, L, L, L, AMP, SQ, L, L, L, L, L, L, DOT, L,
    L, L, L, L, L, L, L, L, L, L, L, L, LT, H, GT, L,
    L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, H,
    H16, H16, H16, H16, H16, H16, H16, H16,
    /* clang-format on */
};

void bm_qp_text_scalar(bm_pen *pen, const uint8_t *src, size_t len, int html) {
    const uint8_t *end = src + len;
    int literal = html ? BM_QP_LITERAL : BM_QP_SINGLE_QUOTE;
    while (src < end) {
        ptrdiff_t room = BM_QP_LINE - 1 - pen->col;
        const uint8_t *run = src, *stop = end - src > room ? src + room : end;
        while (run < stop && bm_qp_class[*run] <= literal) run++;
        bm_qp_put(pen, src, (size_t)(run - src));
        src = run;
        if (src < end) src += bm_qp_step(pen, src, (size_t)(end - src), html);
    }
}
