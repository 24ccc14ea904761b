/* kernel_test [COUNT [SEED]]: every kernel row of this CPU against a reference of another make, with all lengths,
 * alignments, cuts and carries, in allocations of exactly the promised size; then COUNT mixed texts, the same for the same
 * SEED. Meant for sanitizers (scripts/sanitize), which see one byte too far; GUARD_PAGES where they do not run. */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef GUARD_PAGES
#  include <sys/mman.h>
#endif

enum {
    ALIGNMENTS = 64,
    EACH_LENGTH_TO = 140, /* two AVX2 blocks, the reach of a shifted copy, a tail */
    CUT_LENGTH = 131,
    BASE64_TO = 4 * BM_BASE64_LINE + 10,
    QP_TO = 3 * 64 + 10, /* a tail of two blocks, behind one that is done at once */
    QP_LONG = 2000,
    DEFAULT_COUNT = 5000,
    LONG = 2 * 127 * 32 + 64, /* past two rounds of the sums of 8 bits */
};

/* Repeated to the length that a test wants. */
static const char *const patterns[] = {
    "\n", "\r", ".", "a", "\r\n", "\n\r", "\r.", "\n.", ".\n", ".\r", "\r\n.", "\n.\r", "\r\r\n", "\r\n\n", "\r\r.",
    "\n\n.", "\r\n.\r\n", "a\n.", "ab\r", "a.b.c\n", "\xff\x8a\x8d\xae\n.",
    "the thirty-one bytes of a line\n.", "the thirty bytes of this line\r\n",
    "a line of seventy-two bytes, which is what most composers of mail wrap at\r\n",
    "a line of seventy-two bytes, which is what most composers of mail wrap at\n.",
    "no newline here. none at all, not one",
};
enum { PATTERNS = sizeof patterns / sizeof *patterns, RANDOM = 4, BYTES = PATTERNS + RANDOM, MARKUP, MIXED };

static unsigned long checks;

static uint32_t next(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

/* Runs of text up to a line and more, and between them a few bytes that mean something: each kind from MIXED on differs. */
static void fill_mixed(uint8_t *text, size_t len, uint32_t state) {
    static const char marks[] = "\r\n\r\n..\n.\r. \t=&<>\"'\xc3\xa9\x7f";
    uint32_t longest = next(&state) % 100 + 1;
    for (size_t i = 0; i < len;) {
        for (size_t run = next(&state) % longest; run && i < len; run--) text[i++] = (uint8_t)('a' + run % 26);
        for (size_t few = next(&state) % 4; few && i < len; few--) {
            text[i++] = (uint8_t)marks[next(&state) % (sizeof marks - 1)];
        }
    }
}

static void fill(uint8_t *text, size_t len, size_t kind) {
    if (kind < PATTERNS) {
        size_t n = strlen(patterns[kind]);
        for (size_t i = 0; i < len; i++) text[i] = (uint8_t)patterns[kind][i % n];
        return;
    }
    if (kind >= MIXED) {
        fill_mixed(text, len, (uint32_t)(kind * 2654435761u + len));
        return;
    }
    uint32_t state = (uint32_t)(kind * 2654435761u + len);
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525u + 1013904223u;
        if (kind >= BYTES) {
            static const char markup[] = "abcdefgh     \t\r\n..==&<>\"'\xc3\xa9\x7f";
            text[i] = kind == BYTES ? (uint8_t)(state >> 24) : (uint8_t)markup[(state >> 24) % (sizeof markup - 1)];
            continue;
        }
        text[i] = (uint8_t)(kind % 2 ? "\r\n.x"[state >> 30] : (state >> 28) ? 'x' : "\r\n.."[(state >> 26) & 3]);
    }
}

/* Two steps where the kernels take one: every kind of newline becomes CRLF, then dots are doubled. out: 2 * len. */
static size_t reference(uint8_t *out, const uint8_t *text, size_t len) {
    static uint8_t lines[2 * LONG + 8];
    size_t n = 0, size = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\r' && text[i] != '\n') {
            lines[n++] = text[i];
            continue;
        }
        lines[n++] = '\r';
        if (text[i] == '\r' && i + 1 == len) break; /* its LF comes with the next piece */
        if (text[i] == '\r' && text[i + 1] == '\n') i++;
        lines[n++] = '\n';
    }
    for (size_t i = 0; i < n; i++) {
        if (lines[i] == '.' && (i == 0 || lines[i - 1] == '\n')) out[size++] = '.';
        out[size++] = lines[i];
    }
    return size;
}

