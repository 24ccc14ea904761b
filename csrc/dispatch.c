#include "kernels.h"

#include <string.h>

#define BODY(row) bm_body_extra_##row, bm_body_encode_##row, bm_body_bare_##row
#define ROW(row) {#row, BODY(row), bm_base64_lines_##row, bm_qp_text_##row}

enum { MAX_ROWS = 2 }; /* the longest list that bm_kernels_init can make */

bm_row bm = ROW(scalar);
static bm_row rows[MAX_ROWS];
static size_t row_count;

static void add(bm_row row) { rows[row_count++] = row; }

void bm_kernels_init(void) {
    row_count = 0;
    add((bm_row)ROW(scalar));
#ifdef BM_HAVE_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) add((bm_row)ROW(avx2)); /* this asks the operating system's support too */
#endif
#ifdef BM_HAVE_NEON
    add((bm_row){"neon", BODY(scalar), bm_base64_lines_neon, bm_qp_text_scalar});
#endif
    bm = rows[row_count - 1];
}

const bm_row *bm_row_at(size_t i) { return i < row_count ? &rows[i] : NULL; }

int bm_force_row(const char *name) {
    for (size_t i = 0; i < row_count; i++) {
        if (strcmp(rows[i].name, name) != 0) continue;
        bm = rows[i];
        return 0;
    }
    return -1;
}
