# Text into the forms that a message needs: quoted-printable, encoded-words, HTML text. Writes into memory that the caller
# has sized; never allocates, never fails, needs no GIL. Input is UTF-8, of which only bytes below 0x80 are looked at.

from libc.stdint cimport int8_t, uint8_t, uint64_t
from libc.string cimport memcpy

from bulkmail.wire.body cimport kernels
from bulkmail.wire.kernels cimport (BM_LINE_START, BM_QP_LINE, bm_base64, bm_base64_size, bm_pen, bm_qp_bound,
                                    bm_qp_guard_blank, bm_qp_soft_break, bm_row)

cdef const bm_row* KERNELS = kernels()

cdef enum:
    WORD_LINE = 76          # RFC 2047 section 2: a line with an encoded-word
    WORD_MAX = 75           # an encoded-word
    WORD_FRAME = 12         # =?utf-8?b??=

# What a byte of a header value is, as bits that are ORed over the value.
cdef enum:
    BREAK = 1               # CR, LF, NUL: never in a header
    CONTROL = 2             # other control characters, DEL
    BEYOND_ASCII = 4
    SPECIAL = 8             # not atext and not a blank: a phrase with one needs quotes (RFC 5322 section 3.2.3)
    ESCAPED = 16            # " and \ inside quotes
    EQUALS = 32             # "=" and "?": together they may look like an encoded-word
    QUESTION = 64
    NOT_URI = 128           # may not stand in a URI (RFC 3986 section 2)

cdef uint8_t HEADER_CLASS[256]
cdef uint8_t WORD_SAFE[256]         # stands for itself in a Q encoded-word anywhere (RFC 2047 section 5 rule 3)
cdef uint8_t ATEXT[256]
cdef uint8_t ALNUM[256]
cdef const char* HEX_DIGITS = b"0123456789ABCDEF"
cdef const char* BASE36 = b"0123456789abcdefghijklmnopqrstuvwxyz"


cdef void _fill_tables():
    cdef int c
    for c in range(256):
        ALNUM[c] = 48 <= c < 58 or 65 <= c < 91 or 97 <= c < 123
        WORD_SAFE[c] = ALNUM[c] or chr(c) in "!*+-/"
        ATEXT[c] = ALNUM[c] or (c < 128 and chr(c) in "!#$%&'*+-/=?^_`{|}~")
        HEADER_CLASS[c] = 0
        if c in b"\0\r\n":
            HEADER_CLASS[c] |= BREAK
        elif c < 32 or c == 127:
            HEADER_CLASS[c] |= CONTROL
        if c >= 128:
            HEADER_CLASS[c] |= BEYOND_ASCII
        if not ATEXT[c] and c != c' ':
            HEADER_CLASS[c] |= SPECIAL
        if c in b' "<>\\^`{|}' or c < 33 or c > 126:
            HEADER_CLASS[c] |= NOT_URI
        if c == c'"' or c == c'\\':
            HEADER_CLASS[c] |= ESCAPED
        if c == c'=':
            HEADER_CLASS[c] |= EQUALS
        if c == c'?':
            HEADER_CLASS[c] |= QUESTION

_fill_tables()


cdef inline Py_ssize_t qp_bound(Py_ssize_t n) noexcept nogil:
    return <Py_ssize_t>bm_qp_bound(<size_t>n)


cdef inline void put_text(bm_pen* pen, const uint8_t* s, Py_ssize_t n, bint html) noexcept nogil:
    """Text as quoted-printable, continuing the pen's line, which stays open; html: escaped. There is room for qp_bound(n)."""
    KERNELS.qp_text(pen, s, <size_t>n, html)