#ifdef GUARD_PAGES
/* Where there is no AddressSanitizer: len bytes before a page that cannot be touched, in two places by turns (a source and
 * a destination). Their alignment follows from len. */
static uint8_t *exactly(size_t len, size_t alignment, void **block) {
    enum { REGION = 1 << 17, GUARD = 1 << 16 };
    static uint8_t *ends[2];
    static int turn;
    turn = !turn;
    if (!ends[turn]) {
        uint8_t *region = mmap(NULL, REGION + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (region == MAP_FAILED || mprotect(region + REGION, GUARD, PROT_NONE) != 0) abort();
        ends[turn] = region + REGION;
    }
    *block = ends[turn] - len - alignment;
    return ends[turn] - len;
}

static void release(void *block) { (void)block; }
#else
/* len bytes at an address that is `alignment` beyond a multiple of 64, with nothing of ours after them. */
static uint8_t *exactly(size_t len, size_t alignment, void **block) {
    if (posix_memalign(block, ALIGNMENTS, alignment + len) != 0) abort();
    return (uint8_t *)*block + alignment;
}

static void release(void *block) { free(block); }
#endif

static void fail(const bm_row *row, const char *what, size_t kind, size_t len, size_t alignment, size_t cut,
                 int carry) {
    fprintf(stderr, "row %s: %s differs: text %zu, %zu bytes, alignment %zu, cut at %zu, carry %d\n", row->name, what,
            kind, len, alignment, cut, carry);
    exit(1);
}

typedef struct result {
    uint8_t bytes[2 * LONG + 2];
    size_t size;
    int ok;
} result;

/* Encodes one piece and appends it. What lies before the piece in memory would mislead a kernel that reads it. */
static void append(result *r, const bm_row *row, const uint8_t *text, size_t len, size_t alignment, int carry) {
    void *src_block, *dst_block;
    uint8_t *src = exactly(len, alignment, &src_block);
    memset(src_block, carry == BM_AFTER_CR ? 'x' : '\r', alignment);
    if (len) memcpy(src, text, len);
    size_t extra = row->body_extra(src, len, carry);
    size_t room = len + extra <= 2 * len + 1 ? len + extra : 0;
    uint8_t *dst = exactly(room, alignment, &dst_block);
    size_t size = room ? row->body_encode(dst, src, len, carry) : 0;
    r->ok = r->ok && size == len + extra && (len == 0 || memcmp(src, text, len) == 0);
    if (size) memcpy(r->bytes + r->size, dst, size);
    r->size += size;
    checks++;
    release(src_block);
    release(dst_block);
}

static int equal(const result *r, const uint8_t *expected, size_t size) {
    return r->ok && r->size == size && memcmp(r->bytes, expected, size) == 0;
}

static result r;
static uint8_t text[LONG + 1], expected[2 * LONG + 4];

/* A piece on its own, for each carry: the reference encodes it behind a byte that leaves this carry. */
static void check_piece(const bm_row *row, size_t kind, size_t len, size_t alignment) {
    static const char *const before[] = {"", "\r", "x"};
    for (int carry = BM_LINE_START; carry <= BM_MID_LINE; carry++) {
        size_t skip = strlen(before[carry]);
        if (skip) text[0] = (uint8_t)before[carry][0];
        fill(text + skip, len, kind);
        size_t size = reference(expected, text, skip + len);
        r.size = 0, r.ok = 1;
        append(&r, row, text + skip, len, alignment, carry);
        if (!equal(&r, expected + skip, size - skip)) fail(row, "piece", kind, len, alignment, len, carry);
    }
}

static void check_cuts(const bm_row *row, size_t kind, size_t len, size_t alignment) {
    fill(text, len, kind);
    size_t size = reference(expected, text, len);
    for (size_t cut = 0; cut <= len; cut++) {
        r.size = 0, r.ok = 1;
        append(&r, row, text, cut, alignment, BM_LINE_START);
        append(&r, row, text + cut, len - cut, alignment, bm_body_carry(text, cut, BM_LINE_START));
        if (!equal(&r, expected, size)) fail(row, "cut text", kind, len, alignment, cut, 0);
    }
}

/* ---- the way back: one byte after the other */

static size_t bare_reference(uint8_t *out, const uint8_t *text, size_t len, int carry) {
    size_t size = 0;
    for (size_t i = 0; i < len; i++) {
        int opens = i ? text[i - 1] == '\n' : carry == BM_LINE_START;
        if (!opens || text[i] != '.') out[size++] = text[i];
    }
    return size;
}

static void check_bare(const bm_row *row, size_t kind, size_t len, size_t alignment, int carry) {
    void *src_block, *dst_block;
    uint8_t *src = exactly(len, alignment, &src_block), *dst = exactly(len, alignment, &dst_block);
    memset(src_block, carry == BM_LINE_START ? 'x' : '\n', alignment);
    fill(src, len, kind);
    size_t size = bare_reference(expected, src, len, carry), written = row->body_bare(dst, src, len, carry);
    if (written != size || (size && memcmp(dst, expected, size) != 0)) fail(row, "bare", kind, len, alignment, 0, carry);
    checks++;
    release(src_block);
    release(dst_block);
}

static void check_bare_row(const bm_row *row) {
    for (size_t kind = 0; kind <= MIXED; kind++) {
        for (int carry = BM_LINE_START; carry <= BM_MID_LINE; carry++) {
            for (size_t len = 0; len <= EACH_LENGTH_TO; len++) check_bare(row, kind, len, len % ALIGNMENTS, carry);
            for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++) {
                check_bare(row, kind, EACH_LENGTH_TO, alignment, carry);
            }
        }
    }
}

