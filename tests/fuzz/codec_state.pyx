# What only C sees of the server's codec: each call leaves it in a state that the next one may rely upon.
# Built by scripts/fuzz, with AddressSanitizer.

from cpython.bytes cimport PyBytes_GET_SIZE

from guard cimport allow_behind, forbid_behind

from bulkmail.wire.server cimport ServerCodec
from bulkmail.wire.server_state cimport CHUNK, CLOSED, NEW, TEXT, TLS

from bulkmail.wire.server_buffers import MAX_LINE
from bulkmail.wire.server_state import MAX_COMMANDS, MAX_ERRORS

cdef Py_ssize_t _MAX_LINE = MAX_LINE
cdef int _MAX_ERRORS = MAX_ERRORS, _MAX_COMMANDS = MAX_COMMANDS


def feed(ServerCodec codec, bytes data):
    """codec.feed(data), where not one byte behind `data` may be read, and what must hold of the codec then."""
    forbid_behind(data)
    events = codec.feed(data)
    allow_behind(data)
    check(codec)
    return events


cdef int check(ServerCodec codec) except -1:
    assert NEW <= codec._state <= CLOSED
    assert codec._events is None, "events are kept back"
    assert codec._data is None or codec.asking, "input is kept, and nothing is asked"
    assert codec._data is None or codec._pos <= PyBytes_GET_SIZE(codec._data)
    assert 0 <= codec.line_len <= codec._line_room and codec.line_len <= _MAX_LINE, "the line outgrows its bound"
    assert codec._line_room <= 2 * _MAX_LINE
    assert codec.line_len == 0 or codec._state not in (TEXT, CHUNK, TLS), "half a line is forgotten"
    assert 0 <= codec._out_len <= codec._out_room
    assert 0 <= codec._recipients <= codec.settings.max_recipients
    assert 0 <= codec._errors <= _MAX_ERRORS and 0 <= codec._commands <= _MAX_COMMANDS + 1
    assert (codec._state == CHUNK) == (codec._chunk > 0 and codec._state != CLOSED) or codec._state == CLOSED
    assert codec._size >= 0
    return 0
