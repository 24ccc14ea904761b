# The text of a message between 354 and its final dot (RFC 5321 sections 2.3.8, 4.1.1.4, 4.5.2) and in chunks, as C.
#
# Only CRLF.CRLF ends a message. A CR without LF or an LF without CR never ends anything: servers that disagree about
# that let one message smuggle a second one past the other. It is remembered and the whole message is refused.
#
# The lenient reading makes a CRLF of it instead, and takes it for nothing else: behind it a dot is content, doubled or
# not, and ends nothing. To smuggle, a server has to see an end where the one before it saw none; CRLF.CRLF is an end to
# all of them, and nothing else is one here.

from libc.stddef cimport size_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>

    /* Where the text stands after the last byte. Its order is relied upon: up to BM_LINE nothing is held back. */
    enum bm_data_at {
        BM_TEXT,        /* inside a line */
        BM_CR,          /* after a CR that an LF must follow */
        BM_LINE,        /* at the start of a line: after CRLF, or before the first byte */
        BM_DOT,         /* after a dot that opened a line */
        BM_DOT_CR       /* after that dot and a CR: an LF ends the message, anything else makes the CR text */
    };

    typedef struct {
        size_t used;     /* bytes read, the terminator included */
        size_t content;  /* bytes of content among them: stuffed dots and the terminator taken off */
        int at;          /* enum bm_data_at */
        int bare;        /* saw a CR or LF of its own */
        int stuffed;     /* the content is not one run of the bytes read */
        int ended;       /* read the terminator, and stopped behind it */
    } bm_data;

    #define BM_BLOCK 64

    /* 1 if src[0..BM_BLOCK) holds no dot behind an LF; reads src[-1] too. *bare is raised for a lone CR or LF.
     * No branches, so that the compiler makes vector instructions of it. */
    static inline int bm_plain_block(const unsigned char *src, int *bare) {
        unsigned char lone = 0, dot = 0;
        for (int i = 0; i < BM_BLOCK; i++) {
            unsigned char before = src[i - 1], here = src[i];
            lone |= (unsigned char)((before == '\\r') ^ (here == '\\n'));
            dot |= (unsigned char)((before == '\\n') & (here == '.'));
        }
        if (dot) return 0;
        *bare |= lone;
        return 1;
    }

    static inline int bm_after(int at, unsigned char c, int *bare) {
        if (at == BM_CR && c == '\\n') return BM_LINE;
        if (at == BM_CR || c == '\\n') *bare = 1;
        return c == '\\r' ? BM_CR : BM_TEXT;
    }

    /* One byte. Where `out` is given, the content that it completes (0 to 2 bytes) is written there. */
    static inline size_t bm_data_byte(bm_data *d, unsigned char c, unsigned char *out) {
        switch (d->at) {
        case BM_LINE:
            if (c == '.') { d->at = BM_DOT; return 0; }
            break;
        case BM_DOT:
            if (c == '\\r') { d->at = BM_DOT_CR; return 0; }
            d->stuffed = 1;
            d->at = BM_TEXT;
            break;
        case BM_DOT_CR:
            if (c == '\\n') { d->ended = 1; return 0; }
            d->stuffed = d->bare = 1;
            d->at = c == '\\r' ? BM_CR : BM_TEXT;
            if (out) { out[0] = '\\r'; out[1] = c; }
            return 2;
        }
        d->at = bm_after(d->at, c, &d->bare);
        if (out) *out = c;
        return 1;
    }

    /* Reads src[0..len) up to the terminator. `d` has `at` and `bare` from the piece before. Copies nothing. */
    static void bm_data_scan(bm_data *d, const unsigned char *src, size_t len) {
        size_t i = 0;
        d->content = 0;
        d->stuffed = d->ended = 0;
        while (i < len && !d->ended) {
            size_t start = i, stop;
            if (i && d->at <= BM_LINE) {
                while (len - i >= BM_BLOCK && bm_plain_block(src + i, &d->bare)) i += BM_BLOCK;
                if (i > start) {
                    d->content += i - start;
                    d->at = src[i - 1] == '\\r' ? BM_CR
                          : src[i - 1] == '\\n' && src[i - 2] == '\\r' ? BM_LINE : BM_TEXT;
                }
            }
            stop = len - i > BM_BLOCK ? i + BM_BLOCK : len;
            while (i < stop && !d->ended) d->content += bm_data_byte(d, src[i++], NULL);
        }
        d->used = i;
    }

    /* The content of the same bytes, dots undone, to `out`, which has room for what bm_data_scan counted.
     * `at`: where the text stood before them. */
    static void bm_data_copy(int at, const unsigned char *src, size_t len, unsigned char *out) {
        bm_data d;
        memset(&d, 0, sizeof d);
        d.at = at;
        for (size_t i = 0; i < len && !d.ended; i++) out += bm_data_byte(&d, src[i], out);
    }

    /* The lenient reading of one byte that no dot is in question for: the content that it makes (0 to 2 bytes), which
     * goes to `out` where that is given. A CR is written as CRLF at once, and an LF behind it is nothing more. */
    static inline size_t bm_lenient_text(bm_data *d, unsigned char c, unsigned char *out) {
        if (d->at == BM_CR && c == '\\n') { d->at = BM_LINE; return 0; }
        if (d->at == BM_CR || c == '\\n') d->stuffed = 1;
        d->at = c == '\\r' ? BM_CR : BM_TEXT;
        if (c != '\\r' && c != '\\n') {
            if (out) *out = c;
            return 1;
        }
        if (out) { out[0] = '\\r'; out[1] = '\\n'; }
        return 2;
    }

    /* The same with dots: 0 to 4 bytes of content. */
    static inline size_t bm_lenient_byte(bm_data *d, unsigned char c, unsigned char *out) {
        size_t held = 0;
        switch (d->at) {
        case BM_LINE:
            if (c == '.') { d->at = BM_DOT; return 0; }
            break;
        case BM_DOT:
            if (c == '\\r') { d->at = BM_DOT_CR; return 0; }
            d->stuffed = 1;
            d->at = BM_TEXT;
            break;
        case BM_DOT_CR:
            if (c == '\\n') { d->ended = 1; return 0; }
            d->stuffed = 1;
            d->at = BM_TEXT;
            if (out) { out[0] = '\\r'; out[1] = '\\n'; out += 2; }
            held = 2;
        }
        return held + bm_lenient_text(d, c, out);
    }

    /* bm_data_scan, leniently. `bare` is left alone. */
    static void bm_lenient_scan(bm_data *d, const unsigned char *src, size_t len) {
        size_t i = 0;
        d->content = 0;
        d->stuffed = d->at == BM_CR;      /* whose LF was written with the piece before */
        d->ended = 0;
        while (i < len && !d->ended) {
            size_t start = i, stop;
            if (i && d->at <= BM_LINE) {
                int bare = 0;
                while (len - i >= BM_BLOCK && bm_plain_block(src + i, &bare) && !bare) i += BM_BLOCK;
                if (i > start) {
                    d->content += i - start - (d->at == BM_CR) + (src[i - 1] == '\\r');
                    d->at = src[i - 1] == '\\r' ? BM_CR
                          : src[i - 1] == '\\n' && src[i - 2] == '\\r' ? BM_LINE : BM_TEXT;
                }
            }
            stop = len - i > BM_BLOCK ? i + BM_BLOCK : len;
            while (i < stop && !d->ended) d->content += bm_lenient_byte(d, src[i++], NULL);
        }
        if (d->at == BM_CR) d->stuffed = 1;
        d->used = i;
    }

    static void bm_lenient_copy(int at, const unsigned char *src, size_t len, unsigned char *out) {
        bm_data d;
        memset(&d, 0, sizeof d);
        d.at = at;
        for (size_t i = 0; i < len && !d.ended; i++) out += bm_lenient_byte(&d, src[i], out);
    }

    /* The content of src[0..len) in a chunk, where dots mean nothing; counted, and written where `out` is given. `at` is
     * BM_TEXT, or BM_CR behind a CR. */
    static size_t bm_lenient_chunk(int at, const unsigned char *src, size_t len, unsigned char *out) {
        size_t size = 0;
        bm_data d;
        memset(&d, 0, sizeof d);
        d.at = at;
        for (size_t i = 0; i < len; i++) size += bm_lenient_text(&d, src[i], out ? out + size : NULL);
        return size;
    }

    /* 1 if in src[0..len), behind the byte *before, a CR or LF stands alone. *before becomes the last byte: a CR there
     * is for the next piece to judge. No branches, as above. */
    static int bm_has_lone(unsigned char *before, const unsigned char *src, size_t len) {
        unsigned char lone;
        if (len == 0) return 0;
        lone = (unsigned char)((*before == '\\r') ^ (src[0] == '\\n'));
        for (size_t i = 1; i < len; i++)
            lone |= (unsigned char)((src[i - 1] == '\\r') ^ (src[i] == '\\n'));
        *before = src[len - 1];
        return lone;
    }
    """
    enum:
        BM_TEXT
        BM_CR
        BM_LINE

    ctypedef struct bm_data:
        size_t used
        size_t content
        int at
        int bare
        int stuffed
        int ended

    void bm_data_scan(bm_data *d, const unsigned char *src, size_t len) noexcept nogil
    void bm_data_copy(int at, const unsigned char *src, size_t len, unsigned char *out) noexcept nogil
    bint bm_has_lone(unsigned char *before, const unsigned char *src, size_t len) noexcept nogil
    void bm_lenient_scan(bm_data *d, const unsigned char *src, size_t len) noexcept nogil
    void bm_lenient_copy(int at, const unsigned char *src, size_t len, unsigned char *out) noexcept nogil
    size_t bm_lenient_chunk(int at, const unsigned char *src, size_t len, unsigned char *out) noexcept nogil
