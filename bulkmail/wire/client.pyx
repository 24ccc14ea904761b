# The client's side of an SMTP connection: replies in, commands out. No sockets, no clock (times are parameters), no logging.
# RFC 5321 (commands, replies), RFC 2920 (pipelining).
#
# Why it has this shape. Round trips are what a mailer waits for, so a transaction's MAIL, RCPTs and DATA go out as one
# group (RFC 2920 section 3.1: DATA must end a group), and since a body may open one, the body of message n, its dot and
# the group of n+1 are one write: a steady connection makes one write and one read a message. So there are at most two
# transactions under way: `_body`, whose verdict is awaited, and behind it `_env`, whose envelope is. Replies come in the
# order of the commands (verdict of `_body`, RSET if one was needed, envelope of `_env`, single commands), which is all
# the matching there is. A server that did not announce PIPELINING gets the same steps one command at a time.
#
# What goes wrong inside a group, and what we do:
#   MAIL refused                        its reply decides for all recipients; the 503s behind it are read and dropped
#   RCPT refused                        that recipient is rejected; the others go on
#   all RCPT refused, DATA refused      each recipient has its own reply; RSET before the next MAIL
#   nobody accepted, but DATA is 354    a lone dot, whose reply decides nothing (RFC 2920 section 3.1)
#   DATA refused, somebody accepted     its reply decides for the accepted; RSET before the next MAIL
#   refusal at the dot                  its reply decides for the accepted; the next envelope is not touched by it
#   421 to MAIL, RCPT, DATA             the server closes: this transaction and all behind it were NOT_TAKEN
#   421 at the dot                      this message is refused for now; all behind it were NOT_TAKEN
#   421 that answers nothing            as a lost connection
#   lost, final dot not wholly written  NOT_TAKEN: without the dot the server must discard (RFC 5321 section 4.1.1.4)
#   lost, dot written, no reply         IN_DOUBT (RFC 1047): the server may have taken it
#   refused while content is streamed   its reply decides; the rest is not sent, so the connection ends
#   anything else                       ProtocolError; what was in flight is settled as if the connection was lost
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from collections import deque

from bulkmail.errors import ConnectionLost, EnvelopeRefused, InDoubt, ProtocolError

# What became of a transaction. Only this file assigns `state`.
#   WAITING -> DONE                 the server decided: `reply` for those not in `rejected`
#           -> NOT_TAKEN            certainly not taken: may be sent again; `error` says why, `reply` is a 421 or None
#           -> IN_DOUBT             may have been taken: `error` is InDoubt
WAITING, DONE, NOT_TAKEN, IN_DOUBT = TX_WAITING, TX_DONE, TX_NOT_TAKEN, TX_IN_DOUBT

# What the connection waits for, so that its owner can set a deadline (RFC 5321 section 4.5.3.2).
NOTHING, COMMAND, VERDICT = AWAIT_NOTHING, AWAIT_COMMAND, AWAIT_VERDICT

LONE_DOT = b".\r\n"


@cython.freelist(1024)
cdef class Transaction:
    """One message to one or more recipients: what is asked of the server, then what it answered.

    sender    address for MAIL FROM without brackets, ASCII or UTF-8; b"" is the null sender
    rcpts     addresses for RCPT TO, at least one; addresses hold no CR, LF, NUL, space or bracket: the caller checked
    body      the content ready for the wire: CRLF, dots escaped, final dot included; None: the caller streams it
    flags     EIGHT_BIT | EIGHT_BIT_ONLY | UTF8
    tag, at, positions   the caller's own
    tries     how often it was NOT_TAKEN and made ready again
    via       the session that it went by

    state     WAITING, DONE, NOT_TAKEN or IN_DOUBT
    reply     the reply that decided for the recipients that are not in `rejected`
    command   what `reply` answered: "MAIL", "DATA", "end of data"
    rejected  {index of the recipient: Reply} for refused RCPTs, or None
    error     why NOT_TAKEN or IN_DOUBT; a refusal of our own (an extension that the server lacks) when DONE
    mail_at, data_at, done_at   when MAIL was written, the body was written, and the end came
    """

    def __init__(self, bytes sender not None, list rcpts not None, bytes body=None, int flags=0, tag=None, Py_ssize_t at=0):
        if not rcpts:
            raise ValueError("a transaction needs a recipient")
        self.sender, self.rcpts, self.body, self.flags = sender, rcpts, body, flags
        self.tag, self.at = tag, at

    cpdef refuse(self, object error):
        """Settle it without asking the server; before push() only."""
        self.state, self.error = TX_DONE, error

    cpdef Transaction again(self):
        """Make one that was NOT_TAKEN ready for another connection."""
        self.tries += 1
        self.state = TX_WAITING
        self.reply = self.command = self.rejected = self.error = self.via = None
        self.judged = False
        return self

    def __repr__(self):
        words = ("waiting", "done", "not taken", "in doubt")[self.state]
        return f"<Transaction {len(self.rcpts)} rcpt, {words}, {self.reply or self.error or 'no reply yet'}>"


