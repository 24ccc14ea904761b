# One message to some recipients, and how its envelope is written for a server that offers this and that.
# RFC 5321 section 4.1.1 (commands), 1870 (SIZE), 3030 (BDAT, BINARYMIME), 3461 (DSN), 6152, 6531, 9422 (LIMITS).
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from bulkmail.wire.limit cimport note_end

from bulkmail.errors import EnvelopeRefused, MessageRefused
from bulkmail.wire.extensions import limits, size_limit

# What is sent, whole or in pieces that each begin a line.
Body = bytes | tuple

# What became of a transaction. Only wire.client assigns `state`.
#   WAITING -> DONE                 the server decided: `reply` for those not in `rejected`
#           -> NOT_TAKEN            certainly not taken: may be sent again; `error` says why, `reply` is a 421 or None
#           -> IN_DOUBT             may have been taken: `error` is InDoubt
WAITING, DONE, NOT_TAKEN, IN_DOUBT = TX_WAITING, TX_DONE, TX_NOT_TAKEN, TX_IN_DOUBT

cdef enum:
    FINAL_DOT = 3            # ".", CR, LF behind a body that is ready for DATA


@cython.freelist(1024)
cdef class Transaction:
    """One message to one or more recipients: what is asked of the server, then what it answered.

    sender    address for MAIL FROM without brackets, ASCII or UTF-8; b"" is the null sender
    rcpts     addresses for RCPT TO, at least one; addresses hold no CR, LF, NUL, space or bracket: the caller checked
    body      the content ready for DATA: CRLF, dots escaped, final dot included; with BINARY: the bytes themselves;
              None: the caller streams it. A tuple: its pieces, each of which begins a line (messages share large ones)
    body_size bytes of it
    flags     EIGHT_BIT | EIGHT_BIT_ONLY | UTF8 | BINARY
    asks      extensions.Ask of each further extension, or None
    rcpt_parameters   what stands behind each RCPT where DSN is offered, or None
    size      octets to declare (RFC 1870); -1: those of the body, if there is one
    tag, at, positions   the caller's own
    tries     how often it was NOT_TAKEN and made ready again
    via       the session that it went by

    state     WAITING, DONE, NOT_TAKEN or IN_DOUBT
    reply     the reply that decided for the recipients that are not in `rejected`
    command   what `reply` answered: "MAIL", "DATA", "end of data"
    judged    `reply` is the verdict on the message itself
    rejected  {index of the recipient: Reply} of those who were refused one by one, or None
    late      LMTP: the indices among them that were refused after the content, or None
    decided   LMTP: recipients before this index have their verdict, though the rest may be in doubt
    fits      refused here for the server's LIMITS: so many of its recipients would fit; else 0
    error     why NOT_TAKEN or IN_DOUBT; a refusal of our own (an extension that the server lacks) when DONE
    mail_at, data_at, done_at   when MAIL was written, the body was written, and the end came
    """

    def __init__(self, bytes sender not None, list rcpts not None, body=None, int flags=0, tag=None,
                 Py_ssize_t at=0, tuple asks=None, list rcpt_parameters=None, Py_ssize_t size=-1):
        if not rcpts:
            raise ValueError("a transaction needs a recipient")
        if rcpt_parameters is not None and len(rcpt_parameters) != len(rcpts):
            raise ValueError(f"{len(rcpt_parameters)} rcpt_parameters for {len(rcpts)} recipients")
        self.sender, self.rcpts, self.body, self.flags = sender, rcpts, body, flags
        self.body_size = 0 if body is None else total_size(body)
        self.tag, self.at = tag, at
        self.asks, self.rcpt_parameters, self.size = asks, rcpt_parameters, size

    cpdef refuse(self, object error, Py_ssize_t fits=0):
        """Settle it without asking the server; before push() only."""
        self.state, self.error, self.fits = TX_DONE, error, fits

    cpdef Transaction again(self):
        """Make one that was NOT_TAKEN ready for another connection."""
        self.tries += 1
        self.state = TX_WAITING
        self.reply = self.command = self.rejected = self.late = self.error = self.via = None
        self.judged = self.clears = False
        self.end = self.decided = self.fits = 0
        return self

    cdef count(self, tuple limits):
        """These limits have handed it out (wire.limit.reserve)."""
        self.limits, self.left = limits, False

    cdef uncount(self):
        """It has its end, or goes back: they count it no longer as under way."""
        if self.limits is not None:
            note_end(self.limits, len(self.rcpts), self.left)
            self.limits = None

    def part(self, list places not None):
        """A transaction like this one for the recipients at `places` alone. Its `tag`, `at`, `positions` are not set."""
        params = None if self.rcpt_parameters is None else [self.rcpt_parameters[place] for place in places]
        return Transaction(self.sender, [self.rcpts[place] for place in places], self.body, self.flags, None, 0,
                           self.asks, params, self.size)

    cdef Py_ssize_t octets(self):
        """The size of the content, -1 if it is not known."""
        if self.size >= 0 or self.body is None:
            return self.size
        return self.body_size - (0 if self.flags & BINARY else FINAL_DOT)

    def __repr__(self):
        words = ("waiting", "done", "not taken", "in doubt")[self.state]
        return f"<Transaction {len(self.rcpts)} rcpt, {words}, {self.reply or self.error or 'no reply yet'}>"


