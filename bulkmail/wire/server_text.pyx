# The content of a message: by DATA, ended by a dot (RFC 5321), or by BDAT, in chunks whose length is told (RFC 3030).
# And the verdict on it.
#
# Owns      nothing of the content: it is scanned where it lies, and handed on as `content` events.
# Promises  a BDAT that is refused has its chunk read and thrown away, exactly, before its reply: pipelined commands
#           behind it are read as commands, and nothing else is.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from bulkmail.wire.server_data cimport BM_CR, BM_LINE, BM_TEXT, bm_data_copy, bm_data_scan, bm_has_lone
from bulkmail.wire.server_data cimport bm_lenient_chunk, bm_lenient_copy, bm_lenient_scan
from bulkmail.wire.server_settings cimport *
from bulkmail.wire.server_state cimport *
from bulkmail.wire.server_syntax cimport read_number, same_word


cdef class ServerText(ServerState):
    @property
    def in_transaction(self):
        """Whether a message is under way: MAIL was accepted, and there is no verdict yet."""
        return self._under_way()

    cdef bint _under_way(self):
        cdef int state = self._came if self._state == CHUNK else self._state
        return state == MAIL or state == RCPT or state == TEXT or state == CHUNKS or state == FAILED

    cdef int _begin_text(self) except -1:
        self._size = 0
        return self.emit(("data",)) if self.settings.envelopes else 0

    cdef int _out_of_order(self, int reply) except -1:
        """MAIL, RCPT or DATA where it cannot be.

        After BDAT the state is then "indeterminate" (RFC 3030 section 2). The message is given up, or that of a client
        that forgot LAST would run into its next one.
        """
        if self._state == CHUNKS:
            self._fail(R_IN_CHUNKS)
        return self._wrong(R_IN_CHUNKS if self._state == FAILED else reply)

    # --- DATA

    cdef int _data_command(self) except -1:
        if self._state == MAIL:
            return self._refused(R_NO_RCPT)
        if self._state != RCPT:
            return self._out_of_order(R_MAIL_FIRST)
        if self._binary:
            return self._wrong(R_BINARY)
        self._chunk_asked = False
        return 0 if self._may(ASK_DATA, "data", None) else self._go_ahead()

    cdef int _go_ahead(self) except -1:
        self._state = TEXT
        self._text.at = BM_LINE
        self._text.bare = False
        self._begin_text()
        return self._say(R_GO_AHEAD)

    cdef int _read_text(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef int before = self._text.at
        if self.settings.lenient:
            bm_lenient_scan(&self._text, p, n)
        else:
            bm_data_scan(&self._text, p, n)
        self._pos += self._text.used
        self._received += self._text.used
        self._size += self._text.content
        if self.settings.content and self._text.content and self._sound():
            self._pass_on(p, before)
        return self._end_text() if self._text.ended else 0

    cdef bint _sound(self):
        """Whether the message may still be taken."""
        return not self._text.bare and (self.settings.max_size == 0 or self._size <= self.settings.max_size)

    cdef int _pass_on(self, const unsigned char* p, int before) except -1:
        cdef bytes content
        if before <= BM_LINE and not self._text.stuffed:
            content = PyBytes_FromStringAndSize(<const char*> p, self._text.content)
            return self.emit(("content", content))
        content = PyBytes_FromStringAndSize(NULL, self._text.content)
        if self.settings.lenient:
            bm_lenient_copy(before, p, self._text.used, <unsigned char*> PyBytes_AS_STRING(content))
        else:
            bm_data_copy(before, p, self._text.used, <unsigned char*> PyBytes_AS_STRING(content))
        return self.emit(("content", content))

    cdef int _end_text(self) except -1:
        cdef int reply
        if self._sound():
            return self._complete()
        reply = R_BARE if self._text.bare else R_TOO_BIG
        self.counts.refused += 1
        self._abort(reply)
        return self._verdict(<bytes> self.settings.replies[reply])

    # --- BDAT

    cdef int _bdat(self, const unsigned char* p, Py_ssize_t n) except -1:
        """" SIZE" or " SIZE LAST" behind the verb."""
        if not self.settings.chunking:
            return self._close(R_BDAT)
        self._last = n > 5 and same_word(p + n - 5, 5, b" LAST", 5)
        self._chunk = read_number(p + 1, n - 6 if self._last else n - 1)
        if self._chunk < 0:
            return self._close(R_BDAT_SYNTAX)
        self._came = self._state
        if self._state != CHUNKS:              # or a client could stretch its time by a byte in each chunk
            self._steps += 1
        if self._state == RCPT:
            self._behind = 0
            self._begin_text()
        self._refusal = self._chunk_refusal()
        self._state = CHUNK
        if self._chunk == 0 and not self._last and self._one_more():
            return self._close(R_COMMANDS)
        return 0 if self._chunk else self._end_chunk()

    cdef int _chunk_refusal(self) except -1:
        """Why the chunk that was announced cannot be taken, or R_OK."""
        cdef bint ahead
        if self._state == FAILED:
            return self._refusal
        if self._state == NEW:
            return R_HELLO_FIRST
        if self._state == READY:
            return R_MAIL_FIRST
        if self._state == MAIL:
            return R_NO_RCPT
        if not self._esmtp:
            return R_BDAT_HELO
        ahead = self.settings.lenient and self._behind == b'\r'      # by the LF that was written with its CR
        if self.settings.max_size and self._chunk > self.settings.max_size - self._size + ahead:
            return R_TOO_BIG
        return R_OK

    cdef int _read_chunk(self, const unsigned char* p, Py_ssize_t n) except -1:
        if n > self._chunk:
            n = self._chunk
        if self._refusal == R_OK:
            self._take_chunk(p, n)
        self._pos += n
        self._received += n
        self._chunk -= n
        return 0 if self._chunk else self._end_chunk()

    cdef int _take_chunk(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef bytes content
        cdef unsigned char before = self._behind
        cdef bint lone
        # Text has CRLF line ends in chunks, too (RFC 3030 section 2), or a relay that writes dots would be fooled.
        if not self._binary:
            lone = bm_has_lone(&self._behind, p, n)
            if self.settings.lenient and (lone or before == b'\r' or self._behind == b'\r'):
                return self._mend_chunk(BM_CR if before == b'\r' else BM_TEXT, p, n)
            if lone:
                self._refusal = R_BARE
                return 0
        if not self._grow(n) or not self.settings.content:
            return 0
        if n == PyBytes_GET_SIZE(self._data):
            content = self._data
        else:
            content = PyBytes_FromStringAndSize(<const char*> p, n)
        return self.emit(("content", content))

    cdef int _mend_chunk(self, int at, const unsigned char* p, Py_ssize_t n) except -1:
        """Take a piece of text, leniently."""
        cdef Py_ssize_t size = bm_lenient_chunk(at, p, n, NULL)
        cdef bytes content
        if not self._grow(size) or size == 0 or not self.settings.content:
            return 0
        content = PyBytes_FromStringAndSize(NULL, size)
        bm_lenient_chunk(at, p, n, <unsigned char*> PyBytes_AS_STRING(content))
        return self.emit(("content", content))

    cdef bint _grow(self, Py_ssize_t size):
        """Whether the message may be this much longer: a chunk that is read leniently may come to more than it announced."""
        self._size += size
        if self.settings.max_size and self._size > self.settings.max_size:
            self._refusal = R_TOO_BIG
        return self._refusal == R_OK

    cdef int _end_chunk(self) except -1:
        self._state = self._came
        if self._state == NEW or self._state == READY:
            return self._wrong(self._refusal)
        if self._last and self._refusal == R_OK and self._behind == b'\r' and not (self._binary or self.settings.lenient):
            self._refusal = R_BARE
        if self._state == RCPT and self._refusal == R_OK:
            self._chunk_asked = True
            if self._may(ASK_DATA, "data", None):
                return 0
        if self._refusal != R_OK and self._state != FAILED:
            self.counts.refused += 1
            self._fail(self._refusal)
        return self._settle_chunk()

    cdef int _settle_chunk(self) except -1:
        if self._state != FAILED:
            self._state = CHUNKS
            return self._complete() if self._last else self._say(R_OK)
        # LAST ends the transaction even so, as in Postfix: messages pipelined behind it can be taken.
        line = self._line(self._refusal)
        return self._verdict(line) if self._last else self.put(line)

    cdef int _refuse_chunk(self, bytes line) except -1:
        self._own_refusal = line
        self._fail(R_OWN)
        return self._settle_chunk()

    cdef bytes _line(self, int reply):
        return self._own_refusal if reply == R_OWN else <bytes> self.settings.replies[reply]

    cdef int _fail(self, int reply) except -1:
        """Nothing will come of this transaction."""
        self._state = FAILED
        self._refusal = reply
        return self._abort(reply)

    # --- the end of a message

    cdef int _complete(self) except -1:
        if self.settings.envelopes:
            self.emit(("end", self._size))
        return 0 if self._ask(ASK_END) else self._taken(None)

    cdef int _abort(self, int reply) except -1:
        if self.settings.envelopes:
            self.emit(("abort", self._line(reply).decode().rstrip()))
        return 0

    cdef int _verdict(self, bytes line) except -1:
        """The answer to a message, and the end of its transaction. LMTP wants one for each recipient (RFC 2033)."""
        cdef long long i
        for i in range(max(self._recipients, 1) if self.settings.lmtp else 1):
            self.put(line)
        return self._end_transaction()

    cdef int _divided(self, list refusals, bytes accepted) except -1:
        cdef long long taken = refusals.count(None)
        self.counts.refused += self._recipients - taken - refusals.count(b"")
        self.counts.recipients += taken
        if taken:
            self.messages += 1
            self.counts.messages += 1
            self.counts.bytes += self._size
            self._errors = 0
        for line in refusals:
            if line is None:
                self.put(accepted)
            elif line:
                self.put(line + b"\r\n")
        return self._end_transaction()

    cdef int _end_transaction(self) except -1:
        self._steps += 1
        self._commands = 0
        self._state = READY
        return 0

    cdef int _taken(self, bytes line) except -1:
        self.messages += 1
        self.counts.messages += 1
        self.counts.recipients += self._recipients
        self.counts.bytes += self._size
        self._errors = 0
        return self._verdict(<bytes> self.settings.replies[R_TAKEN] if line is None else line)
