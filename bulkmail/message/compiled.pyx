# One message per recipient: constant parts copied, values escaped and encoded straight into the output.
#
# `Compiled` is built by compile.py from plans (plan.py) and a list of fields in wire order; it is read-only afterwards.
# A plan is flattened into `Op`s, a field refers to ranges of them:
#   CONST        bytes as they are                            DATE, MESSAGE_ID   what they say
#   TEXT         unstructured header: one plan                MAILBOX            header: plans of display name, address
#   OTHER        header that Python makes from its plans      URLS               List-Unsubscribe: a plan per URI
#   BODY         quoted-printable text: one plan       BODY_BASE64, BODY_8BIT, BODY_7BIT   text in these encodings
#
# Owns      the constant bytes and the Python objects that ops point to (`_keep`).
# Promises  bodies are ready for the wire: CRLF, at most 76 bytes a line in encoded text, dots escaped, final dot included.
#           What is large and the same for everybody is held once: a body is then a tuple of pieces that begin a line each.
#           A bad row yields its MessageError and leaves the others alone.
# Errors    MessageError (scope recipient) as an item of the result; MemoryError is raised.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.string cimport memchr, memcmp

import hashlib
import re

from markupsafe import escape as html_escape

from bulkmail.errors import RECIPIENT, MessageError

include "encode.pxi"

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    int _PyBytes_Resize(PyObject** bytes_, Py_ssize_t size) except -1
    PyObject* PyBytes_FromStringAndSize_ "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    char* PyBytes_AS_STRING_ "PyBytes_AS_STRING"(PyObject* bytes_) noexcept
    void Py_CLEAR(PyObject* o)
    void Py_XDECREF(PyObject* o)

cdef enum:
    MAX_HEADER = 30_000     # bytes of one value: Gmail refuses more than 32 KB, and nobody reads a tenth of that
    MAX_LINE = 998          # bytes of a line without CRLF (RFC 5322 section 2.1.1)
    MAX_URI = 980           # with brackets and comma its line stays below 998 bytes (RFC 5322 section 2.1.1)
    HEADER_LINE = 78        # RFC 5322 section 2.1.1, without CRLF
    MAX_COPIED = 4096       # bytes of a body that are copied to where it stays; where they were written is used again,
    MAX_SPARE = 1 << 20     # unless one large message has made it larger than this
    MIN_SHARED = 1536       # bytes of a constant part that messages share instead of copying: below, a copy is cheaper
    LARGE = 8 << 10         # ... and of one that they share in any case,
    MOST_SMALL = 24         # while of smaller ones only so many are: with what is between them one sendmsg takes them;
                            # and none of a message that is signed, where hashing a piece costs more than copying it
    MAX_GROWTH = 1 << 27    # bytes that values may add to a message: no server takes a quarter of it

cdef enum OpCode:
    OP_TEXT, OP_SHARED, OP_DOTS, OP_VALUE, OP_RENDER, OP_TRUE, OP_DEFINED, OP_EQUAL, OP_TEST_SLOT, OP_JUMP

cdef enum:
    ESCAPE = 1          # OP_VALUE: into HTML text
    FALSY = 2           # OP_VALUE: `second` also replaces what is empty
    NEGATE = 4          # tests

# One step of a plan. Tests fall through when true and go to `target` when false.
cdef struct Op:
    OpCode code
    int flags
    int target
    int slot                # of a value or test: the place of its name in Compiled.slots
    PyObject* name          # of a value or test
    PyObject* other         # value: what stands in for a missing one, or NULL; equal: the constant; slots: the callable;
                            # shared: whole lines, encoded for their place (bytes)
    PyObject* second        # value: the replacement of an empty one
    PyObject* where         # for errors
    const uint8_t* p        # text: encoded for its place
    Py_ssize_t n
    Py_ssize_t first        # quoted-printable text: length of the first line, without its CRLF
    Py_ssize_t last         # ... length after the last CRLF, -1 when there is none
    int bits                # header text: its header_class

cdef enum FieldKind:
    CONST, DATE, MESSAGE_ID, TEXT, MAILBOX, OTHER, URLS, BODY, BODY_BASE64, BODY_8BIT, BODY_7BIT

# What a plan's text becomes: a header's value; quoted-printable at once; lines with CRLF, to be encoded as a whole.
cdef enum Mode:
    HEADER, QUOTED, LINES