/* ---- base64: the digits one at a time, by their number in the whole text */

static size_t base64_reference(uint8_t *out, const uint8_t *text, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t size = 0, all = (len + 2) / 3 * 4;
    for (size_t digit = 0; digit < all; digit++) {
        unsigned number = 0;
        for (size_t bit = 6 * digit; bit < 6 * digit + 6; bit++) {
            unsigned byte = bit / 8 < len ? text[bit / 8] : 0;
            number = number << 1 | (byte >> (7 - bit % 8) & 1);
        }
        out[size++] = 6 * digit >= 8 * len ? '=' : (uint8_t)digits[number];
        if (digit % 76 == 75 || digit + 1 == all) out[size++] = '\r', out[size++] = '\n';
    }
    return size;
}

static void check_base64(const bm_row *row, size_t kind, size_t len, size_t alignment) {
    void *src_block, *dst_block;
    uint8_t *src = exactly(len, alignment, &src_block), *dst = exactly(bm_base64_size(len), alignment, &dst_block);
    fill(src, len, kind);
    size_t size = base64_reference(expected, src, len);
    size_t written = row->base64_lines(dst, src, len);
    if (written != size || bm_base64_size(len) != size || memcmp(dst, expected, size) != 0) {
        fail(row, "base64", kind, len, alignment, 0, 0);
    }
    checks++;
    release(src_block);
    release(dst_block);
}

static void check_base64_row(const bm_row *row) {
    for (size_t kind = PATTERNS; kind <= MARKUP; kind++) {
        for (size_t len = 0; len <= BASE64_TO; len++) check_base64(row, kind, len, len % ALIGNMENTS);
        for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++) check_base64(row, kind, BASE64_TO, alignment);
    }
}

/* ---- quoted-printable: the row "scalar", which has a reference in tests/unit/csrc */

typedef struct line {
    ptrdiff_t col;
    char last; /* the byte before the pen */
} line;

static bm_pen qp_written(const bm_row *row, uint8_t *dst, line before, const uint8_t *src, size_t len, int html) {
    bm_pen pen = {dst + 1, before.col};
    dst[0] = (uint8_t)before.last;
    row->qp_text(&pen, src, len, html);
    return pen;
}

