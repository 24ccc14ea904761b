# The client's side of an SMTP or LMTP connection: replies in, commands out. No sockets, no clock (times are parameters),
# no logging. RFC 5321 (commands, replies), RFC 2920 (pipelining), RFC 3030 (BDAT), RFC 2033 (LMTP).
#
# Why it has this shape. Round trips are what a mailer waits for, so a transaction's MAIL, RCPTs and DATA go out as one
# group (RFC 2920 section 3.1: DATA must end a group), and since a body may open one, the body of message n, its dot and
# the group of n+1 are one write: a steady connection makes one write and one read a message. Where the server offers
# CHUNKING nothing has to be waited for: MAIL, RCPTs, BDAT LAST and the content are one group, and the groups of many
# messages follow each other. So the transactions under way stand in a row (wire.flight); replies come in the order of the
# commands, which is all the matching there is: each belongs to the first of the row, `_head`, until that one is settled.
# A server that did not announce PIPELINING gets the same steps one command at a time.
#
# What goes wrong inside a group, and what we do:
#   MAIL refused                        its reply decides for all recipients; the 503s behind it are read and dropped
#   RCPT refused                        that recipient is rejected; the others go on
#   all RCPT refused, DATA refused      each recipient has its own reply; RSET before the next MAIL
#   nobody accepted, but DATA is 354    a lone dot, whose reply decides nothing (RFC 2920 section 3.1)
#   MAIL 503, sent behind a final dot   the server (Haraka) takes nothing there: NOT_TAKEN, and no more is sent behind a dot
#   DATA refused, somebody accepted     its reply decides for the accepted; RSET before the next MAIL
#   refusal at the dot                  its reply decides for the accepted; the next envelope is not touched by it
#   nobody accepted, BDAT was sent      the server throws the chunk away (RFC 3030 section 2); its reply decides nothing
#   BDAT refused, somebody accepted     its reply decides for the accepted. What that leaves open nobody says (RFC 3030
#                                       section 4.2), so each MAIL that is sent ahead by BDAT has a RSET before it
#   BDAT unknown though offered         NOT_TAKEN, and ProtocolError: our content would be read as commands
#   421 to MAIL, RCPT, DATA             the server closes: this transaction and all behind it were NOT_TAKEN
#   421 at the end of data              this message is refused for now; all behind it were NOT_TAKEN
#   421 that answers nothing            as a lost connection
#   lost, content not wholly written    NOT_TAKEN: the server must discard what has no end (RFC 5321 section 4.1.1.4)
#   lost, content written, no reply     IN_DOUBT (RFC 1047): the server may have taken it
#   refused while content is streamed   its reply decides; by DATA the connection ends, by BDAT a RSET follows; by BDAT
#                                       and LMTP the connection ends if the last chunk was sent
#   LMTP                                one verdict for each accepted recipient; those that came before a loss count
#   anything else                       ProtocolError; what was in flight is settled as if the connection was lost
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from bulkmail.wire.body cimport bare_content, undotted
from bulkmail.wire.limit cimport note_left
from bulkmail.wire.transaction cimport (
    BINARY, BY_BDAT, BY_DATA, BY_PIECES, TX_DONE, TX_IN_DOUBT, TX_NOT_TAKEN)

from bulkmail.errors import InDoubt, ProtocolError
from bulkmail.wire.body import encode_body, end_body

LONE_DOT = b".\r\n"
# Exim counts the second RSET without a message between as misuse, and hangs up at the eleventh
# (smtp_accept_max_nonmail); what was sent ahead is in doubt then. After so many refusals one transaction waits for
# another there, and RSET follows failures only. Far enough below 10 for those that are on their way already.
cdef enum:
    MOST_REFUSED_AHEAD = 3