cdef class Client:
    """One connection's dialogue. push() transactions, write what take_output() gives, feed() what comes, empty `done`.

    Never more than one group is unanswered, so what is held is what was pushed. Errors: feed() raises ProtocolError;
    the connection must then be dropped and lost() called.
    """

    def __cinit__(self, bint pipelining=False, trace=None):
        self.reader = ReplyReader()
        self.pipelining, self.trace = pipelining, trace
        self.extensions = {}
        self.done, self.replies, self._out = [], [], []
        self._queue, self._commands = deque(), deque()

    # -- single commands: greeting, EHLO, STARTTLS, AUTH, RSET, NOOP, QUIT

    def expect(self, str name):
        """Await a reply to nothing we sent: the greeting."""
        self._commands.append(name)

    cpdef command(self, bytes line, str name):
        """Send one command line (with its CRLF) and await its reply in `replies`. Nothing else may be under way."""
        if self._env is not None or self._body is not None or self._queue or self.streaming is not None:
            raise RuntimeError(f"{name} while a message is being sent")
        self._commands.append(name)
        self._write(line)

    # -- transactions

    cpdef push(self, Transaction tx, double now):
        """Take `tx` on; its envelope is written at once if it may be."""
        cdef str lacking = missing_extension(tx.flags, self.extensions) if tx.flags else None
        if lacking is not None:
            tx.refuse(EnvelopeRefused(lacking, permanent=True, command="MAIL"))
            self._finish(tx, TX_DONE, now)
            return
        self._queue.append(tx)
        self._advance(now)

    cpdef Py_ssize_t load(self):
        """Transactions taken on and not finished."""
        return len(self._queue) + (self._env is not None) + (self._body is not None) + (self.streaming is not None)

    cpdef Py_ssize_t queued(self):
        """Transactions of which nothing was written yet."""
        return len(self._queue)

    cpdef bint begins_at_once(self):
        """Whether the MAIL of a transaction pushed now would be written now."""
        return not self._queue and self._free()

    cdef bint _free(self):
        # the next envelope may be written: no other is under way, and a body only where the server pipelines
        return (self._env is None and self.streaming is None and not self.closing and not self._commands
                and (self.pipelining or (self._body is None and not self._rset)))

    def take_back(self):
        """The transactions of which nothing was written, for another connection; they leave this one."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    cpdef int waiting(self):
        """NOTHING, COMMAND or VERDICT: what the next reply is for."""
        if self._body is not None:
            return AWAIT_VERDICT
        if self._rset or self._env is not None or self._commands:
            return AWAIT_COMMAND
        return AWAIT_NOTHING

    def awaited(self):
        """What the next reply answers, for errors: "greeting", a command's name, "end of data", or None."""
        if self._body is not None:
            return "end of data"
        if self._rset:
            return "RSET"
        if self._env is not None:
            return "MAIL" if self._got == 0 else "RCPT" if self._got <= len(self._env.rcpts) else "DATA"
        if self.streaming is not None:
            return "DATA"
        return self._commands[0] if self._commands else None

    cpdef object take_output(self):
        """What to write now: bytes, a list of bytes to be written together, or None."""
        cdef object out
        if not self._out:
            return None
        out = self._out[0] if len(self._out) == 1 else self._out
        self._out = []
        return out

    def write_content(self, bytes data not None):
        """A piece of the content of `streaming`, dots escaped."""
        self._out.append(data)

    def end_content(self, bytes data not None, double now):
        """The last piece, with the final dot."""
        self._write(data)
        self._body, self.streaming = self.streaming, None
        self._after_dot = 0
        self._advance(now)

    cpdef feed(self, bytes data, double now):
        """Take in what the server sent; then look at `done`, `replies`, `streaming`, take_output(), `closing`."""
        cdef int code
        self.reader.feed(data)
        while not self.closing:
            code = self.reader.next_reply()
            if code == 0:
                break
            self.answered += 1
            if self.trace is not None:
                self.trace("S", self.reader.take()._raw)
            self._on_reply(code, now)
        self._advance(now)

    cpdef lost(self, object why, Py_ssize_t unsent, double now):
        """The connection is gone. `why`: the error; `unsent`: bytes that we handed over and that surely never left.

        All that was under way is settled into `done`.
        """
        cdef Transaction tx
        self.closing = True
        if self._body is not None:
            tx, self._body = self._body, None
            if self._lone:
                self._finish(tx, TX_DONE, now)
            elif unsent > self._after_dot:
                self._drop(tx, why, now)
            else:
                tx.error = InDoubt(f"the message may have been taken: {why}", command="end of data")
                tx.error.__cause__ = why
                self._finish(tx, TX_IN_DOUBT, now)
        for tx in (self.streaming, self._env):
            if tx is not None:
                self._drop(tx, why, now)
        self.streaming = self._env = None
        while self._queue:
            self._drop(self._queue.popleft(), why, now)

    cdef _drop(self, Transaction tx, object why, double now):
        tx.error = why
        tx.reply = self.farewell
        self._finish(tx, TX_NOT_TAKEN, now)

    cdef _finish(self, Transaction tx, int state, double now):
        tx.state, tx.done_at = state, now
        self.completed += state == TX_DONE
        self.done.append(tx)

    cdef _write(self, bytes data):
        self._out.append(data)
        self._after_dot += PyBytes_GET_SIZE(data)
        if self.trace is not None:
            self.trace("C", data)

    # -- replies

    cdef _on_reply(self, int code, double now):
        if self._body is not None:
            self._on_verdict(code, now)
        elif self._rset:
            self._rset = False
            if code == 421:
                self._hang_up("RSET")
        elif self._env is not None and self._got < self._sent:
            self._on_env_reply(code, now)
        elif self._commands:
            name = self._commands.popleft()
            self.replies.append(self.reader.take())
            if code == 421:
                self._hang_up(name)
        elif code == 421:
            self._hang_up(None)
        else:
            if self.streaming is not None and code >= 400:
                self._refused_early(now)
            raise ProtocolError(f"a reply to nothing: {self.reader.take()}", reply=self.reader.take())

    cdef _hang_up(self, str answered):
        self.closing, self.farewell, self.farewell_to = True, self.reader.take(), answered

    def parting(self):
        """The error that the server's 421 makes."""
        return ConnectionLost(
            f"the server closes: {self.farewell}", reply=self.farewell, command=self.farewell_to, permanent=False)

    cdef _refused_early(self, double now):
        cdef Transaction tx = self.streaming
        self.streaming = None
        tx.reply, tx.command, tx.judged = self.reader.take(), "end of data", True
        self._finish(tx, TX_DONE, now)

    cdef _on_verdict(self, int code, double now):
        cdef Transaction tx = self._body
        if 300 <= code < 400:
            raise ProtocolError(f"the reply to the end of data is {self.reader.take()}, expected 2xx, 4xx or 5xx")
        self._body = None
        if code == 421:
            self._hang_up("end of data")
        if not self._lone:
            tx.reply, tx.command, tx.judged = self.reader.take(), "end of data", True
        self._finish(tx, TX_DONE, now)

    cdef _on_env_reply(self, int code, double now):
        cdef Transaction tx = self._env
        cdef Py_ssize_t place = self._got
        self._got += 1
        if code == 421:
            self._hang_up("MAIL" if place == 0 else "RCPT" if place <= len(tx.rcpts) else "DATA")
            self._env = None
            self._drop(tx, self.parting(), now)
        elif place == 0:
            if code >= 300:
                self._mail_refusal = self.reader.take()
        elif place <= len(tx.rcpts):
            if code < 300:
                self._accepted += 1
            elif self._mail_refusal is None:
                if tx.rejected is None:
                    tx.rejected = {}
                tx.rejected[place - 1] = self.reader.take()
        elif 300 <= code < 400:
            self._go = True
        elif code < 300:
            raise ProtocolError(f"the reply to DATA is {self.reader.take()}, expected 354")
        else:
            self._data_refusal = self.reader.take()

    # -- what to do next

    cdef _advance(self, double now):
        if self._env is not None:
            if not self.pipelining:
                self._step(now)
            elif self._got == self._sent and not self._rset:
                self._envelope_done(now)
        if self._queue and self._free():
            self._begin(now)

    cdef _begin(self, double now):
        """Write the next transaction's envelope: all of it where the server pipelines, else its first command."""
        cdef Transaction tx = self._queue.popleft()
        self._env = tx
        self.begun += 1
        self._got = self._accepted = 0
        self._mail_refusal = self._data_refusal = None
        self._go = False
        tx.mail_at = now
        tx.rejected = None
        if self._abandoned:
            self._abandoned = False
            self._rset = True
            self._write(b"RSET\r\n")
        if self.pipelining:
            self._sent = len(tx.rcpts) + 2
            self._write(envelope(tx, mail_parameters(tx, self.extensions)))
        else:
            self._sent = 0
            self._step(now)

    cdef _step(self, double now):
        """One command at a time."""
        cdef Transaction tx = self._env
        if self._rset or self._got < self._sent:
            return
        if self._sent == 0:
            self._write(b"MAIL FROM:<" + tx.sender + b">" + mail_parameters(tx, self.extensions) + b"\r\n")
        elif self._mail_refusal is not None or self._sent == len(tx.rcpts) + 2:
            return self._envelope_done(now)
        elif self._sent <= len(tx.rcpts):
            self._write(b"RCPT TO:<" + <bytes>tx.rcpts[self._sent - 1] + b">\r\n")
        elif self._accepted:
            self._write(b"DATA\r\n")
        else:
            return self._envelope_done(now)
        self._sent += 1

    cdef _envelope_done(self, double now):
        """Every command of the envelope is answered: on with the content, or the end of this transaction."""
        cdef Transaction tx = self._env
        self._env = None
        tx.data_at = now
        if self._go:
            self._lone = self._accepted == 0 or self._mail_refusal is not None
            if self._lone:
                tx.reply, tx.command = self._mail_refusal, "MAIL"
                self._body = tx
                self._write(LONE_DOT)
            elif tx.body is None:
                self.streaming = tx
                return
            else:
                self._body = tx
                self._out.append(tx.body)
                if self.trace is not None:
                    self.trace("C", b"<message, %d bytes>\r\n" % len(tx.body))
            self._after_dot = 0
            return
        if self._mail_refusal is not None:
            tx.reply, tx.command = self._mail_refusal, "MAIL"
        else:
            self._abandoned = True
            if self._accepted:
                tx.reply, tx.command = self._data_refusal, "DATA"
        self._finish(tx, TX_DONE, now)