static void check_qp(const bm_row *row, size_t kind, size_t len, size_t alignment, line before, int html) {
    static uint8_t wanted[6 * QP_LONG + 64];
    void *src_block, *dst_block;
    uint8_t *src = exactly(len, alignment, &src_block), *dst = exactly(1 + bm_qp_bound(len), alignment, &dst_block);
    fill(src, len, kind);
    bm_pen want = qp_written(bm_row_at(0), wanted, before, src, len, html);
    bm_pen got = qp_written(row, dst, before, src, len, html);
    if (got.p - dst != want.p - wanted || got.col != want.col || memcmp(dst, wanted, (size_t)(got.p - dst)) != 0) {
        fail(row, html ? "quoted-printable html" : "quoted-printable", kind, len, alignment, (size_t)before.col, 0);
    }
    checks++;
    release(src_block);
    release(dst_block);
}

static void check_qp_row(const bm_row *row) {
    static const line lines[] = {{0, '\n'}, {1, ' '}, {1, 'x'}, {40, 'x'}, {73, 'x'}, {74, ' '}, {74, 'x'}, {75, '\t'}, {75, 'x'}};
    for (size_t kind = 0; kind <= MARKUP; kind++) {
        for (int html = 0; html <= 1; html++) {
            for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
                for (size_t len = 0; len <= QP_TO; len++) check_qp(row, kind, len, len % ALIGNMENTS, lines[i], html);
            }
            for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++) {
                check_qp(row, kind, QP_TO, alignment, lines[0], html);
            }
            for (size_t len = QP_LONG - 33; len <= QP_LONG; len++) check_qp(row, kind, len, 0, lines[0], html);
        }
    }
}

static void check_row(const bm_row *row) {
    check_bare_row(row);
    check_qp_row(row);
    check_base64_row(row);
    for (size_t kind = 0; kind < PATTERNS + RANDOM; kind++) {
        for (size_t len = 0; len <= EACH_LENGTH_TO; len++) check_piece(row, kind, len, len % ALIGNMENTS);
        for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++) {
            check_piece(row, kind, EACH_LENGTH_TO, alignment);
            check_cuts(row, kind, CUT_LENGTH, alignment);
        }
        for (size_t len = LONG - 33; len <= LONG; len += 11) check_piece(row, kind, len, 0);
    }
}

static void fuzz_row(const bm_row *row, size_t count, size_t seed) {
    uint32_t state = (uint32_t)seed;
    for (size_t n = 0; n < count; n++) {
        size_t kind = MIXED + seed + n, len = next(&state) % (QP_LONG + 1), alignment = next(&state) % ALIGNMENTS;
        line before = {next(&state) % BM_QP_LINE, " \tx"[next(&state) % 3]};
        check_piece(row, kind, len, alignment);
        check_base64(row, kind, len, alignment);
        check_bare(row, kind, len, alignment, (int)(n % 3));
        for (int html = 0; html <= 1; html++) check_qp(row, kind, len, alignment, before, html);
    }
}

static int check_dispatch(void) {
    size_t rows = 0;
    while (bm_row_at(rows)) rows++;
    if (bm.body_encode != bm_row_at(rows - 1)->body_encode) return 0;
    for (size_t i = 0; i < rows; i++) {
        if (bm_force_row(bm_row_at(i)->name) != 0 || bm.body_encode != bm_row_at(i)->body_encode) return 0;
    }
    return strcmp(bm_row_at(0)->name, "scalar") == 0 && bm_force_row("none such") == -1
        && bm.body_extra == bm_row_at(rows - 1)->body_extra;
}

int main(int argc, char **argv) {
    size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : DEFAULT_COUNT, seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    bm_kernels_init();
    if (!check_dispatch()) {
        fprintf(stderr, "dispatch: the rows are not as kernels.h says\n");
        return 1;
    }
    for (size_t i = 0; bm_row_at(i); i++) {
        checks = 0;
        check_row(bm_row_at(i));
        fuzz_row(bm_row_at(i), count, seed);
        printf("row %s: %lu encodings equal the reference\n", bm_row_at(i)->name, checks);
    }
    return 0;
}