cdef struct Range:
    int start
    int end

cdef struct Field:
    FieldKind kind
    const uint8_t* p        # const: the bytes; headers: "Name: "
    Py_ssize_t n
    int range               # index of the first range
    int ranges
    PyObject* fallback      # headers: texts, email -> bytes, for what the quick way does not do
    PyObject* label         # the manifest's key, for errors
    PyObject* shared        # const: bytes that messages share, or NULL

KINDS = {"const": CONST, "date": DATE, "message_id": MESSAGE_ID, "text": TEXT, "mailbox": MAILBOX, "other": OTHER,
         "urls": URLS, "body": BODY, "body-base64": BODY_BASE64, "body-8bit": BODY_8BIT, "body-7bit": BODY_7BIT}

cdef object _newline = re.compile("\r\n|\r|\n").sub


cdef object with_crlf(text):
    return _newline("\r\n", text)


def encoded_words(bytes text not None, Py_ssize_t col):
    """UTF-8 text as RFC 2047 encoded-words for a header line that already has `col` bytes: (bytes, length of the last line)."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    if n == 0:
        return b"", col
    cdef bytes out = PyBytes_FromStringAndSize(NULL, words_bound(n))
    n = put_words(<uint8_t*>PyBytes_AS_STRING(out), <const uint8_t*>PyBytes_AS_STRING(text), n, &col)
    return out[:n], col


def encode_text(bytes text not None, bint html=False):
    """UTF-8 text as quoted-printable from the start of a line; the last line is left open. html: escaped first."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, qp_bound(n))
    cdef bm_pen pen
    pen.p = <uint8_t*>PyBytes_AS_STRING(out)
    pen.col = 0
    put_text(&pen, <const uint8_t*>PyBytes_AS_STRING(text), n, html)
    return out[:pen.p - <uint8_t*>PyBytes_AS_STRING(out)]


