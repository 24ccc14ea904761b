# What a command's arguments mean: the text of an address, and the parameters behind it, "NAME" or "NAME=value" (RFC 5321
# section 4.1.2, Esmtp-param). MAIL has SIZE (RFC 1870), BODY (6152, 3030), SMTPUTF8 (6531), AUTH (4954), REQUIRETLS (8689),
# RET and ENVID (3461); RCPT has NOTIFY and ORCPT.

from bulkmail.wire.server_dsn cimport MAX_ENVID, is_notify, is_orcpt, is_xtext
from bulkmail.wire.server_settings cimport *
from bulkmail.wire.server_syntax cimport Path, read_number, same_word

cdef enum:
    W_SIZE = 1
    W_BODY = 2
    W_UTF8 = 4
    W_AUTH = 8
    W_TLS = 16
    W_RET = 32
    W_ENVID = 64
    W_NOTIFY = 128
    W_ORCPT = 256

cdef struct Words:
    bint utf8       # SMTPUTF8 was said, in this transaction
    bint binary     # BODY=BINARYMIME


cdef inline str text_of(const unsigned char* p, Path* path):
    """The mailbox that read_path() found. UnicodeDecodeError if it is not UTF-8."""
    return p[path.start:path.start + path.length].decode()


cdef inline bint is_utf8(const unsigned char* p, Py_ssize_t n) except -1:
    try:
        p[:n].decode()
    except UnicodeDecodeError:
        return False
    return True


cdef inline int mail_keyword(const unsigned char* p, Py_ssize_t n, ServerSettings settings, bint secure):
    """The flag of a parameter of MAIL that is offered, or 0."""
    if same_word(p, n, b"SIZE", 4):
        return W_SIZE if settings.esmtp_size else 0
    if same_word(p, n, b"BODY", 4):
        return W_BODY if settings.esmtp_8bit or settings.binary else 0
    if same_word(p, n, b"SMTPUTF8", 8):
        return W_UTF8 if settings.esmtp_utf8 else 0
    if same_word(p, n, b"AUTH", 4):
        return W_AUTH if settings.login else 0
    if same_word(p, n, b"REQUIRETLS", 10):
        return W_TLS if settings.require_tls and secure else 0
    if same_word(p, n, b"RET", 3):
        return W_RET if settings.dsn else 0
    if same_word(p, n, b"ENVID", 5):
        return W_ENVID if settings.dsn else 0
    return 0


cdef inline int rcpt_keyword(const unsigned char* p, Py_ssize_t n, ServerSettings settings):
    if same_word(p, n, b"NOTIFY", 6):
        return W_NOTIFY if settings.dsn else 0
    if same_word(p, n, b"ORCPT", 5):
        return W_ORCPT if settings.dsn else 0
    return 0


cdef inline int size_value(const unsigned char* p, Py_ssize_t n, ServerSettings settings):
    cdef long long size = read_number(p, n)
    if size < 0:
        return R_SIZE_WORD
    return R_TOO_BIG if 0 < settings.max_size < size else R_MAIL_OK


cdef inline int body_value(const unsigned char* p, Py_ssize_t n, ServerSettings settings, Words* words):
    words.binary = settings.binary and same_word(p, n, b"BINARYMIME", 10)
    if words.binary or same_word(p, n, b"7BIT", 4) or (settings.esmtp_8bit and same_word(p, n, b"8BITMIME", 8)):
        return R_MAIL_OK
    return R_BODY_WORD


cdef inline int flag_value(Py_ssize_t n):
    """Of a parameter that has none: n is -1 then."""
    return R_MAIL_OK if n < 0 else R_WORD


cdef inline int orcpt_value(const unsigned char* p, Py_ssize_t n, bint utf8) except -1:
    return R_MAIL_OK if is_orcpt(p, n, utf8) and (not utf8 or is_utf8(p, n)) else R_ORCPT_WORD


cdef inline int read_value(int keyword, const unsigned char* p, Py_ssize_t n, ServerSettings settings,
                           Words* words) except -1:
    """The value p[0..n) of a parameter; n is -1 where there is none. R_MAIL_OK, or the reply that says what is wrong."""
    if keyword == W_SIZE:
        return size_value(p, n, settings)
    if keyword == W_BODY:
        return body_value(p, n, settings, words)
    if keyword == W_UTF8:
        words.utf8 = True
        return flag_value(n)
    if keyword == W_TLS:
        return flag_value(n)
    if keyword == W_AUTH:
        return R_MAIL_OK if n > 0 else R_WORD
    if keyword == W_RET:
        return R_MAIL_OK if same_word(p, n, b"FULL", 4) or same_word(p, n, b"HDRS", 4) else R_RET_WORD
    if keyword == W_ENVID:
        return R_MAIL_OK if n <= MAX_ENVID and is_xtext(p, n) else R_ENVID_WORD
    if keyword == W_NOTIFY:
        return R_MAIL_OK if is_notify(p, n) else R_NOTIFY_WORD
    return orcpt_value(p, n, words.utf8)


cdef inline int note_word(dict values, const unsigned char* p, Py_ssize_t n, Py_ssize_t name) except -1:
    key = p[:name].decode().upper()
    values[key] = None if name == n else p[name + 1:n].decode("utf-8", "replace")
    return 0


cdef inline int read_words(const unsigned char* p, Py_ssize_t n, bint rcpt, bint secure, ServerSettings settings,
                           dict values, Words* words) except -1:
    """All of p[0..n), each with a space before it. `values` takes the values, or is None."""
    cdef Py_ssize_t i = 0, start, name
    cdef int reply, keyword, seen = 0
    while i < n:
        while i < n and p[i] == b' ':
            i += 1
        start = i
        name = -1
        while i < n and p[i] != b' ':
            if p[i] == b'=' and name < 0:
                name = i - start
            i += 1
        if name < 0:
            name = i - start
        keyword = rcpt_keyword(p + start, name, settings) if rcpt else mail_keyword(p + start, name, settings, secure)
        if keyword == 0:
            return R_WORD
        if seen & keyword:
            return R_TWICE
        seen |= keyword
        reply = read_value(keyword, p + start + name + 1, i - start - name - 1, settings, words)
        if reply != R_MAIL_OK:
            return reply
        if values is not None:
            note_word(values, p + start, i - start, name)
    return R_MAIL_OK
