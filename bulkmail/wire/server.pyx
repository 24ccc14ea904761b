# The server's side of SMTP and LMTP: bytes in; events, and bytes to send, out. No sockets, no clock, no logging.
# RFC 5321 (SMTP), 2033 (LMTP), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034 (enhanced codes), 2920
# (PIPELINING), 3207 (STARTTLS), 4954 (AUTH), 7628 (tokens), 3030 (CHUNKING, BINARYMIME), 3461 (DSN), 8689 (REQUIRETLS),
# 9422 (LIMITS).
#
# Owns      the part of a command line that came without its end (MAX_LINE at most) and the replies not yet taken.
#           The text of a message is not kept: it is scanned where it lies, and handed on as `content` events.
# Promises  events and replies do not depend on how the stream was cut, but for the cuts between `content` events (and
#           for how much `content` came of a message that was refused). Each byte is scanned once. Where nobody wants
#           envelopes, no object is made per message.
# Errors    none but MemoryError, whatever comes in: what is wrong is answered.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr

from bulkmail.wire.server_settings cimport *
from bulkmail.wire.server_state cimport *
from bulkmail.wire.server_syntax cimport read_path, same_word
from bulkmail.wire.server_words cimport is_utf8, read_words, text_of

from bulkmail.wire.server_buffers import MAX_LINE
from bulkmail.wire.server_state import MAX_COMMANDS

# RFC 5321 section 4.5.3.1.4 says 512 and lets extensions add; Postfix takes 2,048. AUTH may use MAX_LINE.
MAX_COMMAND_LINE = 2048
# RFC 5321 section 4.5.3.1.2.
MAX_NAME = 255
# Recipients of a transaction past the limit; each one more is an error. As in Postfix (smtpd_recipient_overshoot_limit):
# a client that pipelines its recipients cannot know of the limit in time.
MAX_OVERSHOOT = 1000

cdef Py_ssize_t _MAX_COMMAND_LINE = MAX_COMMAND_LINE, _MAX_LINE = MAX_LINE, _MAX_NAME = MAX_NAME
cdef long long _MAX_OVERSHOOT = MAX_OVERSHOOT


