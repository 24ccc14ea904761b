/* The C kernels: contracts, and the table through which they are called.
 *
 * No kernel allocates, fails, keeps a pointer, or needs the GIL. Each reads src[0..len) and nothing else, at any
 * alignment, for any length, 0 included. Every row gives the same result as the row "scalar".
 *
 * Body encoding is what the DATA phase needs (RFC 5321 sections 2.3.8 and 4.5.2): a "." that opens a line is
 * doubled, and a CR without its LF or an LF without its CR becomes a CRLF. Seen from one source byte, that is an
 * insertion before it which depends on the byte and its predecessor alone:
 *
 *     predecessor   byte       inserted before the byte
 *     not CR        LF         CR
 *     CR            not LF     LF
 *     CR or LF      "."        "." (after the LF of the row above, if that holds too)
 *
 * So every source byte is kept, and the whole state between two pieces of a message is what the last byte was.
 */
#ifndef BM_KERNELS_H
#define BM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "qp.h"

/* What the byte before src[0] was. A message begins as if a line had just ended. */
enum { BM_LINE_START = 0, BM_AFTER_CR = 1, BM_MID_LINE = 2 };

/* How many bytes the encoding of src[0..len) inserts: 0 if the text may go out as it is, at most len + 1 (the 1 is
 * an LF that is owed to a CR at the end of the piece before). */
typedef size_t (*bm_body_extra_fn)(const uint8_t *src, size_t len, int carry);

/* Writes the encoding of src[0..len) to dst and returns its size, which is len + body_extra(src, len, carry).
 * dst has room for exactly that, does not overlap src, and nothing beyond it is written. src must not change between
 * the two calls: dst was sized by the first, and the second does not check again. */
typedef size_t (*bm_body_encode_fn)(uint8_t *dst, const uint8_t *src, size_t len, int carry);

/* The way back, of a text without bare newlines: writes src[0..len) less the dots that open a line to dst and returns its
 * size, at most len. dst has room for len bytes, all of which may be written, and does not overlap src. src may change
 * meanwhile. */
typedef size_t (*bm_body_bare_fn)(uint8_t *dst, const uint8_t *src, size_t len, int carry);

/* The carry for the piece that follows src[0..len). */
static inline int bm_body_carry(const uint8_t *src, size_t len, int carry) {
    if (len == 0) return carry;
    if (src[len - 1] == '\n') return BM_LINE_START;
    return src[len - 1] == '\r' ? BM_AFTER_CR : BM_MID_LINE;
}

/* base64 in lines of 76 digits, as MIME wants it (RFC 2045 section 6.8); CRLF also after the last line, which may be
 * shorter. A text may be encoded in pieces of whole lines, each piece but the last a multiple of BM_BASE64_LINE bytes. */
enum { BM_BASE64_LINE = 57, BM_BASE64_LINE_SIZE = 78 };

/* How many bytes base64_lines writes for len bytes; below 2 * len + 6. */
static inline size_t bm_base64_size(size_t len) {
    size_t rest = len % BM_BASE64_LINE;
    return len / BM_BASE64_LINE * BM_BASE64_LINE_SIZE + (rest ? (rest + 2) / 3 * 4 + 2 : 0);
}

/* Writes the lines of src[0..len) to dst and returns their size, bm_base64_size(len). dst has room for exactly that and
 * does not overlap src. src may change meanwhile: no bound depends on what it holds. */
typedef size_t (*bm_base64_lines_fn)(uint8_t *dst, const uint8_t *src, size_t len);

/* Writes src[0..len) as quoted-printable from the pen's place on and moves the pen. html: escaped first, & < > " '. CRLF,
 * CR and LF all become CRLF; no line that begins here begins with a dot. The line is left open: whoever ends it calls
 * bm_qp_guard_blank first. The pen has room for bm_qp_bound(len), which does not overlap src; all of it may be written,
 * also beyond where the pen then stands. src may change meanwhile: a byte is never more than the bound has for it. */
typedef void (*bm_qp_text_fn)(bm_pen *pen, const uint8_t *src, size_t len, int html);

typedef struct bm_row {
    const char *name;
    bm_body_extra_fn body_extra;
    bm_body_encode_fn body_encode;
    bm_body_bare_fn body_bare;
    bm_base64_lines_fn base64_lines;
    bm_qp_text_fn qp_text;
} bm_row;

/* The row in use. Filled by bm_kernels_init, read-only from then on except for bm_force_row. */
extern bm_row bm;

/* Finds the rows that this CPU has and puts the strongest into `bm`. Called once, at import, before any kernel. */
void bm_kernels_init(void);

/* The i-th row that this CPU has, weakest first; NULL from the first i beyond them. Row 0 is "scalar". */
const bm_row *bm_row_at(size_t i);

/* Puts the named row into `bm`, for tests and benchmarks; no other thread may be in a kernel. -1 if this CPU or this
 * build has no such row, and nothing is changed. */
int bm_force_row(const char *name);

size_t bm_body_extra_scalar(const uint8_t *src, size_t len, int carry);
size_t bm_body_encode_scalar(uint8_t *dst, const uint8_t *src, size_t len, int carry);
size_t bm_body_bare_scalar(uint8_t *dst, const uint8_t *src, size_t len, int carry);
size_t bm_base64_lines_scalar(uint8_t *dst, const uint8_t *src, size_t len);
void bm_qp_text_scalar(bm_pen *pen, const uint8_t *src, size_t len, int html);

/* MSVC has neither function-level targets nor __builtin_cpu_supports: it gets the scalar row. Every ARM64 CPU has NEON;
 * its row has what compilers do not make of the scalar one by themselves. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(_MSC_VER) && defined(__x86_64__)
#  define BM_HAVE_AVX2 1
#endif
#if (defined(__GNUC__) || defined(__clang__)) && !defined(_MSC_VER) && defined(__aarch64__) && !defined(__AARCH64EB__)
#  define BM_HAVE_NEON 1
#endif

#ifdef BM_HAVE_AVX2
size_t bm_body_extra_avx2(const uint8_t *src, size_t len, int carry);
size_t bm_body_encode_avx2(uint8_t *dst, const uint8_t *src, size_t len, int carry);
size_t bm_body_bare_avx2(uint8_t *dst, const uint8_t *src, size_t len, int carry);
size_t bm_base64_lines_avx2(uint8_t *dst, const uint8_t *src, size_t len);
void bm_qp_text_avx2(bm_pen *pen, const uint8_t *src, size_t len, int html);
#endif

#ifdef BM_HAVE_NEON
size_t bm_base64_lines_neon(uint8_t *dst, const uint8_t *src, size_t len);
#endif

#endif