cdef class Compiled:
    """A message compiled for many recipients; see compile.compile_message.

    shared         no per-recipient content: compose_shared makes the one message
    fields         recipient fields that must exist
    header_fields  recipient fields that reach a header or the envelope
    names          every name that a template takes from a recipient
    places         of each of them (where it is used, whether that fails without it)
    domain         of the Message-IDs
    eight_bit      bodies may have bytes beyond ASCII
    slots          names that are taken from a row, "email" first
    plain          a row may be given as values (Making.of_values): no slot is rendered, only strings are compared with
    signer         dkim_sign.Signer, or None; compose() leaves signing to who sends, who can do it beside the loop
    """

    cdef readonly bint shared, eight_bit, plain
    cdef readonly list slots
    cdef readonly frozenset fields
    cdef readonly frozenset header_fields
    cdef readonly frozenset names
    cdef readonly dict places
    cdef readonly object signer
    cdef object _reference
    cdef object _row_class
    cdef object _shared_body
    cdef dict _base
    cdef list _keep
    cdef Op* _ops
    cdef int _op_count
    cdef Range* _ranges
    cdef int _range_count
    cdef Field* _fields
    cdef int _field_count
    cdef bytes _sender              # constant, or None: by _sender_range
    cdef Range _sender_range
    cdef object _check_sender
    cdef bytes _id_head, _id_tail
    cdef uint64_t _id_seed
    cdef str _own_id                # the one Message-ID of a shared or ready message, else None
    cdef readonly str domain
    cdef Py_ssize_t _copied         # bytes of the constant parts that each message has a copy of
    cdef int _sharing, _small       # constant parts that messages share; those of them that are not LARGE
    cdef str _own_url_name          # a name that each recipient's row gets a value for, or None
    cdef Range _own_url_range
    cdef int _own_url_slot
    cdef object _finish_own_url

    def __cinit__(self):
        self._keep, self.slots, self.plain = [], ["email"], True

    def __dealloc__(self):
        PyMem_Free(self._ops)
        PyMem_Free(self._ranges)
        PyMem_Free(self._fields)

    def __init__(self, *, list fields, sender, check_sender, str job, str domain, dict base, row_class, reference,
                 shared_body, str own_id, frozenset required, frozenset header_fields, frozenset names, dict places,
                 signer=None, tuple own_url=None, int copy=0):
        """fields: (kind, prefix or bytes, list of plans' pieces, fallback, label) in wire order.

        sender       bytes, or the pieces of a plan that check_sender (text -> bytes) looks at where it is no plain address
        shared_body  date, Message-ID -> the one body; None: not a shared message
        own_id       Message-ID of a ready message ("" if it has none); None: ours
        copy         number in the Message-ID of a shared message: variants of one job are told apart by it
        own_url      name, pieces, text -> URL: what the name means in all templates but this one
        base         what stands in for names that a row lacks; row_class, reference: see template.Row and reference.Reference
        """
        self.shared, self._shared_body = shared_body is not None, shared_body
        self.fields, self.header_fields, self.names, self.places = required, header_fields, names, places
        self._base, self._row_class, self._reference, self._check_sender = base, row_class, reference, check_sender
        self._id_seed, self._id_head, self._id_tail = id_parts(job, domain)
        self.domain, self._own_id, self.signer = domain, own_id, signer
        if own_id is None and self.shared:
            self._own_id = make_message_id(job, copy, "", domain)
        if isinstance(sender, bytes):
            self._sender = sender
        else:
            self._sender_range = self._add_range(sender, HEADER)
        if own_url is not None:
            self._own_url_name, pieces, self._finish_own_url = own_url
            self._own_url_range = self._add_range(pieces, HEADER)
            self._own_url_slot = self._slot(self._own_url_name)
        for field in fields:
            self._add_field(*field)

    # ---- building

    cdef const uint8_t* _own(self, bytes text):
        self._keep.append(text)
        return <const uint8_t*>PyBytes_AS_STRING(text)

    cdef PyObject* _own_object(self, o):
        self._keep.append(o)
        return <PyObject*>o

    def _add_field(self, str kind, bytes text, list plans, fallback, str label):
        self._fields = <Field*>grown(self._fields, self._field_count, sizeof(Field))
        cdef Field field
        field.kind = <FieldKind><int>KINDS[kind]
        field.p, field.n = self._own(text), PyBytes_GET_SIZE(text)
        # Pieces begin lines, and Composer.share knows that of the next one only where this one ends with a line.
        field.shared = NULL
        if field.kind == CONST and text.endswith(b"\r\n") and self._shares(field.n):
            field.shared = <PyObject*>text
        field.range, field.ranges = self._range_count, len(plans)
        field.fallback, field.label = self._own_object(fallback), self._own_object(label)
        self.eight_bit = self.eight_bit or field.kind == BODY_8BIT or (field.kind == CONST and not text.isascii())
        for pieces in plans:
            self._add_range(pieces, QUOTED if field.kind == BODY else LINES if field.kind > BODY else HEADER)
        self._fields[self._field_count] = field
        self._field_count += 1
        if field.shared is NULL:
            self._copied += field.n

    cdef bint _shares(self, Py_ssize_t size):
        """Whether another constant part, of whole lines, is one that messages share."""
        cdef bint small = size < LARGE
        if size < MIN_SHARED or (small and (self._small == MOST_SMALL or self.signer is not None)):
            return False
        self._sharing += 1
        self._small += small
        return True

    cdef Range _add_range(self, list pieces, Mode mode) except *:
        cdef Range r
        r.start = self._op_count
        self._add_pieces(pieces, mode)
        r.end = self._op_count
        self._ranges = <Range*>grown(self._ranges, self._range_count, sizeof(Range))
        self._ranges[self._range_count] = r
        self._range_count += 1
        return r

    cdef int _add_pieces(self, list pieces, Mode mode) except -1:
        for piece in pieces:
            kind = piece.kind
            if kind == "text":
                self._add_text(piece.text.encode(), mode)
            elif kind == "value":
                self._add_value(piece)
            elif kind == "rendered":
                self.plain = False
                self._new(OP_RENDER).other = self._own_object(piece.slot)
            else:
                self._add_branch(piece, mode)
        return 0

    cdef int _add_text(self, bytes text, Mode mode) except -1:
        cdef Py_ssize_t first, last
        cdef Op* op
        if mode == QUOTED and text.startswith(b"."):
            # Whether these begin a line, and so must be encoded, depends on what stands before them.
            rest = text.lstrip(b".")
            op = self._new(OP_DOTS)
            op.p, op.n = self._own(text), len(text) - len(rest)
            text = rest
        if mode == QUOTED:
            text = encode_text(text)
        elif mode == LINES:
            text = text.replace(b"\n", b"\r\n")     # templates have no other newlines
        first, last = text.find(b"\r\n") + 2, text.rfind(b"\r\n") + 2
        if mode == QUOTED and self._shares(last - first):
            self._add_encoded(text[:first])
            self._new(OP_SHARED).other = self._own_object(text[first:last])
            text = text[last:]
        return self._add_encoded(text)

    cdef int _add_encoded(self, bytes text) except -1:
        cdef Py_ssize_t at = text.find(b"\r\n")
        cdef Op* op = self._new(OP_TEXT)
        op.p, op.n = self._own(text), PyBytes_GET_SIZE(text)
        op.first = at if at >= 0 else op.n
        op.last = op.n - text.rfind(b"\r\n") - 2 if at >= 0 else -1
        op.bits = header_class(op.p, op.n)
        self._copied += op.n
        return 0

    cdef int _add_value(self, piece) except -1:
        cdef Op* op = self._new(OP_VALUE)
        op.flags = (ESCAPE if piece.escape else 0) | (FALSY if piece.falsy else 0)
        op.name, op.where, op.slot = self._own_object(piece.name), self._own_object(piece.where), self._slot(piece.name)
        if piece.name in self._base:
            op.other = self._own_object(self._base[piece.name])
        elif piece.has_default:
            op.other = self._own_object(piece.default)
        op.second = self._own_object(piece.default if piece.has_default else None)
        return 0

    cdef int _add_branch(self, piece, Mode mode) except -1:
        # Ops move when their array grows: they are addressed by index until both sides are there.
        cdef int test = self._op_count, jump
        self._add_test(piece.test)
        self._add_pieces(piece.then, mode)
        jump = self._op_count
        self._new(OP_JUMP)
        self._ops[test].target = self._op_count
        self._add_pieces(piece.orelse, mode)
        self._ops[jump].target = self._op_count
        return 0

    cdef int _add_test(self, test) except -1:
        cdef Op* op = self._new(OP_TEST_SLOT if test.slot is not None else
                                {"true": OP_TRUE, "defined": OP_DEFINED, "equal": OP_EQUAL}[test.kind])
        op.flags = NEGATE if test.negate else 0
        op.name, op.where = self._own_object(test.name), self._own_object(test.where)
        if test.slot is not None or (test.kind == "equal" and not isinstance(test.other, str)):
            self.plain = False
        elif test.name is not None:
            op.slot = self._slot(test.name)
        op.other = self._own_object(test.slot if test.slot is not None else test.other)
        if test.name in self._base:
            op.second = self._own_object(self._base[test.name])
        return 0

    cdef int _slot(self, str name) except -1:
        if name not in self.slots:
            self.slots.append(name)
        return self.slots.index(name)

    cdef Op* _new(self, OpCode code) except NULL:
        self._ops = <Op*>grown(self._ops, self._op_count, sizeof(Op))
        cdef Op* op = &self._ops[self._op_count]
        op.code = code
        op.flags = op.target = op.bits = op.slot = 0
        op.name = op.other = op.second = op.where = NULL
        op.p, op.n, op.first, op.last = NULL, 0, 0, -1
        self._op_count += 1
        return op

    # ---- use

    def compose(self, list rows not None, list numbers not None, bytes date not None):
        """One (sender, recipient, body) or MessageError for each row. date: the value of Date (RFC 5322 section 3.3).

        body: bytes, or a tuple of them where pieces are shared; not signed.
        """
        cdef list out = []
        cdef Composer composer = Composer(self, date)
        cdef Py_ssize_t i
        for i in range(len(rows)):
            try:
                body = composer.of_row(rows[i], numbers[i])
                out.append((composer.sender(), rows[i]["email"].encode(), body))
            except Exception as error:
                out.append(not_composed(error))
        return out

    def making(self, bytes date not None):
        """The same, for who asks for one message after another: `Making`. Not for several threads at once."""
        return Composer(self, date)

    def compose_shared(self, bytes date not None):
        """(sender, body) of a shared message, signed. raises  MessageError  for one that has per-recipient content."""
        if not self.shared:
            raise MessageError("the message differs from recipient to recipient, it cannot be composed once for all")
        return self._sender, self.signed(self._shared_body(date, self._own_id.encode()))

    def signed(self, body):
        """A composed body with its signatures, if the message has any. raises  MessageError"""
        return body if self.signer is None else with_fields(self.signer.sign([body])[0], body)

    def render(self, dict row not None, int number, bytes date not None):
        """The same message made by Jinja2 and the standard library's email package: `Rendered`. raises  MessageError"""
        return self._reference.render(row, self.message_id(number, row["email"]), date)

    def signed_copy(self, dict row not None, number, bytes date not None):
        """(sender, body) for one recipient, signed. raises  MessageError"""
        if self.shared:
            return self.compose_shared(date)
        (made,) = self.compose([row], [number], date)
        if isinstance(made, MessageError):
            raise made
        return made[0], self.signed(made[2])

    def message_id(self, number, str address not None):
        """The Message-ID, brackets included, of the copy for row `number`; "" for a ready message that has none."""
        if self._own_id is not None:
            return self._own_id
        cdef Py_ssize_t n
        cdef const char* text = PyUnicode_AsUTF8AndSize(address, &n)
        cdef uint64_t h = address_hash(self._id_seed, <const uint8_t*>text, n)
        return (self._id_head + base36(h) + b"." + base36(number) + self._id_tail).decode()


