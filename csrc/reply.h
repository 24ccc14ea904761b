/* Where SMTP replies begin and end in a stream of bytes, and their codes. Used by bulkmail/wire/reply.pyx.
 *
 * Nothing here allocates, keeps a pointer, or needs the GIL. A scan reads buf[0..len) and nothing else. Each byte is
 * looked at once, and where replies end, which error comes and when do not depend on how the stream was cut into
 * buffers: tests/fuzz/reply_fuzz.c holds it to that.
 *
 * The grammar is that of RFC 5321 section 4.2, with what real servers were seen to do:
 *
 *     reply  = *( code "-" [text] end ) code [ SP [text] ] end        at most BM_REPLY_MAX bytes in all
 *     code   = three digits from 200 to 599, the same on each line (section 4.2.1); 1xx is not used in SMTP
 *     text   = any bytes but LF; NUL, bytes above 127 and a lone CR included
 *     end    = *CR LF
 *
 * So "250" alone is a reply, and so is a "250-" that has no text; "250" and a tab is none, as for Postfix and Exim.
 */
#ifndef BULKMAIL_REPLY_H
#define BULKMAIL_REPLY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The fuzz harness sets small bounds of its own, so that its short inputs come there. */
#ifndef BM_REPLY_MAX
/* RFC 5321 section 4.5.3.1.5 allows 512 octets a line, and servers with long policy texts or EHLO lists exceed it.
 * 64 KiB for all lines of one reply is ten times the longest seen, and bounds what a hostile server can make us hold,
 * in lines too: a line has 4 bytes or more. */
#  define BM_REPLY_MAX 65536
/* A reply stays in the receipt of each message that it decided. Real ones have some hundred bytes. */
#  define BM_REPLY_KEPT 4096
#endif

/* What bm_reply_next found: a code, or one of these. */
enum {
    BM_REPLY_MORE = 0,   /* no complete reply in the buffer yet */
    BM_REPLY_NOT = -1,   /* a line does not begin with three digits and then a space, "-" or its end */
    BM_REPLY_RANGE = -2, /* a line's code is below 200 or above 599 */
    BM_REPLY_MIXED = -3, /* a line's code is not that of the line before */
    BM_REPLY_LONG = -4,  /* the reply is longer than BM_REPLY_MAX */
};

/* All places are counted from the start of the buffer. All 0 at first. */
typedef struct bm_reply_scan {
    size_t start;   /* the reply that was found last is buf[start..end) */
    size_t end;     /* what is not part of a complete reply begins here */
    size_t line;    /* where the line begins that is being read: end <= line <= scanned */
    size_t scanned; /* buf[line..scanned) holds no LF */
    int begun;      /* the code of the lines buf[end..line), 0 if there are none */
} bm_reply_scan;

/* The code of a line without its end, or BM_REPLY_NOT or BM_REPLY_RANGE. The second digit is any: servers use more
 * than the six groups of the RFC. */
static inline int bm_reply_code(const uint8_t *line, size_t len) {
    if (len < 3) return BM_REPLY_NOT;
    unsigned a = line[0] - '0', b = line[1] - '0', c = line[2] - '0';
    if (a > 9 || b > 9 || c > 9 || (len > 3 && line[3] != ' ' && line[3] != '-')) return BM_REPLY_NOT;
    if (a < 2 || a > 5) return BM_REPLY_RANGE;
    return (int)(a * 100 + b * 10 + c);
}

/* The code of the next complete reply, which then is buf[s->start..s->end); or BM_REPLY_MORE; or an error, of which
 * buf[s->line..) is the line. After an error it finds the same error again, also when more bytes have come.
 * Between two calls bytes may be added behind buf[len). */
static inline int bm_reply_next(bm_reply_scan *s, const uint8_t *buf, size_t len) {
    while (s->scanned < len) {
        const uint8_t *lf = memchr(buf + s->scanned, '\n', len - s->scanned);
        size_t end = lf ? (size_t)(lf - buf) + 1 : len;
        /* Before anything is said of the line, or the error would depend on whether its end has come. */
        if (end - s->end > BM_REPLY_MAX) return BM_REPLY_LONG;
        if (!lf) {
            s->scanned = len;
            break;
        }
        const uint8_t *line = buf + s->line;
        size_t size = end - 1 - s->line;
        while (size && line[size - 1] == '\r') size--;
        int code = bm_reply_code(line, size);
        if (code < 0) return code;
        if (s->begun && code != s->begun) return BM_REPLY_MIXED;
        s->line = s->scanned = end;
        if (size > 3 && line[3] == '-') {
            s->begun = code;
            continue;
        }
        s->begun = 0;
        s->start = s->end;
        s->end = end;
        return code;
    }
    return BM_REPLY_MORE;
}

/* The caller has dropped what lies before s->end: buf[s->end..) is at the start of the buffer now. Of the reply that
 * was found last nothing is known any more. */
static inline void bm_reply_dropped(bm_reply_scan *s) {
    s->line -= s->end;
    s->scanned -= s->end;
    s->start = s->end = 0;
}

/* How many bytes of a complete reply are worth keeping: all, or the whole lines among the first BM_REPLY_KEPT, or so
 * much of a first line that is longer. 3xx is kept whole: it decides no message, and a challenge of AUTH
 * (RFC 4954 section 4: up to 12288 octets) is of no use without its end. */
static inline size_t bm_reply_kept(const uint8_t *reply, size_t len) {
    if (len <= BM_REPLY_KEPT || reply[0] == '3') return len;
    size_t kept = BM_REPLY_KEPT;
    while (kept && reply[kept - 1] != '\n') kept--;
    return kept ? kept : BM_REPLY_KEPT;
}

#endif
