/* Fuzz harness of csrc/reply.h. However an input is cut, the scan must find what a plain model of the grammar finds in
 * the whole, and never read outside the buffer: each has exactly its size, so a sanitizer sees one byte too far.
 *
 * With libFuzzer (-fsanitize=fuzzer) this is the target. With -DSTANDALONE it is a program:
 *
 *     reply_fuzz COUNT SEED FILE...      runs the files, then COUNT inputs made from them; the same ones each time
 *
 * scripts/fuzz builds and runs both. */
#define BM_REPLY_MAX 96
#define BM_REPLY_KEPT 32
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_INPUT = 256, SHORTEST_REPLY = 4 };

typedef struct found {
    int code;
    size_t start, end, kept;
} found;

/* What an input holds: complete replies, then an error or none. */
typedef struct result {
    found replies[MAX_INPUT / SHORTEST_REPLY];
    size_t count;
    int error;
} result;

static void require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "reply_fuzz: %s\n", what);
    abort();
}

/* -- the model: the grammar as it is written in reply.h, a byte at a time, of an input that is there as a whole */

static int model_line(const uint8_t *line, size_t size, int *more) {
    int code = 0;
    while (size > 0 && line[size - 1] == '\r') size--;
    for (size_t i = 0; i < 3; i++) {
        if (i >= size || strchr("0123456789", line[i]) == NULL || line[i] == 0) return BM_REPLY_NOT;
        code = code * 10 + (line[i] - '0');
    }
    *more = size > 3 && line[3] == '-';
    if (size > 3 && line[3] != '-' && line[3] != ' ') return BM_REPLY_NOT;
    return code < 200 || code > 599 ? BM_REPLY_RANGE : code;
}

static size_t model_kept(const uint8_t *reply, size_t size) {
    size_t whole_lines = 0;
    if (size <= BM_REPLY_KEPT || reply[0] == '3') return size;
    for (size_t i = 0; i < BM_REPLY_KEPT; i++)
        if (reply[i] == '\n') whole_lines = i + 1;
    return whole_lines ? whole_lines : BM_REPLY_KEPT;
}

static void model(result *r, const uint8_t *data, size_t size) {
    size_t reply = 0, line = 0;
    int begun = 0;
    r->count = 0, r->error = 0;
    for (size_t i = 0; i < size; i++) {
        int more = 0;
        if (i - reply == BM_REPLY_MAX) {
            r->error = BM_REPLY_LONG;
            return;
        }
        if (data[i] != '\n') continue;
        int code = model_line(data + line, i - line, &more);
        if (code > 0 && begun && begun != code) code = BM_REPLY_MIXED;
        if (code < 0) {
            r->error = code;
            return;
        }
        line = i + 1;
        begun = more ? code : 0;
        if (more) continue;
        r->replies[r->count++] = (found){code, reply, line, model_kept(data + reply, line - reply)};
        reply = line;
    }
}

/* -- the reader: what reply.pyx does with the stream, in buffers of exactly the size */

typedef struct reader {
    uint8_t *buf;
    size_t len;
    size_t before; /* bytes of the stream that lie before buf */
    bm_reply_scan scan;
} reader;

static uint8_t *exactly(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size);
    if (size) memcpy(copy, data, size);
    return copy;
}

static void feed(reader *r, const uint8_t *data, size_t size) {
    size_t unread = r->len - r->scan.end;
    uint8_t *buf = malloc(unread + size);
    if (unread) memcpy(buf, r->buf + r->scan.end, unread);
    if (size) memcpy(buf + unread, data, size);
    free(r->buf);
    r->buf = buf;
    r->len = unread + size;
    r->before += r->scan.end;
    bm_reply_dropped(&r->scan);
}

static size_t check_kept(const reader *r) {
    size_t size = r->scan.end - r->scan.start;
    uint8_t *reply = exactly(r->buf + r->scan.start, size);
    size_t kept = bm_reply_kept(reply, size);
    free(reply);
    return kept;
}

static void check_waiting(const reader *r) {
    const bm_reply_scan *s = &r->scan;
    require(s->scanned == r->len, "more bytes are asked for before all were looked at");
    require(s->end <= s->line && s->line <= s->scanned, "places out of order");
    require((s->begun != 0) == (s->line != s->end), "a reply has begun without a line, or a line without a reply");
    require(r->len - s->end <= BM_REPLY_MAX, "more is held than the longest reply");
}