cdef class Client(Flight):
    """One connection's dialogue. push() transactions, write what take_output() gives, feed() what comes, empty `done`.

    pipelining, chunking   whether groups, and BDAT, may be used: the server offers them and the owner wants them
    lmtp                   the server answers the end of data for each recipient
    crossing               by DATA an envelope may be written behind a final dot that is not answered (RFC 2920 section
                           3.1); turned off when the server refuses what comes there

    What is held is what was pushed: by BDAT all of it is written at once, so the owner bounds what it pushes. Errors:
    feed() raises ProtocolError; the connection must then be dropped and lost() called.
    """

    def __cinit__(self, bint pipelining=False, trace=None, bint chunking=False, bint lmtp=False):
        self.pipelining, self.trace, self.chunking, self.lmtp = pipelining, trace, chunking, lmtp
        self.crossing = True

    # -- single commands: greeting, EHLO, STARTTLS, AUTH, RSET, NOOP, QUIT

    def expect(self, str name):
        """Await a reply to nothing we sent: the greeting."""
        self._commands.append(name)

    cpdef command(self, bytes line, str name):
        """Send one command line (with its CRLF) and await its reply in `replies`. Nothing else may be under way."""
        if self._head is not None or self._queued:
            raise RuntimeError(f"{name} while a message is being sent")
        self._commands.append(name)
        self._write(line)

    # -- transactions

    cpdef push(self, Transaction tx, double now):
        """Take `tx` on; its envelope is written at once if it may be."""
        if self.offer.refuses(tx):
            self._finish(tx, TX_DONE, now)
            return
        self._enqueue(tx)
        self._advance(now)

    cpdef bint begins_at_once(self):
        """Whether the MAIL of a transaction pushed now would be written now."""
        return self._queued == 0 and self._free()

    cdef bint _free(self):
        # the next envelope may be written: nothing of ours is before it that has no end yet
        if self.closing or self.streaming is not None or self._commands:
            return False
        if self._head is None:
            return self.pipelining or not self._drain
        if self._refused_ahead >= MOST_REFUSED_AHEAD and "HELP" in self.offer.extensions:
            return False                                 # of those who offer CHUNKING only Exim also offers HELP
        return self.pipelining and self._tail.end != 0 and (self.crossing or self._tail.manner != BY_DATA)

    # -- content in pieces, of `streaming`

    def write_content(self, bytes data not None):
        """A piece of it as the caller has it: newlines become CRLF, dots are escaped where that is needed."""
        cdef Transaction tx = self.streaming
        cdef object piece = data
        cdef int carry = self._carry
        if not tx.flags & BINARY:
            piece, self._carry = encode_body(data, carry)
        if tx.manner == BY_PIECES:
            if not tx.flags & BINARY:
                piece = undotted(piece, carry)
            if not piece:
                return
            self._pieces += 1
            self._write(b"BDAT %d\r\n" % len(piece))
        self._put(piece)

    def end_content(self, double now):
        """Nothing more comes."""
        cdef Transaction tx = self.streaming
        cdef bytes end = end_body(self._carry)       # what the last line lacks, and the dot
        if tx.manner == BY_PIECES:
            end = b"" if tx.flags & BINARY else end[:-len(LONE_DOT)]
            end = b"BDAT %d LAST\r\n" % len(end) + end
        self._write(end)
        tx.end = self._written
        self.streaming = None
        self._advance(now)

    def abandon(self, object error, double now):
        """There will be no more of it. False: only the end of the connection keeps the server from taking it."""
        cdef Transaction tx = self.streaming
        if tx is None or tx.manner != BY_PIECES:
            return False
        tx.error = error
        self._leave_pieces(tx, TX_NOT_TAKEN, now)
        self._advance(now)
        return True

    cdef _leave_pieces(self, Transaction tx, int state, double now):
        # what answers the chunks that were sent is of no interest; RSET clears the transaction (RFC 3030 section 2)
        self._drain = self._pieces - self._pieces_answered + (1 if tx.end else 0)
        self._abandoned, self.streaming = True, None
        self._end_head(tx, state, now)

    # -- what comes, and the end

    def feed(self, bytes data not None, double now):
        """Take in what the server sent; then look at `done`, `replies`, `streaming`, take_output(), `closing`."""
        self.read(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), now)

    cdef read(self, const unsigned char* data, Py_ssize_t size, double now):
        """The same; nothing of `data` is kept."""
        cdef int code
        self.reader.begin(data, size)
        try:
            while not self.closing:
                code = self.reader.next_reply()
                if code == 0:
                    break
                self.answered += 1
                if self.trace is not None:
                    self.trace("S", self.reader.raw())
                self._on_reply(code, now)
        finally:
            self.reader.keep()
        self._advance(now)

    cpdef lost(self, object why, Py_ssize_t unsent, double now):
        """The connection is gone. `why`: the error; `unsent`: bytes that we handed over and that surely never left.

        All that was under way is settled into `done`.
        """
        cdef Transaction tx = self._head
        cdef long long sent = self._written - unsent
        for piece in self._out:
            sent -= len(piece)
        self.closing = True
        self.streaming = None
        if tx is not None and tx.end and self._got == self._sent and self._nobody(tx):
            self._settle_nobody(tx, now)
        while self._head is not None:
            tx = self._head
            if not tx.end or tx.end > sent or self.farewell is not None:
                self._drop_head(tx, why, now)
                continue
            tx.error = InDoubt(f"the message may have been taken: {why}", command="end of data")
            tx.error.__cause__ = why
            self._end_head(tx, TX_IN_DOUBT, now)
        for tx in self.take_back():
            tx.error, tx.reply = why, self.farewell
            self._finish(tx, TX_NOT_TAKEN, now)

    cdef _drop_head(self, Transaction tx, object why, double now):
        tx.error, tx.reply = why, self.farewell
        self._end_head(tx, TX_NOT_TAKEN, now)

    # -- replies

    cdef _on_reply(self, int code, double now):
        if self._drain:
            self._drain -= 1
            if code == 421:
                self._hang_up("BDAT")
        elif self._head is not None:
            self._on_head_reply(self._head, code, now)
        elif self._commands:
            name = self._commands.pop(0)
            self.replies.append(self.reader.take())
            if code == 421:
                self._hang_up(name)
        else:
            self._on_stray(code)

    cdef _on_head_reply(self, Transaction tx, int code, double now):
        if tx.clears:
            tx.clears = False
            if code == 421:
                self._hang_up("RSET")
        elif self._got < self._sent:
            self._on_envelope_reply(tx, code, now)
        elif self._pieces_answered < self._pieces:
            self._on_piece_reply(tx, code, now)
        elif tx.end:
            self._on_verdict(tx, code, now)
        else:
            if self.streaming is not None and code >= 400 and code != 421:
                self._refused_early(tx, now)
            self._on_stray(code)

    cdef _on_stray(self, int code):
        if code == 421:
            self._hang_up(None)
            return
        raise ProtocolError(f"a reply to nothing: {self.reader.take()}", reply=self.reader.take())

    cdef _refused_early(self, Transaction tx, double now):
        self.streaming = None
        self._judge(tx)
        self._end_head(tx, TX_DONE, now)

    cdef _judge(self, Transaction tx):
        """This reply is the verdict on the message."""
        tx.reply, tx.command, tx.judged = self.reader.take(), "end of data", True

    cdef _on_envelope_reply(self, Transaction tx, int code, double now):
        cdef Py_ssize_t place = self._got
        if code == 421:
            self._hang_up(self._envelope_word(tx))
            self._drop_head(tx, self.parting(), now)
            return
        self._got += 1
        if place == 0:
            if code >= 300:
                self._mail_refusal = self.reader.take()
        elif place <= len(tx.rcpts):
            if code < 300:
                self._accepted += 1
            else:
                if tx.rejected is None:
                    tx.rejected = {}
                tx.rejected[place - 1] = self.reader.take()
        elif 300 <= code < 400:
            self._go = True
        elif code < 300:
            raise ProtocolError(f"the reply to DATA is {self.reader.take()}, expected 354")
        else:
            self._data_refusal = self.reader.take()

    cdef _on_piece_reply(self, Transaction tx, int code, double now):
        self._pieces_answered += 1
        if code == 421:
            self._hang_up("BDAT")
            self._drop_head(tx, self.parting(), now)
            self.streaming = None
        elif code >= 300:
            self._refuse_unknown_bdat(tx, code, now)
            self._judge(tx)
            self._leave_pieces(tx, TX_DONE, now)
            if self.lmtp and tx.end:
                # once, or for each recipient: RFC 2033 does not say
                raise ProtocolError("the server refused a chunk; how often it answers the last one cannot be known",
                                    reply=tx.reply, command="BDAT", permanent=False)

    cdef _on_verdict(self, Transaction tx, int code, double now):
        if 300 <= code < 400:
            raise ProtocolError(f"the reply to the end of data is {self.reader.take()}, expected 2xx, 4xx or 5xx")
        if self._nobody(tx):
            if code == 421:
                self._hang_up("end of data")
            self._settle_nobody(tx, now)
        elif self.lmtp:
            self._on_recipient_verdict(tx, code, now)
        else:
            if code == 421:
                self._hang_up("end of data")
            elif code >= 400 and tx.manner != BY_DATA:
                self._refuse_unknown_bdat(tx, code, now)
                self._abandoned = True
            if code >= 400 and self._mail_refusal is not None:
                self._settle_mail_refusal(tx, now)
            else:
                self._judge(tx)
                self._end_head(tx, TX_DONE, now)

    cdef _refuse_unknown_bdat(self, Transaction tx, int code, double now):
        if code == 500 or code == 502:
            error = ProtocolError(f"the server offers CHUNKING, and does not know BDAT: {self.reader.take()}",
                                  reply=self.reader.take(), command="BDAT", permanent=False)
            self.streaming = None
            self._drop_head(tx, error, now)
            raise error

    cdef _on_recipient_verdict(self, Transaction tx, int code, double now):
        """LMTP: what became of the next accepted recipient (RFC 2033 section 4.2)."""
        while tx.rejected is not None and self._place in tx.rejected:
            self._place += 1
        if code < 300:
            self._judge(tx)
        else:
            self._reject_late(tx)
        self._place += 1
        self._verdicts += 1
        tx.decided = self._place
        if code == 421:
            self._hang_up("end of data")
            while self._place < len(tx.rcpts):           # it says so for everybody who is left
                if tx.rejected is None or self._place not in tx.rejected:
                    self._reject_late(tx)
                self._place += 1
            self._verdicts = self._accepted
        if self._verdicts == self._accepted:
            self._end_head(tx, TX_DONE, now)

    cdef _reject_late(self, Transaction tx):
        if tx.rejected is None:
            tx.rejected = {}
        if tx.late is None:
            tx.late = set()
        tx.rejected[self._place] = self.reader.take()
        tx.late.add(self._place)

    cdef bint _nobody(self, Transaction tx):
        """Whether the end of data was for nobody, so that its reply decides nothing."""
        return self._accepted == 0 or (self._mail_refusal is not None and tx.manner == BY_DATA)

    cdef _settle_nobody(self, Transaction tx, double now):
        self._refused_ahead += tx.manner != BY_DATA
        if self._mail_refusal is not None:
            self._settle_mail_refusal(tx, now)
        else:
            self._abandoned = self._abandoned or tx.manner != BY_DATA
            self._end_head(tx, TX_DONE, now)

    cdef _settle_mail_refusal(self, Transaction tx, double now):
        """The reply to MAIL decides for everybody, unless it is about the place where we said it."""
        tx.rejected = None
        if tx.behind and self._mail_refusal.code == 503:
            self.crossing = False
            error = ProtocolError(f"the server takes no MAIL behind the end of data: {self._mail_refusal}",
                                  reply=self._mail_refusal, command="MAIL", permanent=False)
            self._drop_head(tx, error, now)
            return
        tx.reply, tx.command = self._mail_refusal, "MAIL"
        self._end_head(tx, TX_DONE, now)

    # -- what to do next

    cdef _advance(self, double now):
        cdef Transaction tx = self._head
        if tx is not None and not tx.end and not tx.clears and self.streaming is None:
            if not self.pipelining:
                self._step(tx, now)
            elif self._got == self._sent:
                self._envelope_done(tx, now)
        while self._queued and self._free():
            self._begin(now)

    cdef _begin(self, double now):
        """Write the next transaction's envelope: all of it where the server pipelines, else its first command."""
        cdef Transaction tx = self._take_up()
        cdef object content = None
        cdef Py_ssize_t size = 0
        self.begun += 1
        tx.mail_at = now                                 # also of one that ends before its MAIL is written
        tx.rejected = None
        tx.end = tx.expected = 0
        tx.manner = self._manner(tx)
        tx.behind = self._head is not None and tx.manner == BY_DATA
        # sent ahead by BDAT: should the one before fail, Exim keeps it open, and would take this one under its sender
        ahead = self._head is not None and tx.manner != BY_DATA
        tx.clears, self._abandoned = self._abandoned or ahead, False
        if tx.clears:
            self._write(b"RSET\r\n")
        if self.pipelining:
            self._note_mail(tx, now)
            tx.expected = len(tx.rcpts) + (2 if tx.manner == BY_DATA else 1)
            if tx.manner == BY_BDAT:
                content = self._chunk(tx)
                size = size_of(content)
            self._write(self.offer.group(tx, size))
            if content is not None:
                tx.data_at = now
                self._write_message(tx, content, size)
        if self._head is None:
            self._adopt(tx)
        if not self.pipelining:
            self._step(tx, now)

    cdef _note_mail(self, Transaction tx, double now):
        """Its MAIL is written now; where nothing is pipelined, a RSET may have been awaited before."""
        tx.mail_at = now
        if tx.limits is not None:
            note_left(tx.limits, len(tx.rcpts), now)
            tx.left = True

    cdef int _manner(self, Transaction tx):
        if not (self.chunking or tx.flags & BINARY):
            return BY_DATA
        if tx.body is not None:
            return BY_BDAT
        # how LMTP servers answer the chunks behind one that they refused is not settled
        return BY_DATA if self.lmtp and not tx.flags & BINARY else BY_PIECES

    cdef _step(self, Transaction tx, double now):
        """One command at a time."""
        if tx.clears or self._got < self._sent:
            return
        if self._sent == 0:
            self._note_mail(tx, now)
            self._write(self.offer.mail(tx))
        elif self._mail_refusal is not None or self._sent == len(tx.rcpts) + 2:
            return self._envelope_done(tx, now)
        elif self._sent <= len(tx.rcpts):
            self._write(self.offer.rcpt(tx, self._sent - 1))
        elif self._accepted and tx.manner == BY_DATA:
            self._write(b"DATA\r\n")
        else:
            return self._envelope_done(tx, now)
        self._sent += 1

    cdef _envelope_done(self, Transaction tx, double now):
        """Every command of the envelope is answered: on with the content, or the end of this transaction."""
        tx.data_at = now
        if self._go and self._nobody(tx):
            self._write(LONE_DOT)
            tx.end = self._written
        elif self._go or (tx.manner != BY_DATA and self._accepted and self._mail_refusal is None):
            self._begin_content(tx)
        elif self._mail_refusal is not None:
            self._settle_mail_refusal(tx, now)
        else:
            self._abandoned = True
            if self._accepted:
                tx.reply, tx.command = self._data_refusal, "DATA"
            self._end_head(tx, TX_DONE, now)

    cdef object _chunk(self, Transaction tx):
        """The content of `tx` as one chunk."""
        return tx.body if tx.flags & BINARY else bare_content(tx.body)

    cdef _begin_content(self, Transaction tx):
        cdef object content
        cdef Py_ssize_t size
        if tx.body is None:
            self.streaming, self._carry = tx, 0
        elif tx.manner == BY_DATA:
            self._write_message(tx, tx.body, tx.body_size)
        else:
            content = self._chunk(tx)
            size = size_of(content)
            self._write(b"BDAT %d LAST\r\n" % size)
            self._write_message(tx, content, size)


cdef Py_ssize_t size_of(object content) except -1:
    return sum([len(piece) for piece in <tuple>content]) if type(content) is tuple else len(content)