def not_composed(error):
    """The MessageError for a recipient of whom composing raised this. raises  MemoryError, as it is"""
    if isinstance(error, MemoryError):
        raise error
    if not isinstance(error, MessageError):  # a value that has no text form, such as a lone surrogate
        return MessageError(f"the message cannot be composed: {error}", scope=RECIPIENT)
    # Frames would keep each failed row alive for as long as its error is kept.
    error.scope = RECIPIENT
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def with_fields(bytes fields not None, body not None):
    """A body with header fields (whole lines) before it: a tuple of pieces, the body itself is not copied."""
    return (fields, *body) if type(body) is tuple else (fields, body)


def in_pieces(list parts not None):
    """A body from its parts: bytes, or a tuple of pieces where a large one can be held once, as Composer has it."""
    cdef list pieces = [], small = []
    cdef bint begins_line = True
    for part in parts:
        if begins_line and len(<bytes?>part) >= LARGE and part.endswith(b"\r\n"):
            pieces += [b"".join(small), part] if small else [part]
            small = []
        else:
            small.append(part)
        begins_line = part.endswith(b"\r\n")
    return (*pieces, b"".join(small)) if pieces else b"".join(small)


def make_message_id(str job not None, number, str address not None, str domain not None):
    """The Message-ID of the copy of `job` for row `number` and its address; that of a shared message is for row 0 and "".

    It is unique per copy and the same whenever that copy is made. The address cannot be read from it.
    """
    cdef uint64_t seed
    cdef bytes text = address.encode()
    seed, head, tail = id_parts(job, domain)
    h = address_hash(seed, <const uint8_t*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return (head + base36(h) + b"." + base36(number) + tail).decode()


def id_parts(str job, str domain):
    """What the Message-IDs of a job share: seed of the hashes, head and tail."""
    seed = int.from_bytes(hashlib.sha256(job.encode()).digest()[:8], "big")
    return seed, b"<" + base36(seed) + b".", b"@" + domain.encode() + b">"


def base36(uint64_t value):
    cdef uint8_t digits[16]
    return PyBytes_FromStringAndSize(<char*>digits, put_base36(digits, value))


cdef void* grown(void* array, int count, size_t size) except NULL:
    """Room for one item more; a power of two items in all."""
    if count & (count - 1) and count:
        return array
    cdef void* more = PyMem_Realloc(array, size * max(2 * count, 1))
    if more is NULL:
        raise MemoryError
    return more


cdef class Making:
    """of_row, of_values   the body for one recipient: bytes, or a tuple of them where pieces are shared; not signed

    values  of Compiled.slots, in their order, for one that is `plain`
    sender  of the message that was made last
    """

    cdef object of_row(self, dict row, uint64_t number):
        raise NotImplementedError

    cdef object of_values(self, Value* values, uint64_t number):
        raise NotImplementedError

    cdef bytes sender(self):
        raise NotImplementedError


include "composer.pxi"