/* All replies that are complete now, behind those in `out`. */
static void drain(reader *r, result *out) {
    for (;;) {
        bm_reply_scan before = r->scan;
        int code = bm_reply_next(&r->scan, r->buf, r->len);
        if (code == BM_REPLY_MORE) return check_waiting(r);
        if (code < 0) {
            out->error = code;
            return;
        }
        require(r->scan.start == before.end && r->scan.end >= r->scan.start + SHORTEST_REPLY, "no progress");
        require(r->scan.end <= r->len && r->scan.scanned >= before.scanned, "bytes looked at twice, or not there");
        require(out->count < MAX_INPUT / SHORTEST_REPLY, "more replies than bytes for them");
        out->replies[out->count++] =
            (found){code, r->before + r->scan.start, r->before + r->scan.end, check_kept(r)};
    }
}

static void check_dead(reader *r, int error) {
    require(bm_reply_next(&r->scan, r->buf, r->len) == error, "an error is forgotten");
    feed(r, (const uint8_t *)"\n250 ok\r\n", 9);
    require(bm_reply_next(&r->scan, r->buf, r->len) == error, "an error is forgotten when more bytes come");
}

/* Cut before `first`, and from there into pieces of `step` bytes. */
static void check_cut(const result *expected, const uint8_t *data, size_t size, size_t first, size_t step) {
    static result got;
    reader r = {0};
    got.count = 0, got.error = 0;
    r.buf = malloc(0);
    for (size_t at = 0, piece = first; at <= size && !got.error; at += piece, piece = step) {
        if (piece > size - at) piece = size - at;
        feed(&r, data + at, piece);
        drain(&r, &got);
        if (at + piece == size) break;
    }
    require(got.error == expected->error, "another error than the model's");
    require(got.count == expected->count, "another number of replies than the model's");
    for (size_t i = 0; i < got.count; i++) {
        const found *a = &got.replies[i], *b = &expected->replies[i];
        require(a->code == b->code, "another code than the model's");
        require(a->start == b->start && a->end == b->end, "a reply begins or ends elsewhere than the model's");
        require(a->kept == b->kept, "another part of a reply is kept than the model's");
    }
    if (got.error) check_dead(&r, got.error);
    free(r.buf);
}

static uint64_t hash(const uint8_t *data, size_t size) {
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < size; i++) h = (h ^ data[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static result expected;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > MAX_INPUT) return 0;
    uint64_t places = hash(data, size);
    model(&expected, data, size);
    check_cut(&expected, data, size, size, 1);
    check_cut(&expected, data, size, places % (size + 1), size + 1);
    check_cut(&expected, data, size, (places >> 16) % (size + 1), 2 + (places >> 32) % 30);
    check_cut(&expected, data, size, 0, 1);
    return 0;
}

#ifdef STANDALONE
#include <signal.h>
#include <unistd.h>

enum { POOL = 4096, KINDS = 1 << 16 };

typedef struct input {
    uint8_t bytes[MAX_INPUT];
    size_t size;
} input;

static input pool[POOL], now;
static size_t pooled;
static uint8_t kinds[KINDS];
static uint64_t state;

static const struct {
    const char *bytes;
    size_t size;
} tokens[] = {
#define T(text) {text, sizeof(text) - 1}
    T("250 "), T("250-"), T("250"), T("\r\n"), T("\n"), T("\r"), T("\r\r\n"), T("421 "), T("354 go\r\n"), T("334 "),
    T("250 ok\r\n"), T("250-\r\n"), T("250\r\n"), T("550-5.1.1 "), T("550 "), T("\0"), T("\t"), T("-"), T(" "),
    T("199 "), T("200 "), T("599 "), T("600 "), T("2.0.0 "), T("\xff"), T("\xc2\x9b"), T("\n\n"), T("25"), T("2500 "),
};

static size_t below(size_t n) { /* xorshift64*, Vigna 2014 */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (size_t)((state * 2685821657736338717u >> 32) % n);
}

/* Puts size bytes in the place of `old` at `at`; what does not fit falls off the end. */
static void splice(size_t at, size_t old, const uint8_t *bytes, size_t size) {
    if (size > MAX_INPUT - at) size = MAX_INPUT - at;
    size_t tail = now.size - at - old;
    if (tail > MAX_INPUT - at - size) tail = MAX_INPUT - at - size;
    memmove(now.bytes + at + size, now.bytes + at + old, tail);
    memcpy(now.bytes + at, bytes, size);
    now.size = at + size + tail;
}

