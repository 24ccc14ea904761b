# One SMTP connection on an event loop: the asyncio face of wire.Client.
#
# Owns      the transport, the deadline of what is awaited, the wire codec.
# Promises  no await, task, future or Python callback a message: transactions come in by push(), finished ones collect in
#           the Turn that all sessions of a pool share, whose owner is called once a turn of the loop at most.
# Errors    whatever ends the connection is kept as `error` and settles all that was under way (wire.Client.lost).
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.time cimport monotonic

import asyncio

from bulkmail.errors import BulkmailError, ConnectionLost, ProtocolError, TimedOut
from bulkmail.net.gather cimport gather
from bulkmail.net.stream cimport Receiver, Stream
from bulkmail.net.tls_stream import shake_hands
from bulkmail.wire.flight cimport AWAIT_NOTHING, AWAIT_VERDICT

# A session that ran dry is given twice as much the next time, up to this many: enough for what a fast server takes
# between two turns, few enough that a crash leaves few in doubt (docs/architecture.md, "How much can be in doubt").
# Large messages need fewer, and those that wait should still be in the processor's cache when they are written. A shared
# message counts by its recipients.
cdef enum:
    MAX_WINDOW = 16
    WINDOW_BYTES = 65536
    WINDOW_RCPTS = 512

# By BDAT the window is what may be at the server without an answer. Where even the quickest took longer than SLOW seconds
# it is the line that needs filling, at four times a round trip: 128 messages of 2 KB in 100 ms are 1,280 messages a
# second over one connection.
cdef enum:
    MAX_LONG_WINDOW = 128
    LONG_WINDOW_BYTES = 262144
cdef double SLOW = 0.02
# On a line the window widens while messages under way together need less than so much of what each alone would.
cdef double SHARED = 0.5

# Under TLS each piece that is handed over becomes a record; up to so many bytes a copy is cheaper than that.
cdef Py_ssize_t JOINED_BYTES = 262144

CLOSED_BY_US = "closed by us"      # the reason of an end that is no trouble


cdef class Turn:
    """What the sessions of one owner have for it: finished transactions, sessions with room, sessions that ended.

    callback  called on the loop, at most once a turn; it empties the three lists
    crossing  no server of theirs has refused an envelope behind a final dot (wire.Client.crossing)
    delay     seconds within which finished transactions are handed over when no session is idle for want of work
    """

    def __cinit__(self, loop, callback, double delay):
        self._loop, self._callback, self._delay = loop, callback, delay
        self._coarse = type(loop).__module__.startswith("uvloop")
        self.done, self.hungry, self.ended = [], [], []
        self.crossing = True

    cpdef note(self, bint soon):
        if soon:
            if self._scheduled < 2:
                self._scheduled = 2
                if self.hub is not None:
                    self.hub.soon(self._run)
                else:
                    self._loop.call_soon(self._run)
        elif self._scheduled == 0:
            self._scheduled = 1
            self._loop.call_later(self._delay, self._run)

    def _run(self):
        if self._scheduled:
            self._scheduled = 0
            self._callback()

    def take_done(self):
        """The transactions that finished since the last call."""
        cdef list taken = self.done[:]
        self.done.clear()          # in place: every session's codec appends to this list
        return taken

    def take_hungry(self):
        """The sessions that have room; each is named again when it has room again."""
        cdef list taken = self.hungry
        cdef Session session
        self.hungry = []
        for session in taken:
            session._hungry = False
        return taken

    def take_ended(self):
        taken, self.ended = self.ended, []
        return taken


