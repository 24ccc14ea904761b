# Where a server's conversation stands, and how it answers from there.
#
#   NEW -> READY -> MAIL -> RCPT -> TEXT -> READY      once per message; EHLO, HELO and RSET lead back to READY
#   RCPT -> CHUNK -> CHUNKS -> CHUNK -> READY          BDAT: the bytes of a chunk, between two, behind the last
#   MAIL, RCPT, CHUNKS -> FAILED -> READY              BDAT refused: further chunks are thrown away until LAST or RSET
#   READY -> LOGIN -> READY                            AUTH, when credentials come in lines of their own
#   READY -> TLS -> NEW                                STARTTLS; whatever comes before secured() is thrown away
#   any state -> CLOSED                                QUIT, 421, what leaves no way to find the next command

from bulkmail.wire.server_settings cimport *

# What the client got wrong since its last message; Postfix hangs up at 20, too.
MAX_ERRORS = 20

# Since the last message, besides what carries one: RCPT, DATA behind it, chunks. Bounds what one read can make us answer.
MAX_COMMANDS = 500

cdef int _MAX_ERRORS = MAX_ERRORS, _MAX_COMMANDS = MAX_COMMANDS


cdef class ServerState(ServerBuffers):
    def __init__(self, ServerSettings settings not None, ServerCounts counts not None):
        self.settings = settings
        self.counts = counts
        self._state = NEW

    @property
    def closed(self):
        return self._state == CLOSED

    def late(self, int times, long long least):
        """Asked at even intervals: whether `times` of them, or up to one more, went by without a command, a message or
        `least` bytes of content from the client."""
        if self._steps != self._seen_steps or self._received - self._seen_received >= least:
            self.in_time()
            self._waited = 1                   # the part of an interval since then
            return False
        self._waited += 1
        return self._waited > times

    cpdef void in_time(self):
        """Its time begins anew, since it could not have said anything meanwhile."""
        self._seen_steps = self._steps
        self._seen_received = self._received
        self._waited = 0

    cdef int _say(self, int reply) except -1:
        return self.put(<bytes> self.settings.replies[reply])

    cdef int _wrong(self, int reply) except -1:
        """The client broke the protocol."""
        self._errors += 1
        return self._close(R_ERRORS) if self._errors >= _MAX_ERRORS else self._say(reply)

    cdef int _refused(self, int reply) except -1:
        self.counts.refused += 1
        return self._say(reply)

    cdef int _close(self, int reply) except -1:
        self._state = CLOSED
        return self._say(reply)

    cdef int _ask(self, int question) except -1:
        """Whether the caller wants to decide. Then everything stops here."""
        self.asking = self.settings.ask & question
        return self.asking

    cdef int _may(self, int question, str phase, bytes word) except -1:
        """The same of what has no event of its own."""
        if self._ask(question):
            self.emit(("ask", phase, None if word is None else word.decode("utf-8", "replace")))
        return self.asking

    cdef bint _one_more(self):
        """Counts a command: whether there have been too many."""
        self._commands += 1
        return self._commands > _MAX_COMMANDS