static void mutate(void) {
    static uint8_t piece[MAX_INPUT];
    size_t at = below(now.size + 1), rest = now.size - at, size = 0;
    switch (below(8)) {
    case 0: /* a bit */
        if (rest) now.bytes[at] ^= (uint8_t)(1u << below(8));
        return;
    case 1: /* a byte */
        piece[0] = (uint8_t)below(256);
        return splice(at, rest && below(2), piece, 1);
    case 2: /* some bytes less */
        return splice(at, below(rest + 1) >> below(6), piece, 0);
    case 3: { /* a part of another */
        const input *other = &pool[below(pooled)];
        size_t from = below(other->size + 1);
        size = below(other->size - from + 1);
        memcpy(piece, other->bytes + from, size);
        return splice(at, 0, piece, size);
    }
    case 4: /* a part of itself once more */
        size = below(rest + 1) >> below(4);
        memcpy(piece, now.bytes + at, size);
        return splice(at, 0, piece, size);
    case 5: /* a run of one byte: long lines */
        size = below(BM_REPLY_MAX + 8) >> below(6);
        memset(piece, "x- \r0"[below(5)], size);
        return splice(at, 0, piece, size);
    default: {
        size_t token = below(sizeof tokens / sizeof *tokens);
        return splice(at, below(2) ? 0 : below(rest + 1) >> below(8), (const uint8_t *)tokens[token].bytes,
                      tokens[token].size);
    }
    }
}

/* Inputs whose outcome is of a kind not met before are built upon. */
static void keep_if_new(void) {
    size_t last = expected.count ? expected.count - 1 : 0;
    const found *r = &expected.replies[last];
    uint32_t shape[] = {(uint32_t)-expected.error, (uint32_t)(expected.count < 20 ? expected.count : 20),
                        expected.count ? (uint32_t)(r->end - r->start) / 4 : 0,
                        expected.count ? (uint32_t)(now.size - r->end) / 4 : (uint32_t)now.size / 4};
    uint8_t *kind = &kinds[hash((const uint8_t *)shape, sizeof shape) % KINDS];
    if (*kind) return;
    *kind = 1;
    pool[pooled < POOL ? pooled++ : below(POOL)] = now;
}

static void run(void) {
    uint8_t *data = exactly(now.bytes, now.size);
    LLVMFuzzerTestOneInput(data, now.size);
    free(data);
}

static void show_input(int signal_number) {
    (void)signal_number;
    fprintf(stderr, "reply_fuzz: input of %zu bytes, as for printf: '", now.size);
    for (size_t i = 0; i < now.size; i++) fprintf(stderr, "\\x%02x", now.bytes[i]);
    fprintf(stderr, "'\n");
    _exit(1);
}

static void read_seed(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    now.size = fread(now.bytes, 1, MAX_INPUT, file);
    fclose(file);
    run();
    if (pooled < POOL) pool[pooled++] = now;
}

int main(int argc, char **argv) {
    unsigned long long ended = 0, errors[-BM_REPLY_LONG + 1] = {0};
    if (argc < 4) {
        fprintf(stderr, "usage: reply_fuzz COUNT SEED FILE...\n");
        return 2;
    }
    unsigned long long count = strtoull(argv[1], NULL, 10);
    state = strtoull(argv[2], NULL, 10) * 2 + 1;
    signal(SIGABRT, show_input);
    for (int i = 3; i < argc; i++) read_seed(argv[i]);
    for (unsigned long long i = 0; i < count; i++) {
        const input *a = &pool[below(pooled)], *b = &pool[below(pooled)];
        now = a->size < b->size ? *a : *b; /* short ones run faster, and reach as much */
        for (size_t n = 1 + below(6); n; n--) mutate();
        run();
        keep_if_new();
        ended += expected.count;
        errors[-expected.error]++;
    }
    printf("reply_fuzz: %llu inputs, each cut four ways, hold %llu replies; without error %llu, no reply %llu, "
           "code out of range %llu, mixed codes %llu, too long %llu; %zu kinds\n",
           count, ended, errors[0], errors[-BM_REPLY_NOT], errors[-BM_REPLY_RANGE], errors[-BM_REPLY_MIXED],
           errors[-BM_REPLY_LONG], pooled);
    return 0;
}
#endif