cdef str missing_extension(int flags, dict extensions):
    """Why these flags cannot be had of this server, or None."""
    if flags & UTF8 and "SMTPUTF8" not in extensions:
        return "an address has characters beyond ASCII and the server does not offer SMTPUTF8"
    if flags & EIGHT_BIT_ONLY and "8BITMIME" not in extensions:
        return "body='8bitmime' was asked for and the server does not offer 8BITMIME"
    return None


cdef bytes mail_parameters(Transaction tx, dict extensions):
    cdef bytes parameters = b""
    if tx.flags == 0:
        return parameters
    if tx.flags & EIGHT_BIT and "8BITMIME" in extensions:
        parameters = b" BODY=8BITMIME"
    if tx.flags & UTF8:
        parameters += b" SMTPUTF8"
    return parameters


cdef inline char* put(char* out, const char* data, Py_ssize_t size) noexcept:
    memcpy(out, data, size)
    return out + size


cdef bytes envelope(Transaction tx, bytes parameters):
    """MAIL, every RCPT and DATA as one group."""
    cdef Py_ssize_t size = 11 + PyBytes_GET_SIZE(tx.sender) + 1 + PyBytes_GET_SIZE(parameters) + 2 + 6
    cdef bytes rcpt, out
    cdef char* p
    for rcpt in tx.rcpts:
        size += 9 + PyBytes_GET_SIZE(rcpt) + 3
    out = PyBytes_FromStringAndSize(NULL, size)
    p = PyBytes_AS_STRING(out)
    p = put(p, b"MAIL FROM:<", 11)
    p = put(p, PyBytes_AS_STRING(tx.sender), PyBytes_GET_SIZE(tx.sender))
    p = put(p, b">", 1)
    p = put(p, PyBytes_AS_STRING(parameters), PyBytes_GET_SIZE(parameters))
    for rcpt in tx.rcpts:
        p = put(p, b"\r\nRCPT TO:<", 11)
        p = put(p, PyBytes_AS_STRING(rcpt), PyBytes_GET_SIZE(rcpt))
        p = put(p, b">", 1)
    put(p, b"\r\nDATA\r\n", 8)
    return out