cdef Transaction personal(bytes sender, bytes rcpt, object body, int flags, object tag, Py_ssize_t at):
    """A Transaction of one recipient, made without its constructor's arguments."""
    return plain(sender, [rcpt], body, flags, tag, at)


cdef Transaction plain(bytes sender, list rcpts, object body, int flags, object tag, Py_ssize_t at):
    """The same with some recipients, which are not looked at."""
    cdef Transaction tx = Transaction.__new__(Transaction)
    tx.sender, tx.rcpts, tx.body, tx.flags = sender, rcpts, body, flags
    tx.body_size = PyBytes_GET_SIZE(body) if type(body) is bytes else total_size(body)
    tx.tag, tx.at, tx.size = tag, at, -1
    return tx


cdef class Offer:
    """What a server offers, by its EHLO keywords, and the commands that a transaction makes of it."""

    def __init__(self, dict extensions not None):
        self.extensions = extensions
        self.eight_bit, self.utf8 = "8BITMIME" in extensions, "SMTPUTF8" in extensions
        self.binary = "BINARYMIME" in extensions and "CHUNKING" in extensions
        self.dsn, self.size = "DSN" in extensions, "SIZE" in extensions
        self.size_limit = size_limit(extensions)
        found = limits(extensions)
        self.rcpt_max, self.domain_max, self.mail_max = (
            found.get(name, 0) for name in ("RCPTMAX", "RCPTDOMAINMAX", "MAILMAX"))

    cdef bint refuses(self, Transaction tx) except -1:
        """Whether the server would have to refuse `tx`; then it is settled."""
        cdef Py_ssize_t fits
        if self.size_limit and tx.octets() > self.size_limit:
            tx.refuse(MessageRefused(f"the message has {tx.octets()} bytes and the server takes {self.size_limit} at most",
                                     permanent=True, command="MAIL", kind="too_large"))
        elif tx.flags or tx.asks is not None:
            lacking = self._lacking(tx)
            if lacking is not None:
                tx.refuse(EnvelopeRefused(lacking, permanent=True, command="MAIL", scope="message"))
        if tx.state == TX_WAITING and (self.rcpt_max or self.domain_max) and len(tx.rcpts) > 1:
            fits = self._fitting(tx.rcpts)
            if fits < len(tx.rcpts):
                tx.refuse(EnvelopeRefused(
                    f"{len(tx.rcpts)} recipients in one transaction, the server's LIMITS (RFC 9422) allow {fits} of these",
                    permanent=True, command="RCPT", scope="message"), fits)
        return tx.state != TX_WAITING

    cdef str _lacking(self, Transaction tx):
        """Why what `tx` asks for cannot be had of this server, or None."""
        if tx.flags & UTF8 and not self.utf8:
            return "an address has characters beyond ASCII and the server does not offer SMTPUTF8"
        if tx.flags & EIGHT_BIT_ONLY and not self.eight_bit:
            return "body='8bitmime' was asked for and the server does not offer 8BITMIME"
        if tx.flags & BINARY and not self.binary:
            return "body='binarymime' was asked for and the server does not offer BINARYMIME with CHUNKING"
        for ask in tx.asks or ():
            if ask.keyword in self.extensions:
                wrong = ask.check(self.extensions[ask.keyword]) if ask.check is not None else None
            else:
                wrong = ask.lacking
            if wrong is not None:
                return wrong
        return None

    cdef Py_ssize_t _fitting(self, list rcpts):
        """How many of these, from the first on, may be in one transaction."""
        cdef Py_ssize_t most = self.rcpt_max or len(rcpts), place
        cdef set domains = set()
        if self.domain_max:
            for place in range(min(most, <Py_ssize_t>len(rcpts))):
                domains.add(rcpts[place].rpartition(b"@")[2].lower())
                if len(domains) > self.domain_max:
                    return place
        return min(most, <Py_ssize_t>len(rcpts))

    cdef bytes parameters(self, Transaction tx):
        """What stands behind MAIL FROM:<...>, SIZE aside."""
        cdef bytes words = b""
        if tx.flags & BINARY:
            words = b" BODY=BINARYMIME"
        elif tx.flags & EIGHT_BIT and self.eight_bit:
            words = b" BODY=8BITMIME"
        if tx.flags & UTF8:
            words += b" SMTPUTF8"
        for ask in tx.asks or ():
            if ask.keyword in self.extensions:
                words += ask.parameter
        return words

    cdef bytes mail(self, Transaction tx):
        cdef bytes size = b" SIZE=%d" % tx.octets() if self.size and tx.octets() >= 0 else b""
        return b"MAIL FROM:<" + tx.sender + b">" + size + self.parameters(tx) + b"\r\n"

    cdef bytes rcpt(self, Transaction tx, Py_ssize_t place):
        cdef bytes parameters = tx.rcpt_parameters[place] if self.dsn and tx.rcpt_parameters is not None else b""
        return b"RCPT TO:<" + <bytes>tx.rcpts[place] + b">" + parameters + b"\r\n"

    cdef bytes group(self, Transaction tx, Py_ssize_t chunk):
        """MAIL, every RCPT, and what begins the content, to be written at once (RFC 2920). chunk: its size, by BDAT."""
        cdef bytes words = b"" if tx.flags == 0 and tx.asks is None else self.parameters(tx)
        cdef bytes rcpt, behind, out
        cdef bint dsn = self.dsn and tx.rcpt_parameters is not None
        cdef Py_ssize_t octets = tx.octets() if self.size else -1, total, place = 0
        cdef int size_digits = digits(octets) if octets >= 0 else 0, chunk_digits = digits(chunk)
        cdef char* p
        total = 12 + PyBytes_GET_SIZE(tx.sender) + PyBytes_GET_SIZE(words) + 2
        total += 6 + size_digits if size_digits else 0
        total += 12 + chunk_digits if tx.manner == BY_BDAT else 6 if tx.manner == BY_DATA else 0
        for rcpt in tx.rcpts:
            total += 12 + PyBytes_GET_SIZE(rcpt)
        if dsn:
            for behind in tx.rcpt_parameters:
                total += PyBytes_GET_SIZE(behind)
        out = PyBytes_FromStringAndSize(NULL, total)
        p = put(PyBytes_AS_STRING(out), b"MAIL FROM:<", 11)
        p = put(p, PyBytes_AS_STRING(tx.sender), PyBytes_GET_SIZE(tx.sender))
        p = put(p, b">", 1)
        if size_digits:
            p = put_number(put(p, b" SIZE=", 6), octets, size_digits)
        p = put(p, PyBytes_AS_STRING(words), PyBytes_GET_SIZE(words))
        for rcpt in tx.rcpts:
            p = put(p, b"\r\nRCPT TO:<", 11)
            p = put(p, PyBytes_AS_STRING(rcpt), PyBytes_GET_SIZE(rcpt))
            p = put(p, b">", 1)
            if dsn:
                behind = tx.rcpt_parameters[place]
                p = put(p, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
                place += 1
        p = put(p, b"\r\n", 2)
        if tx.manner == BY_BDAT:
            put(put_number(put(p, b"BDAT ", 5), chunk, chunk_digits), b" LAST\r\n", 7)
        elif tx.manner == BY_DATA:
            put(p, b"DATA\r\n", 6)
        return out


cdef Py_ssize_t total_size(object body) except -1:
    """Bytes of a body: of bytes, or of a tuple of them."""
    cdef Py_ssize_t total = 0
    if type(body) is not tuple:
        return len(<bytes?>body)
    for piece in <tuple>body:
        total += len(<bytes?>piece)
    return total


cdef inline char* put(char* out, const char* data, Py_ssize_t size) noexcept:
    memcpy(out, data, size)
    return out + size


cdef inline int digits(size_t number) noexcept:
    cdef int count = 1
    while number >= 10:
        number //= 10
        count += 1
    return count


cdef inline char* put_number(char* out, size_t number, int count) noexcept:
    """count: its digits."""
    cdef int place
    for place in range(count - 1, -1, -1):
        out[place] = <char>(c"0" + number % 10)
        number //= 10
    return out + count