cdef inline int header_class(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    cdef int bits = 0
    cdef Py_ssize_t i
    for i in range(n):
        bits |= HEADER_CLASS[s[i]]
    return bits


cdef inline Py_ssize_t character(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """Bytes of the UTF-8 character at s, of which n are left."""
    cdef Py_ssize_t k = 1
    while k < n and (s[k] & 0xC0) == 0x80:
        k += 1
    return k


cdef inline Py_ssize_t words_bound(Py_ssize_t n) noexcept nogil:
    """The most that put_words writes: 3 bytes for one; a word of at least 30 bytes of payload has 12 of frame and a fold."""
    return 5 * n + 64


cdef inline Py_ssize_t q_cost(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t size = 0, i
    for i in range(n):
        size += 1 if WORD_SAFE[s[i]] or s[i] == c' ' else 3
    return size


cdef inline Py_ssize_t base64_cost(Py_ssize_t n) noexcept nogil:
    return (n + 2) // 3 * 4


cdef inline bint extends(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """Whether the character at s belongs to the one before it: an accent, a joiner, a variation, a skin tone, a tag."""
    if n < 2 or s[0] < 0xCC:
        return False
    if s[0] < 0xCE:
        return s[0] == 0xCC or s[1] < 0xB0      # U+0300 to U+036F
    if n > 2 and s[0] == 0xE2:
        return (s[1] == 0x80 and s[2] == 0x8D) or (s[1] == 0x83 and s[2] >= 0x90)   # U+200D, U+20D0 to U+20FF
    if n > 2 and s[0] == 0xEF:
        return s[1] == 0xB8 and s[2] < 0x90     # U+FE00 to U+FE0F
    if n > 3 and s[0] == 0xF0:
        return s[1] == 0x9F and s[2] == 0x8F and s[3] >= 0xBB       # U+1F3FB to U+1F3FF
    return n > 3 and s[0] == 0xF3 and s[1] == 0xA0                  # U+E0000 to U+E0FFF


cdef inline bint joins(const uint8_t* s) noexcept nogil:
    return s[0] == 0xE2 and s[1] == 0x80 and s[2] == 0x8D       # U+200D


cdef inline bint half_flag(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """U+1F1E6 to U+1F1FF: two of them are a flag."""
    return n > 3 and s[0] == 0xF0 and s[1] == 0x9F and s[2] == 0x87 and s[3] >= 0xA6


cdef inline Py_ssize_t cluster(const uint8_t* s, Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """Bytes of what a reader sees as one character, such as an emoji of several; more than `most`: of the first of them."""
    cdef Py_ssize_t first = character(s, n), k = first
    cdef bint flag = half_flag(s, n)
    while k < n:
        if flag and half_flag(s + k, n - k):
            flag = False
        elif not extends(s + k, n - k) and not (k > 3 and joins(s + k - 3)):
            break
        k += character(s + k, n - k)
        if k > most:
            return first
    return k


cdef Py_ssize_t put_words(uint8_t* out, const uint8_t* s, Py_ssize_t n, Py_ssize_t* col) noexcept nogil:
    """Text as RFC 2047 encoded-words, folded, fit for a phrase as well as for unstructured text; n > 0.

    Characters are never divided between words (section 5), nor are emoji of several that a line can hold. col: length of
    the header's line so far, changed to that of the last line written. returns  bytes written
    """
    cdef bint q = q_cost(s, n) <= base64_cost(n)
    cdef uint8_t* p = out
    cdef Py_ssize_t i = 0, k, room, size, cost
    cdef Py_ssize_t most = (WORD_MAX - WORD_FRAME) // 3 if q else (WORD_MAX - WORD_FRAME) // 4 * 3
    # A long header name leaves no room on its own line: the longest character has 12 bytes as Q, and short words are waste.
    if WORD_LINE - col[0] < WORD_FRAME + 24:
        memcpy(p, b"\r\n ", 3)
        p += 3
        col[0] = 1
    while True:
        room = min(WORD_MAX, WORD_LINE - col[0]) - WORD_FRAME
        size = cost = 0
        while i + size < n:
            k = cluster(s + i + size, n - i - size, most)
            cost = cost + q_cost(s + i + size, k) if q else base64_cost(size + k)
            if cost > room:
                break
            size += k
        if size == 0:       # what is left of the line of the header's name is too short for the first one
            memcpy(p, b"\r\n ", 3)
            p += 3
            col[0] = 1
            continue
        memcpy(p, b"=?utf-8?q?" if q else b"=?utf-8?b?", 10)
        k = put_q(p + 10, s + i, size) if q else <Py_ssize_t>bm_base64(p + 10, s + i, <size_t>size)
        memcpy(p + 10 + k, b"?=", 2)
        p += WORD_FRAME + k
        col[0] += WORD_FRAME + k
        i += size
        if i >= n:
            return p - out
        memcpy(p, b"\r\n ", 3)
        p += 3
        col[0] = 1


cdef inline Py_ssize_t put_q(uint8_t* out, const uint8_t* s, Py_ssize_t n) noexcept nogil:
    cdef uint8_t* p = out
    cdef Py_ssize_t i
    for i in range(n):
        if WORD_SAFE[s[i]]:
            p[0] = s[i]
            p += 1
        elif s[i] == c' ':
            p[0] = c'_'
            p += 1
        else:
            p[0] = c'='
            p[1] = HEX_DIGITS[s[i] >> 4]
            p[2] = HEX_DIGITS[s[i] & 15]
            p += 3
    return p - out


cdef bint plain_address(const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """Whether this is surely an address: dot-atom, "@", host name; RFC 5321 sections 4.1.2 and 4.5.3.1. False: look closer."""
    cdef Py_ssize_t i = 0, label
    if n > 254:
        return False
    while i < n and s[i] != c'@':
        if not ATEXT[s[i]] and (s[i] != c'.' or i == 0 or s[i - 1] == c'.'):
            return False
        i += 1
    if i == 0 or i > 64 or i >= n - 1 or s[i - 1] == c'.':
        return False
    label = i = i + 1
    while i <= n:
        if i == n or s[i] == c'.':
            if i == label or i - label > 63 or s[label] == c'-' or s[i - 1] == c'-':
                return False
            if i == n:
                return s[label] > c'9'
            label = i + 1
        elif not ALNUM[s[i]] and s[i] != c'-':
            return False
        i += 1
    return False


cdef inline uint64_t address_hash(uint64_t seed, const uint8_t* s, Py_ssize_t n) noexcept nogil:
    """64 bits of a recipient's address: FNV-1a, mixed at the end. It tells copies apart; it is no secret."""
    cdef uint64_t h = seed ^ 0xCBF29CE484222325ULL
    cdef Py_ssize_t i
    for i in range(n):
        h = (h ^ s[i]) * 0x100000001B3ULL
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDULL
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53ULL
    return h ^ (h >> 33)


cdef inline Py_ssize_t put_base36(uint8_t* out, uint64_t value) noexcept nogil:
    """At most 13 bytes."""
    cdef uint8_t digits[16]
    cdef Py_ssize_t n = 0, i
    while True:
        digits[n] = BASE36[value % 36]
        value //= 36
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline bint looks_like_word(int bits, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Whether readers might take part of it for an encoded-word."""
    cdef Py_ssize_t i
    if not (bits & EQUALS and bits & QUESTION):
        return False
    for i in range(n - 1):
        if p[i] == c'=' and p[i + 1] == c'?':
            return True
    return False


cdef inline bint has_double_blank(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n - 1):
        if p[i] == c' ' and p[i + 1] == c' ':
            return True
    return False
