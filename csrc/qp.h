/* Quoted-printable (RFC 2045 section 6.7): what its rows share, and what a composer needs between two texts.
 *
 * The pen says where the next byte goes and how many bytes its line has so far: at most 75 between two calls, so that
 * the "=" of a soft break has its place. Where col > 0, p[-1] is the line's last byte. */
#ifndef BM_QP_H
#define BM_QP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BM_QP_LINE = 76 }; /* rule 5, the "=" of a soft break included */

typedef struct bm_pen {
    uint8_t *p;
    ptrdiff_t col;
} bm_pen;

/* The most that a row writes for len bytes, and the room that it may write into: a byte becomes 5 at most ("&#34;"), and
 * a soft break of 3 comes after 71 bytes at least. */
static inline size_t bm_qp_bound(size_t len) { return 6 * len + 16; }

/* What a byte becomes. Up to BM_QP_SINGLE_QUOTE it stands for itself in plain text, in HTML only BM_QP_LITERAL does. */
enum {
    BM_QP_LITERAL, BM_QP_AMPERSAND, BM_QP_LESS, BM_QP_GREATER, BM_QP_DOUBLE_QUOTE, BM_QP_SINGLE_QUOTE,
    BM_QP_DOT, BM_QP_LINE_FEED, BM_QP_RETURN, BM_QP_HEX
};
extern const uint8_t bm_qp_class[256];

static inline void bm_qp_put(bm_pen *pen, const void *text, size_t len) {
    memcpy(pen->p, text, len);
    pen->p += len;
    pen->col += (ptrdiff_t)len;
}

static inline void bm_qp_soft_break(bm_pen *pen) {
    memcpy(pen->p, "=\r\n", 3);
    pen->p += 3;
    pen->col = 0;
}

/* Before a line end: a blank that would stand last is encoded, since relays may strip it (rule 3). At most 3 bytes. */
static inline void bm_qp_guard_blank(bm_pen *pen) {
    if (pen->col == 0 || (pen->p[-1] != ' ' && pen->p[-1] != '\t')) return;
    if (pen->col + 2 > BM_QP_LINE) {
        bm_qp_soft_break(pen);
        return;
    }
    const char *unit = pen->p[-1] == ' ' ? "=20" : "=09";
    pen->p--;
    pen->col--;
    bm_qp_put(pen, unit, 3);
}

static inline void bm_qp_hard_break(bm_pen *pen) {
    bm_qp_guard_blank(pen);
    memcpy(pen->p, "\r\n", 2);
    pen->p += 2;
    pen->col = 0;
}

/* Bytes that stay on one line. */
static inline void bm_qp_unit(bm_pen *pen, const char *text, size_t len) {
    if (pen->col + (ptrdiff_t)len > BM_QP_LINE - 1) bm_qp_soft_break(pen);
    bm_qp_put(pen, text, len);
}

static inline void bm_qp_hex(bm_pen *pen, uint8_t c) {
    static const char digits[] = "0123456789ABCDEF";
    const char unit[3] = {'=', digits[c >> 4], digits[c & 15]};
    bm_qp_unit(pen, unit, 3);
}

/* Whether src[0], no blank, is the last before a line break: it may stand where a soft break's "=" would. */
static inline int bm_qp_ends_line(const uint8_t *src, size_t len) {
    return len > 1 && (src[1] == '\n' || src[1] == '\r') && src[0] != ' ' && src[0] != '\t';
}

/* The byte at which a run of literal ones ends, be it for what it is or because the line is full: the same for all rows.
 * Returns how many bytes of src[0..len), len > 0, are done: 0 where only a soft break was due. */
static inline size_t bm_qp_step(bm_pen *pen, const uint8_t *src, size_t len, int html) {
    int kind = bm_qp_class[*src];
    switch (kind) {
    case BM_QP_HEX:
        bm_qp_hex(pen, *src);
        return 1;
    case BM_QP_DOT: /* no line begins with one, so that nothing is left to do for the DATA phase */
        if (pen->col == 0 || pen->col == BM_QP_LINE - 1) bm_qp_hex(pen, '.');
        else bm_qp_put(pen, ".", 1);
        return 1;
    case BM_QP_LINE_FEED:
        bm_qp_hard_break(pen);
        return 1;
    case BM_QP_RETURN:
        bm_qp_hard_break(pen);
        return len > 1 && src[1] == '\n' ? 2 : 1;
    default:
        break;
    }
    if (kind == BM_QP_LITERAL || !html) {
        if (!bm_qp_ends_line(src, len)) {
            bm_qp_soft_break(pen);
            return 0;
        }
        bm_qp_put(pen, src, 1);
        return 1;
    }
    switch (kind) {
    case BM_QP_AMPERSAND: bm_qp_unit(pen, "&amp;", 5); break;
    case BM_QP_LESS: bm_qp_unit(pen, "&lt;", 4); break;
    case BM_QP_GREATER: bm_qp_unit(pen, "&gt;", 4); break;
    case BM_QP_DOUBLE_QUOTE: bm_qp_unit(pen, "&#34;", 5); break;
    default: bm_qp_unit(pen, "&#39;", 5); break;
    }
    return 1;
}

#endif