cdef class ServerCodec(ServerAuth):
    """One connection: start(), then feed() whatever is read; after each call send what output() gives.

    secure, local: TLS from the start; a client on this machine, to which AUTH is offered in clear.

    Events are tuples: ("mail", address, parameters), ("rcpt", address, parameters), ("data",), ("content", bytes),
    ("end", size); ("abort", why) in place of "end" when the message was refused here; ("reset",) when an open
    transaction was given up; ("auth", mechanism, user, password); ("starttls",). And ("ask", phase, word) where nothing
    else would tell what is asked: "ehlo" with the name, "auth" with the user, "starttls", "data", "quit" with None.

    An event that the settings ask about is the last of its list; `asking` says which, and accept() or refuse() return
    the events that follow. What is fed meanwhile waits. After ("starttls",): send output(), shake hands, secured().
    Once `closed`: send output(), close.
    """

    def __init__(self, ServerSettings settings not None, ServerCounts counts not None, *, bint secure=False,
                 bint local=False):
        ServerAuth.__init__(self, settings, counts)
        self.secure = secure
        self.local = local
        counts.connections += 1

    @property
    def helo(self):
        """The name that the client gave, None before."""
        return None if self._helo is None else self._helo.decode("utf-8", "replace")

    # --- what the caller does

    def start(self, str ident not None=""):
        """The greeting. `ident` is shown in it, so that the logs of both sides can be put together."""
        if self._state != CLOSED:
            self.put(self.settings.greeting(ident))

    def feed(self, bytes data not None):
        """The events that `data` completes: a list, or an empty tuple."""
        if self._state >= TLS:
            self.dropped += len(data)
            return ()
        if self.asking:
            self._data = data if self._data is None else self._data[self._pos:] + data
            self._pos = 0
            return ()
        self._data = data
        self._pos = 0
        return self._run()

    def accept(self, bytes text=None):
        """Yes to the question; for a message, `text` follows "250 2.0.0 ". Returns the events that follow."""
        question, self.asking = self.asking, 0
        if self._state == CLOSED:
            return ()
        if question == ASK_MAIL:
            self._state = MAIL
            self._say(R_MAIL_OK)
        elif question == ASK_RCPT:
            self._state = RCPT
            self._recipients += 1
            self._say(R_RCPT_OK)
        elif question == ASK_END:
            self._taken(None if text is None else self.settings.line(b"250 2.0.0 " + text))
        elif question == ASK_AUTH:
            self.user = self._login.credentials[0]
            self._say(R_LOGGED_IN)
        else:
            self._go_on(question)
        return self._next()

    def refuse(self, int code, bytes enhanced not None, bytes text not None):
        """No to the question; with none open, to the connection (in place of start()). 421 always ends it.

        Without an enhanced code `text` is said as it is. Returns the events that follow.
        """
        question, self.asking = self.asking, 0
        if self._state == CLOSED:
            return ()
        self.counts.refused += 1
        if enhanced:
            line = self.settings.line(b"%d %s %s" % (code, enhanced, text))
        else:
            line = (b"%d %s" % (code, text)).rstrip() + b"\r\n"
        if question == ASK_END:
            self._verdict(line)
        elif question == ASK_DATA and self._chunk_asked:
            self._refuse_chunk(line)
        elif question == ASK_AUTH:
            self._deny(code, line)
        else:
            self.put(line)
        if question == 0 or code == 421:
            self._state = CLOSED
        return self._next()

    def settle(self, list refusals not None, bytes text=None):
        """LMTP's answer to a message, recipient by recipient: what refuses one ("451 4.2.1 Later"), b"" to say nothing,
        None to accept, with `text` as in accept(). Returns the events that follow."""
        if self._state == CLOSED:
            self.asking = 0
            return ()
        if self.asking != ASK_END or len(refusals) != self._recipients:
            raise ValueError("settle() answers the end of a message, for each recipient")
        self.asking = 0
        self._divided(refusals, <bytes> self.settings.replies[R_TAKEN] if text is None
                      else self.settings.line(b"250 2.0.0 " + text))
        return self._next()

    def pause(self):
        """The next answer is the last for now: what follows it is read at resume(). `asking` is not 0 until then."""
        self._pausing = True

    def resume(self):
        """The events that follow."""
        self._pausing = False
        if self.asking == PAUSED:
            self.asking = 0
        return self._run()

    def secured(self):
        """The handshake that ("starttls",) asked for is done. What the client said in clear is forgotten."""
        self.secure = True
        self.user = self._helo = None
        self._state = NEW

    def hang_up(self, bytes enhanced not None, bytes text not None):
        """421, whatever is going on. A message whose end was not answered is not taken."""
        if self._state != CLOSED:
            self.put(self.settings.line(b"421 %s %s" % (enhanced, text)))
            self._state = CLOSED
            self._data = None

    cdef object _next(self):
        # Behind STARTTLS nothing is held: it would be read inside TLS then (RFC 3207 section 4.2).
        if self._pausing and self.asking == 0 and self._state < TLS:
            self.asking = PAUSED
        return self._run()

    cdef int _go_on(self, int question) except -1:
        """With what was asked about before it was done."""
        if question == ASK_HELLO:
            return self._welcome()
        if question == ASK_STARTTLS:
            return self._await_tls()
        if question == ASK_LOGIN:
            return self._judge()
        if question == ASK_DATA:
            return self._settle_chunk() if self._chunk_asked else self._go_ahead()
        return self._close(R_BYE)

    def leave(self, bytes enhanced not None, bytes text not None):
        """hang_up(), but after the verdict on the message that is under way. What is pipelined behind it is not read."""
        if self._under_way():
            self._farewell = (enhanced, text)
        else:
            self.hang_up(enhanced, text)

    cdef int _depart(self) except -1:
        """After leave(): 421 once nothing is under way any more."""
        if self._farewell is not None and not self._under_way():
            self.hang_up(*self._farewell)
        return 0

    # --- lines

    cdef object _run(self):
        cdef bytes data = self._data
        cdef const unsigned char* p
        cdef Py_ssize_t n
        self._depart()
        if data is not None:
            p = <const unsigned char*> PyBytes_AS_STRING(data)
            n = PyBytes_GET_SIZE(data)
            while self._pos < n and self._state < TLS and not self.asking:
                if self._state == TEXT:
                    self._read_text(p + self._pos, n - self._pos)
                elif self._state == CHUNK:
                    self._read_chunk(p + self._pos, n - self._pos)
                else:
                    self._read_line(p + self._pos, n - self._pos)
                self._depart()
            if self._state >= TLS:
                self.dropped += n - self._pos      # RFC 3207 section 4.2: or it would pass for sent inside TLS
                self._pos = n
            if self._pos == n:
                self._data = None
        return self.take_events()

    cdef int _read_line(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef const unsigned char* lf = <const unsigned char*> memchr(p, b'\n', n)
        cdef Py_ssize_t length = n if lf == NULL else lf - p + 1
        self._pos += length
        if lf != NULL and self.line_len == 0 and not self.line_too_long:
            return self._end_line(p, length)
        self.hold(p, length)
        if lf != NULL:
            self._end_line(self.line, self.line_len)
            self.forget_line()
        return 0

    cdef int _end_line(self, const unsigned char* p, Py_ssize_t n) except -1:
        """A line p[0..n) with its LF."""
        cdef bint login = self._state == LOGIN
        cdef bint auth = login or (n >= 4 and same_word(p, 4, b"AUTH", 4))
        cdef bint bdat = not login and n >= 4 and same_word(p, 4, b"BDAT", 4)
        cdef Py_ssize_t i
        if login:
            self._state = READY                # unless the mechanism wants another line
        if self.line_too_long or n > (_MAX_LINE if auth else _MAX_COMMAND_LINE):
            return self._garbled(R_LONG, bdat)
        if n > 1 and p[n - 2] == b'\r':
            n -= 2
        elif self.settings.lenient:            # as Postfix has it: nobody relays commands, so nothing can hide in one
            n -= 1
        else:
            return self._garbled(R_LF, bdat)
        if login:
            return self._login_line(p[:n])
        for i in range(n):
            if p[i] < 32 or p[i] == 127:
                return self._garbled(R_CONTROL, bdat)
        while n and p[n - 1] == b' ':          # to be tolerated: RFC 5321 section 4.1.1
            n -= 1
        return self._command(p, n)

    cdef int _garbled(self, int reply, bint bdat) except -1:
        # Behind a BDAT that cannot be read its chunk would be taken for commands.
        return self._close(R_BDAT_SYNTAX) if bdat else self._wrong(reply)

    # --- commands

    cdef int _command(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef const unsigned char* space = <const unsigned char*> memchr(p, b' ', n)
        cdef Py_ssize_t verb = n if space == NULL else space - p
        if same_word(p, verb, b"BDAT", 4):
            return self._bdat(p + verb, n - verb)
        self._steps += 1
        if same_word(p, verb, b"RCPT", 4):
            return self._rcpt(p + verb, n - verb)
        if self._state == RCPT and same_word(p, n, b"DATA", 4):
            return self._data_command()
        if self._one_more():
            return self._close(R_COMMANDS)
        if same_word(p, verb, b"MAIL", 4):
            return self._mail(p + verb, n - verb)
        return self._session_command(p, verb, n)

    cdef int _session_command(self, const unsigned char* p, Py_ssize_t verb, Py_ssize_t n) except -1:
        if same_word(p, verb, b"EHLO", 4):
            return self._hello(p + verb, n - verb, True, False)
        if same_word(p, verb, b"HELO", 4):
            return self._hello(p + verb, n - verb, False, False)
        if same_word(p, verb, b"LHLO", 4):
            return self._hello(p + verb, n - verb, True, True)
        if same_word(p, verb, b"NOOP", 4):
            return self._say(R_OK)
        if same_word(p, verb, b"HELP", 4):
            return self._say(R_HELP)
        if same_word(p, verb, b"VRFY", 4):
            return self._say(R_VRFY)
        if same_word(p, verb, b"AUTH", 4):
            return self._auth(p + verb, n - verb)
        return self._alone(p, n) if verb == n else self._unknown(p, verb)

    cdef int _alone(self, const unsigned char* p, Py_ssize_t n) except -1:
        """A command that takes no argument, and has none."""
        if same_word(p, n, b"RSET", 4):
            self._give_up()
            return self._say(R_OK)
        if same_word(p, n, b"QUIT", 4):
            return 0 if self._may(ASK_QUIT, "quit", None) else self._close(R_BYE)
        if same_word(p, n, b"DATA", 4):
            return self._data_command()
        if same_word(p, n, b"STARTTLS", 8):
            return self._start_tls()
        return self._unknown(p, n)

    cdef int _unknown(self, const unsigned char* p, Py_ssize_t n) except -1:
        verb = p[:n].upper()
        if verb in (b"RSET", b"QUIT", b"DATA", b"STARTTLS"):
            return self._wrong(R_NO_ARGUMENT)
        if verb in (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT"):
            return self._close(R_NOT_MAIL)
        if verb in (b"EXPN", b"TURN", b"ETRN", b"SEND", b"SOML", b"SAML"):
            return self._wrong(R_NOT_HERE)
        return self._wrong(R_UNKNOWN)

    cdef int _hello(self, const unsigned char* p, Py_ssize_t n, bint esmtp, bint lmtp) except -1:
        if lmtp != self.settings.lmtp:
            return self._wrong(R_ONLY_LMTP if self.settings.lmtp else R_NOT_LMTP)
        name = p[:n].strip()
        if not name or b" " in name or len(name) > _MAX_NAME:
            return self._wrong(R_NAME)
        self._name, self._extended = name, esmtp
        return 0 if self._may(ASK_HELLO, "ehlo", name) else self._welcome()

    cdef int _welcome(self) except -1:
        cdef bint auth
        self._give_up()
        self._helo, self._esmtp = self._name, self._extended
        self._state = READY
        if not self._esmtp:
            return self.put(f"250 {self.settings.name}\r\n".encode())
        auth = self.settings.login and self.user is None and (self.secure or self.local)
        return self.put(self.settings.hello(self.secure, auth))

    cdef int _give_up(self) except -1:
        """The open transaction, if there is one."""
        if self._state == MAIL or self._state == RCPT or self._state == CHUNKS:
            self._state = READY
            if self.settings.envelopes:
                self.emit(("reset",))
        elif self._state == FAILED:            # which "abort" told
            self._state = READY
        return 0

    # --- the envelope

    cdef int _mail(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Path path
        cdef int reply
        if self._state != READY:
            return self._out_of_order(R_HELLO_FIRST if self._state == NEW else R_NESTED)
        if self.settings.auth is not None and self.user is None:
            return self._refused(R_AUTH_FIRST)
        if n < 6 or not same_word(p, 6, b" FROM:", 6):
            return self._wrong(R_MAIL_SYNTAX)
        values = {} if self.settings.envelopes else None
        self._words.utf8 = self._words.binary = False
        reply = self._arguments(p + 6, n - 6, &path, False, values)
        if reply == R_MAIL_OK and path.length and not path.has_domain:
            reply = R_SENDER
        if reply != R_MAIL_OK:
            return self._refused(reply) if reply == R_TOO_BIG else self._wrong(reply)
        self._recipients = self._tries = 0
        self._binary = self._words.binary
        if self.settings.envelopes:
            self.emit(("mail", text_of(p + 6, &path), values))
            if self._ask(ASK_MAIL):
                return 0
        self._state = MAIL
        return self._say(R_MAIL_OK)

    cdef int _rcpt(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Path path
        cdef int reply
        if self._state != MAIL and self._state != RCPT:
            return self._out_of_order(R_MAIL_FIRST)
        if n < 4 or not same_word(p, 4, b" TO:", 4):
            return self._wrong(R_RCPT_SYNTAX)
        self._tries += 1
        if self._tries > self.settings.max_recipients + _MAX_OVERSHOOT:
            return self._wrong(R_TOO_MANY)
        values = {} if self.settings.envelopes else None
        reply = self._arguments(p + 4, n - 4, &path, True, values)
        if reply == R_SENDER or (reply == R_MAIL_OK and not path.has_domain
                                 and not same_word(p + 4 + path.start, path.length, b"POSTMASTER", 10)):
            reply = R_RECIPIENT
        if reply != R_MAIL_OK:
            return self._wrong(reply)
        if self._recipients >= self.settings.max_recipients:
            return self._refused(R_TOO_MANY)
        if self.settings.envelopes:
            self.emit(("rcpt", text_of(p + 4, &path), values))
            if self._ask(ASK_RCPT):
                return 0
        self._state = RCPT
        self._recipients += 1
        return self._say(R_RCPT_OK)

    cdef int _arguments(self, const unsigned char* p, Py_ssize_t n, Path* path, bint rcpt, dict values) except -1:
        """An address and its parameters: R_MAIL_OK, or the reply that says what is wrong."""
        cdef int reply
        if n and p[0] == b' ':
            return R_SPACE
        if not read_path(p, n, path) or (path.end < n and p[path.end] != b' '):
            return R_SENDER
        if path.end < n and not self._esmtp:
            return R_ESMTP
        reply = read_words(p + path.end, n - path.end, rcpt, self.secure, self.settings, values, &self._words)
        if reply == R_MAIL_OK and path.eight_bit and not (self._words.utf8 and is_utf8(p + path.start, path.length)):
            return R_UTF8
        return reply

    # --- TLS

    cdef int _start_tls(self) except -1:
        if self.secure or not self.settings.starttls:
            return self._wrong(R_IN_TLS if self.secure else R_NO_TLS)
        if self._state != READY:
            return self._wrong(R_HELLO_FIRST if self._state == NEW else R_NESTED)
        return 0 if self._may(ASK_STARTTLS, "starttls", None) else self._await_tls()

    cdef int _await_tls(self) except -1:
        self._state = TLS
        self.emit(("starttls",))
        return self._say(R_TLS_GO)
