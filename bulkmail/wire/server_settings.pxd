# The replies that never vary, by number; their text is in the .pyx.
cdef enum:
    R_MAIL_OK, R_RCPT_OK, R_GO_AHEAD, R_TAKEN, R_OK, R_BYE, R_HELP, R_VRFY, R_TLS_GO, R_LOGGED_IN
    R_UNKNOWN, R_NOT_LMTP, R_ONLY_LMTP, R_NOT_HERE, R_BDAT, R_BDAT_SYNTAX, R_NOT_MAIL, R_LONG, R_LF, R_CONTROL
    R_NO_ARGUMENT, R_NAME, R_HELLO_FIRST, R_NESTED, R_MAIL_FIRST, R_NO_RCPT, R_IN_CHUNKS, R_BDAT_HELO, R_BINARY
    R_MAIL_SYNTAX, R_RCPT_SYNTAX, R_SPACE
    R_SENDER, R_RECIPIENT, R_UTF8, R_ESMTP, R_WORD, R_TWICE, R_SIZE_WORD, R_BODY_WORD, R_RET_WORD, R_ENVID_WORD
    R_NOTIFY_WORD, R_ORCPT_WORD, R_TOO_BIG, R_TOO_MANY, R_BARE
    R_NO_TLS, R_IN_TLS, R_NO_AUTH, R_AUTH_AGAIN, R_AUTH_IN_MAIL, R_MECHANISM, R_BASE64, R_CANCELLED, R_DENIED
    R_AUTH_FIRST, R_ERRORS, R_COMMANDS


cdef class ServerCounts:
    cdef public long long connections, messages, recipients, bytes, refused


cdef class ServerSettings:
    cdef readonly str name
    cdef readonly long long max_size, max_recipients
    cdef readonly frozenset without
    cdef readonly bint starttls, lmtp, envelopes, content, lenient
    cdef readonly tuple auth, mechanisms
    cdef readonly int ask
    cdef bint esmtp_size, esmtp_8bit, esmtp_utf8, chunking, binary, dsn, require_tls, enhanced, login
    cdef list replies            # bytes, by number
    cdef dict _hello             # (inside TLS, AUTH offered) -> the reply to EHLO
    cdef bytes hello(self, bint secure, bint auth)