cdef class Session(Receiver):
    """Protocol of one connection, over a Stream or any transport. Negotiation is by call(); then push() transactions.

    turn             the owner's Turn
    command_timeout  seconds for the reply to a command
    data_timeout     seconds from the end of data to its reply, and for each piece of streamed content to leave
    """

    def __init__(self, loop, Turn turn not None, double command_timeout, double data_timeout, trace=None):
        self._loop, self.turn = loop, turn
        self.command_timeout, self.data_timeout = command_timeout, data_timeout
        self.wire = Client(False, trace)
        self.wire.done = turn.done
        self.wire.expect("greeting")       # it may come before anybody asks for it
        self.closed = loop.create_future()
        self._fd = -1
        self.window, self.left = 1, 0        # nothing is wanted before the owner says so, after the login

    # -- asyncio protocol

    def connection_made(self, transport):
        self.transport = transport
        tls = transport.get_extra_info("ssl_object")
        # pause_writing() and resume_writing() are to say exactly whether the transport holds bytes of ours: while it holds
        # none, _gather() may write past it. TLS transports pause at their high-water mark, the others above it: with a mark
        # of 0 the former would pause when they are empty, and not come back.
        transport.set_write_buffer_limits(high=0 if tls is None else 1)
        if isinstance(transport, Stream):
            self._stream = transport
            self.turn.hub = self._stream.hub
        elif tls is None:
            self._fd = transport.get_extra_info("socket").fileno()
        if not self.tunnelled:
            self.tls = tls

    def data_received(self, bytes data not None):
        self.received(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), self._loop.time())

    cdef int received(self, const unsigned char* data, Py_ssize_t size, double now) except -1:
        if self.error is not None:
            return 0
        try:
            self.wire.read(data, size, self._stamp(now))
        except BulkmailError as error:
            self._fail(error, self._unsent())
            return 0
        self._received(now)
        return 0

    cdef double _stamp(self, double now):
        """What the transactions are told for the loop's time `now`: uvloop's are whole milliseconds of the same clock."""
        return monotonic() if self.turn._coarse else now

    @property
    def encrypted(self):
        """Whether there is TLS with the server; TLS with a proxy is none."""
        return self.tls is not None or self.secured

    def eof_received(self):
        self._fail(self._loss("the server closed the connection"), self._unsent())

    def connection_lost(self, exc):
        lost = self._loss("the connection was closed" if exc is None else f"the connection was lost: {exc}")
        lost.__cause__ = exc
        # a stream tells still what was unsent, other transports do not
        self._fail(lost, self._unsent() if self._stream is not None else self._low_water + 1 if self._paused else 0)

    cdef _loss(self, str what):
        return ConnectionLost(what + self._waiting_for(), command=self.wire.awaited())

    cdef str _waiting_for(self):
        cdef str what = self.wire.awaited()
        if what is None:
            return ""
        if what == "greeting":
            return ", waiting for the greeting"
        if self.wire.streaming is not None:
            return ", while the message was being sent"
        return f", waiting for the reply to {what}"

    def pause_writing(self):
        self._paused = True
        # kept, since the transport no longer tells how much was unsent once the connection is lost
        self._low_water = self.transport.get_write_buffer_limits()[0]

    def resume_writing(self):
        self._paused = False
        self._notify()
        if self.error is None:
            self._offer()

    # -- transactions

    cpdef bint ready(self):
        """Whether a transaction pushed now would have its MAIL written at once."""
        return self.error is None and self.left > 0 and self.wire.begins_at_once()

    cpdef push(self, list transactions):
        """Take transactions on; their ends come by the turn. On a session that ended they are settled as not taken."""
        cdef Transaction tx
        cdef double now = self._loop.time(), stamp = self._stamp(now)
        cdef bint idle = self.wire.waiting() == AWAIT_NOTHING
        self.left -= len(transactions)
        self.wire.crossing = self.turn.crossing
        for tx in transactions:
            tx.via = self
            if tx.body is not None:
                self._size, self._rcpts = tx.body_size, len(tx.rcpts)
            self.wire.push(tx, stamp)
        if self.error is not None:
            self.wire.lost(self.error, 0, stamp)
            self.turn.note(True)
            return
        self._flush()
        if idle:
            self._await_next(now)
        # all of them were settled without asking the server, so that no reply will call; or the next one is far away, and
        # what the owner finds meanwhile should not wait for it
        if self.wire.load() == 0 or self._far():
            self._offer()
        if self.turn.done:
            self.turn.note(True)

    cdef _received(self, double now):
        if self.wire.answered:
            self.wire.answered = 0
            self._await_next(now)
            if not self.wire.crossing:
                self.turn.crossing = False
        self._flush()
        if self._waiter is not None:
            self._settle_call()
        if self.wire.closing:
            if self.wire.farewell is not None:
                self._fail(self.wire.parting(), self._unsent())
        elif not self._offer() and self.turn.done:
            self.turn.note(False)

    cdef bint _offer(self):
        """Ask the owner for work if there is room for it."""
        cdef bint dry
        cdef Py_ssize_t most = self.window - 1 if self._far() else self.window // 2
        if self.left <= 0 or self._paused or self.wire.ahead() > most:
            return False
        dry = self.wire.load() <= (0 if self.wire.chunking else 1)
        if not self._hungry:
            self._hungry = True
            self.turn.hungry.append(self)
        elif not dry or self._dry:
            return False               # it was said, and as urgently
        self._dry = dry
        if dry or (self._far() and self.wire.completed >= self._round):
            self._widen()
        self.turn.note(dry)
        return True

    cdef bint _far(self):
        """Whether it is the line that needs filling, and no time is lost by giving it a few messages at once."""
        return self.wire.chunking and self.wire.took > SLOW

    cdef _widen(self):
        cdef bint far = self._far()
        if self.wire.took > SLOW and not (far and self._side_by_side()) and self.window > 1:
            return          # more would only wait here, where another connection could send it
        if (self.window < (MAX_LONG_WINDOW if far else MAX_WINDOW) and self.window * self._rcpts < WINDOW_RCPTS
                and self.window * self._size < (LONG_WINDOW_BYTES if far else WINDOW_BYTES)):
            self.window = min(self.window * 4, MAX_LONG_WINDOW) if far else self.window * 2
            self._round = self.wire.begun

    cdef bint _side_by_side(self):
        """Whether messages since the last call shared their time, as they do a line's length and not a server's work."""
        cdef double now = self._loop.time(), passed = now - self._round_at
        cdef long long done = self.wire.completed - self._round_done
        self._round, self._round_at, self._round_done = self.wire.begun, now, self.wire.completed
        return passed < SHARED * done * self.wire.took

    cpdef Py_ssize_t room(self):
        """How many transactions it wants now."""
        cdef Py_ssize_t room = min(self.window - self.wire.ahead(), self.left)
        if self.error is not None or self.wire.closing:
            return 0
        return max(room, 0)

    cdef _flush(self):
        cdef object out = self.wire.take_output()
        cdef Py_ssize_t taken
        cdef int error
        if out is None or self.transport is None:
            return
        if self._stream is not None:
            self._stream.send(out)
            return
        if self._fd >= 0 and not self._paused:
            out = gather(self._fd, out, &taken, &error)      # an error is for the transport to find
            if out is None:
                return
        if type(out) is bytes:
            self.transport.write(out)
        elif self._fd < 0 and sum(map(len, out)) <= JOINED_BYTES:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    # -- single commands

    def greeting(self, double seconds):
        """Future of the greeting's Reply. Raises TimedOut, phase "greeting"."""
        return self._await_reply(seconds)

    def call(self, bytes line not None, str name not None, double seconds=0):
        """Future of the Reply to one command line (with its CRLF). seconds: 0 for command_timeout.

        A future that is cancelled ends the connection: its reply would be taken for that of the next command.
        """
        if self.error is not None:
            raise self.error
        if self._waiter is not None:
            raise RuntimeError("a command is already under way on this connection")
        self.wire.command(line, name)
        self._leaving = name == "QUIT"
        self._flush()
        return self._await_reply(seconds or self.command_timeout)

    def _await_reply(self, double seconds):
        self._waiter = waiter = self._loop.create_future()
        waiter.add_done_callback(self._on_waiter)
        if self.wire.replies:
            self._settle_call()
        elif self.error is not None:
            waiter.set_exception(self.error)
        else:
            self._arm(self._loop.time() + seconds)
        return waiter

    def _on_waiter(self, waiter):
        if waiter.cancelled():
            self.abort(ConnectionLost("the call was cancelled"))

    def _settle_call(self):
        if not self.wire.replies:
            return
        reply, waiter = self.wire.replies.pop(0), self._waiter
        self._waiter = None
        if not waiter.done():
            waiter.set_result(reply)

    # -- content that its owner streams

    async def stream(self, Transaction tx, pieces):
        """Write the content of `tx` (pushed with body None), once the server asks for it.

        pieces   async iterator of bytes; newlines and dots are seen to here
        returns  when all is written, or when the server refused
        """
        while tx.state == 0 and self.wire.streaming is not tx:
            await self._news()
        if tx.state != 0:
            return
        try:
            async for piece in pieces:
                if self.error is not None or tx.state != 0:
                    return
                self.wire.write_content(piece)
                self._flush()
                await self._drained()
        except BaseException as error:
            self._abandon(tx, error)
            raise
        if self.error is None and tx.state == 0:
            now = self._loop.time()
            self.wire.end_content(self._stamp(now))
            self._flush()
            self._await_next(now)

    def _abandon(self, Transaction tx, error):
        """The content broke off. By BDAT it can be taken back; after DATA only the end of the connection discards it."""
        now = self._loop.time()
        why = ConnectionLost("the message was abandoned before its end")
        why.__cause__ = error
        if tx.state == 0 and self.error is None and not self.wire.abandon(why, self._stamp(now)):
            self.abort(why)
        elif self.error is None:
            self._await_next(now)

    async def _drained(self):
        if self._paused:
            self._arm(self._loop.time() + self.data_timeout)
            while self._paused and self.error is None:
                await self._news()
            self._deadline = 0         # how long the next piece takes is the caller's affair

    def _news(self):
        """Awaitable, by any number of callers at once: a reply came, there is room to write, or the connection ended."""
        if self._changed is None or self._changed.done():
            self._changed = self._loop.create_future()
            if self.error is not None:
                self._changed.set_result(None)
        return asyncio.shield(self._changed)

    cdef _notify(self):
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # -- deadlines: for the whole of what is awaited, so that a server which drips bytes still runs out of time

    cdef _await_next(self, double now):
        cdef int what = self.wire.waiting()
        if what == AWAIT_NOTHING:
            self._deadline = 0
            self.idle_since = now
        elif what == AWAIT_VERDICT:
            self._arm(now + self.data_timeout)
        else:
            self._arm(now + self.command_timeout)
        self._notify()

    cdef _arm(self, double deadline):
        # one timer that is moved only to an earlier time: most deadlines are met, and then nothing was spent on them
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self):
        self._timer = None
        if self._deadline == 0 or self.error is not None:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._arm(self._deadline)
            return
        what = self.wire.awaited()
        phase = "greeting" if what == "greeting" else "command"
        if what == "end of data" or self.wire.streaming is not None:
            phase = "data"
        self._fail(TimedOut("timed out" + self._waiting_for(), phase=phase, command=what), self._unsent())

    # -- the end

    def _unsent(self):
        try:
            return 0 if self.transport is None else self.transport.get_write_buffer_size()
        except AttributeError:
            return 0     # asyncio's TLS transport, closed twice by the loop when TLS over it failed: nothing was under way

    def abort(self, error):
        """End at once; what is under way is settled as not taken or in doubt."""
        self._fail(error, self._unsent())

    cdef _fail(self, object error, Py_ssize_t unsent):
        if self.error is not None:
            return
        if self._leaving:
            error = ConnectionLost(CLOSED_BY_US)     # QUIT was sent: however it is answered, the end is ours
        self.error = error
        self._deadline = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wire.lost(error, unsent, self._stamp(self._loop.time()))
        self._fd = -1
        if self.transport is not None:
            self.transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
            self._waiter.exception()       # the awaiter still gets it; nobody is told that it was never looked at
        self._notify()
        if not self.closed.done():
            self.closed.set_result(error)
        self.turn.ended.append(self)
        self.turn.note(True)

    # -- STARTTLS (RFC 3207)

    async def start_tls(self, context, server_hostname, double seconds):
        """Put TLS under the connection. What the server said in clear is forgotten. Raises ssl.SSLError, OSError, TimedOut."""
        if self.error is not None:
            raise self.error
        if self.wire.reader.pending():
            # RFC 3207 section 6: text behind the 220 would be taken for a reply under TLS
            raise ProtocolError("the server sent text between its 220 to STARTTLS and the TLS handshake", command="STARTTLS")
        self._fd = -1
        try:
            # not wait_for(), which in Python 3.11 swallows a cancellation that comes with the result
            async with asyncio.timeout(seconds):
                if self._stream is not None:
                    hub, sock = self._stream.hub, self._stream.detach()
                    transport = await shake_hands(hub, sock, self, context, server_hostname)
                else:
                    self.transport.pause_reading()
                    # the loop has a deadline of its own, 60 seconds, which must not come first
                    transport = await self._loop.start_tls(
                        self.transport, self, context, server_hostname=server_hostname, ssl_handshake_timeout=2 * seconds)
        except TimeoutError:
            raise TimedOut("timed out in the TLS handshake", phase="connect") from None
        if transport is None:
            # asyncio, when the connection is lost in the very moment that the handshake is done
            raise ConnectionResetError("the connection was lost")
        self.transport, self.tls = transport, transport.get_extra_info("ssl_object")
        if self.error is not None:
            transport.abort()
            raise self.error
        if self.wire.reader.pending() or self.wire.replies:
            raise ProtocolError("the server sent text before the TLS handshake was done", command="STARTTLS")
        self.wire.extensions = {}
        self.wire.pipelining = self.wire.chunking = False
