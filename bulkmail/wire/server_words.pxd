# What a command's arguments mean: the text of an address, and the parameters behind it, "NAME" or "NAME=value" (RFC 5321
# section 4.1.2, Esmtp-param). MAIL has SIZE (RFC 1870), BODY (6152), SMTPUTF8 (6531) and AUTH (4954); RCPT has none.

from bulkmail.wire.server_settings cimport *
from bulkmail.wire.server_syntax cimport Path, read_number, same_word


cdef inline str text_of(const unsigned char* p, Path* path):
    """The mailbox that read_path() found. UnicodeDecodeError if it is not UTF-8."""
    return p[path.start:path.start + path.length].decode()


cdef inline bint is_utf8(const unsigned char* p, Path* path) except -1:
    try:
        text_of(p, path)
    except UnicodeDecodeError:
        return False
    return True


cdef inline int mail_word(const unsigned char* p, Py_ssize_t n, Py_ssize_t name, ServerSettings settings, bint* utf8):
    """One parameter p[0..n) whose name is p[0..name): R_MAIL_OK, or the reply that says what is wrong."""
    cdef const unsigned char* value = p + name + 1
    cdef Py_ssize_t length = n - name - 1
    cdef long long size
    if same_word(p, name, b"SIZE", 4) and settings.esmtp_size:
        size = read_number(value, length)
        if size < 0:
            return R_SIZE_WORD
        return R_TOO_BIG if 0 < settings.max_size < size else R_MAIL_OK
    if same_word(p, name, b"BODY", 4) and settings.esmtp_8bit:
        if same_word(value, length, b"7BIT", 4) or same_word(value, length, b"8BITMIME", 8):
            return R_MAIL_OK
        return R_BODY_WORD
    if same_word(p, n, b"SMTPUTF8", 8) and settings.esmtp_utf8:
        utf8[0] = True
        return R_MAIL_OK
    if same_word(p, name, b"AUTH", 4) and length > 0 and settings.login:
        return R_MAIL_OK
    return R_WORD


cdef inline int read_words(const unsigned char* p, Py_ssize_t n, ServerSettings settings, dict words, bint* utf8) except -1:
    """All of p[0..n), each with a space before it. `settings` is None for RCPT; `words` takes the values, or is None."""
    cdef Py_ssize_t i = 0, start, name
    cdef int reply
    while i < n:
        while i < n and p[i] == b' ':
            i += 1
        start = i
        name = -1
        while i < n and p[i] != b' ':
            if p[i] == b'=' and name < 0:
                name = i - start
            i += 1
        reply = R_WORD
        if settings is not None:
            reply = mail_word(p + start, i - start, i - start if name < 0 else name, settings, utf8)
        if reply != R_MAIL_OK:
            return reply
        if words is not None:
            key, _, value = p[start:i].decode("utf-8", "replace").partition("=")
            words[key.upper()] = None if name < 0 else value
    return R_MAIL_OK
