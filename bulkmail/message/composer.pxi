# The work on one recipient after another. `Composer` holds the two buffers of one compose() call, so that calls in several
# threads do not meet: what is the recipient's own of the body under construction, and the text of the header in hand.

# A constant part that messages share: it goes before the byte `at` of what is the recipient's own.
cdef struct Shared:
    PyObject* piece
    Py_ssize_t at

cdef object put_in_header(str label, str what):
    return MessageError(f"{label}: {what} has a line break or NUL, which a header or envelope cannot carry")


@cython.final
cdef class Composer(Making):
    cdef Compiled c
    cdef bytes date
    cdef dict row                   # of the recipient, or
    cdef Value* values              # theirs
    cdef object email               # their address, str; None: not made yet
    cdef const uint8_t* address     # as UTF-8
    cdef Py_ssize_t address_n
    cdef object url                 # what `values` of their own URL points to
    cdef object jinja               # Row for rendered slots, made when first needed
    cdef PyObject* own              # bytes, owned: the body under construction, without what messages share
    cdef uint8_t* base              # where they are
    cdef Py_ssize_t cap
    cdef bm_pen pen                 # where its next byte goes
    cdef Shared* shared
    cdef int shared_n
    cdef uint8_t* text              # UTF-8 of the header value in hand
    cdef Py_ssize_t text_n, text_cap
    cdef int bits                   # its header_class
    cdef object label               # the manifest's key of the field in hand

    def __cinit__(self, Compiled c, bytes date):
        self.c, self.date = c, date
        self.text_cap = 1024
        self.text = <uint8_t*>PyMem_Malloc(self.text_cap)
        self.shared = <Shared*>PyMem_Malloc(c._sharing * sizeof(Shared))
        if self.text is NULL or self.shared is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.text)
        PyMem_Free(self.shared)
        Py_XDECREF(self.own)

    cdef object of_row(self, dict row, uint64_t number):
        self.row, self.values, self.email = row, NULL, row.get("email")
        if not isinstance(self.email, str):
            raise MessageError("the row has no 'email'")
        self.address = <const uint8_t*>PyUnicode_AsUTF8AndSize(self.email, &self.address_n)
        return self.make(number)

    cdef object of_values(self, Value* values, uint64_t number):
        self.row, self.values, self.email = None, values, None
        self.address, self.address_n = <const uint8_t*>values[0].text, values[0].size
        return self.make(number)

    cdef object make(self, uint64_t number):
        cdef Py_ssize_t i
        cdef Compiled c = self.c
        self.jinja = None
        if c._own_url_name is not None:
            self.own_url()
        self.start()
        for i in range(c._field_count):
            self.field(&c._fields[i], number)
        self.raw(b".\r\n", 3)
        return self.finish()

    cdef int own_url(self) except -1:
        cdef Py_ssize_t n
        cdef Value* own
        self.label = "list_unsubscribe"
        cdef const uint8_t* p = self.text_of(self.c._own_url_range, &n)
        self.url = self.c._finish_own_url(p[:n].decode())
        if self.values is not NULL:
            own = &self.values[self.c._own_url_slot]
            own.text, own.number = PyUnicode_AsUTF8AndSize(self.url, &own.size), False
            return 0
        self.row = self.row.copy()
        self.row[self.c._own_url_name] = self.url
        self.jinja = None               # made without it, if the URL's template needed one
        return 0

    # ---- the body

    cdef int start(self) except -1:
        if self.own is NULL:
            self.cap = max(self.c._copied + 1024, 0 if self.cap > MAX_SPARE else self.cap)
            self.own = PyBytes_FromStringAndSize_(NULL, self.cap)
            self.base = <uint8_t*>PyBytes_AS_STRING_(self.own)
        self.pen.p, self.pen.col, self.shared_n = self.base, 0, 0
        return 0

    cdef inline int need(self, Py_ssize_t more) except -1:
        if self.base + self.cap - self.pen.p < more:
            self.grow(more)
        return 0

    cdef int grow(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t n = self.pen.p - self.base
        cdef Py_ssize_t most = self.c._copied + MAX_GROWTH
        cdef Py_ssize_t cap = max(n + more, self.cap + self.cap // 2)
        if n + more > most:
            raise MessageError(f"{self.label}: the values make the message longer than {most} bytes")
        _PyBytes_Resize(&self.own, cap)
        self.cap = cap
        self.base = <uint8_t*>PyBytes_AS_STRING_(self.own)
        self.pen.p = self.base + n
        return 0

    cdef object finish(self):
        """The body: bytes, or the pieces that messages share with what is the recipient's own between them."""
        cdef Py_ssize_t n = self.pen.p - self.base
        cdef object body
        if self.shared_n == 0 and n > MAX_COPIED:
            return self.whole(n)
        body = self.cut(n) if self.shared_n else PyBytes_FromStringAndSize(<char*>self.base, n)
        if self.cap > MAX_SPARE:
            Py_CLEAR(self.own)
        return body

    cdef bytes whole(self, Py_ssize_t n):
        """What was written, as it is; the next message is written elsewhere."""
        _PyBytes_Resize(&self.own, n)
        cdef bytes body = <bytes>self.own       # a second reference; the first is given up
        Py_CLEAR(self.own)
        return body

    cdef tuple cut(self, Py_ssize_t n):
        cdef tuple body
        cdef Py_ssize_t at = 0
        cdef int i, count = 1
        for i in range(self.shared_n):
            count += 1 + (self.shared[i].at > at)
            at = self.shared[i].at
        body, count, at = PyTuple_New(count), 0, 0
        for i in range(self.shared_n):
            if self.shared[i].at > at:
                count = self.piece(body, count, PyBytes_FromStringAndSize(<char*>self.base + at, self.shared[i].at - at))
                at = self.shared[i].at
            count = self.piece(body, count, <object>self.shared[i].piece)
        self.piece(body, count, PyBytes_FromStringAndSize(<char*>self.base + at, n - at))
        return body

    cdef int piece(self, tuple body, int place, object piece) except -1:
        Py_INCREF(piece)        # SET_ITEM takes a reference over
        PyTuple_SET_ITEM(body, place, piece)
        return place + 1

    cdef inline bint at_line_start(self) noexcept:
        cdef Py_ssize_t n = self.pen.p - self.base
        return n == 0 or (n > 1 and (self.pen.p - 2)[0] == c'\r' and (self.pen.p - 1)[0] == c'\n')

    cdef int share(self, PyObject* piece) except -1:
        """Put a piece that all messages have behind what there is. Each is put once a message at most."""
        self.shared[self.shared_n].piece, self.shared[self.shared_n].at = piece, self.pen.p - self.base
        self.shared_n += 1
        return 0

    cdef inline int raw(self, const void* p, Py_ssize_t n) except -1:
        self.need(n)
        memcpy(self.pen.p, p, n)
        self.pen.p += n
        return 0

    # ---- fields

    cdef int field(self, Field* field, uint64_t number) except -1:
        self.label = <object>field.label
        if field.kind == CONST:
            if field.shared is not NULL and self.at_line_start():
                return self.share(field.shared)
            return self.raw(field.p, field.n)
        if field.kind == BODY:
            self.pen.col = 0
            return self.run(self.c._ranges[field.range], QUOTED)
        if field.kind > BODY:
            return self.lines(field)
        self.raw(field.p, field.n)
        if field.kind == DATE:
            self.raw(PyBytes_AS_STRING(self.date), PyBytes_GET_SIZE(self.date))
        elif field.kind == MESSAGE_ID:
            self.message_id(number)
        elif field.kind == TEXT:
            return self.unstructured(field)
        elif field.kind == MAILBOX:
            return self.mailbox(field)
        elif field.kind == URLS:
            return self.urls(field)
        else:
            self.pen.p -= field.n
            return self.fallback(field, self.texts(field))
        return self.raw(b"\r\n", 2)

    cdef int lines(self, Field* field) except -1:
        """A text part that is encoded as a whole."""
        cdef size_t n
        self.text_n = self.bits = 0
        self.run(self.c._ranges[field.range], LINES)
        n = <size_t>self.text_n
        if field.kind == BODY_BASE64:
            self.need(<Py_ssize_t>bm_base64_size(n))
            self.pen.p += KERNELS.base64_lines(self.pen.p, self.text, n)
            return 0
        check_lines(self.text, self.text_n, field.kind == BODY_7BIT, self.label)
        self.need(self.text_n + <Py_ssize_t>KERNELS.body_extra(self.text, n, BM_LINE_START))
        self.pen.p += KERNELS.body_encode(self.pen.p, self.text, n, BM_LINE_START)
        return 0

    cdef int message_id(self, uint64_t number) except -1:
        cdef Compiled c = self.c
        self.need(PyBytes_GET_SIZE(c._id_head) + PyBytes_GET_SIZE(c._id_tail) + 32)
        self.raw(PyBytes_AS_STRING(c._id_head), PyBytes_GET_SIZE(c._id_head))
        self.pen.p += put_base36(self.pen.p, address_hash(c._id_seed, self.address, self.address_n))
        self.raw(b".", 1)
        self.pen.p += put_base36(self.pen.p, number)
        return self.raw(PyBytes_AS_STRING(c._id_tail), PyBytes_GET_SIZE(c._id_tail))

    cdef int unstructured(self, Field* field) except -1:
        cdef Py_ssize_t n, col = field.n
        cdef const uint8_t* p = self.text_of(self.c._ranges[field.range], &n)
        if n and (self.bits & (BEYOND_ASCII | CONTROL) or looks_like_word(self.bits, p, n)):
            self.words(p, n, &col)
        elif col + n <= HEADER_LINE:
            self.raw(p, n)
        else:
            self.pen.p -= field.n
            return self.fallback(field, [p[:n].decode()])
        return self.raw(b"\r\n", 2)

    cdef int mailbox(self, Field* field) except -1:
        """Display name and address, as far as they fit on a line or need encoding; the rest is Python's."""
        cdef Py_ssize_t n, m, col = field.n
        cdef uint8_t* begin = self.pen.p - field.n
        cdef Py_ssize_t offset = begin - self.base
        cdef const uint8_t* p = self.text_of(self.c._ranges[field.range], &n)
        cdef bint done = self.phrase(p, n, &col)
        cdef str name = None if done else p[:n].decode()
        cdef bint named = n > 0
        p = self.text_of(self.c._ranges[field.range + 1], &m)
        if not done or not plain_address(p, m):
            if name is None:
                self.text_of(self.c._ranges[field.range], &n)
                name = self.text[:self.text_n].decode()
                p = self.text_of(self.c._ranges[field.range + 1], &m)
            self.pen.p = self.base + offset
            return self.fallback(field, [name, p[:m].decode()])
        self.need(m + 8)
        if named:
            # The address goes to a line of its own where the name has filled the first.
            self.raw(b"\r\n <" if col + m + 3 > HEADER_LINE else b" <", 4 if col + m + 3 > HEADER_LINE else 2)
        self.raw(p, m)
        return self.raw(b">\r\n" if named else b"\r\n", 3 if named else 2)

    cdef bint phrase(self, const uint8_t* p, Py_ssize_t n, Py_ssize_t* col) except *:
        """Writes a display name (RFC 5322 section 3.2.5). returns  False: too long, nothing was written"""
        cdef Py_ssize_t i
        cdef bint quotes
        if n == 0:
            return True
        if self.bits & (BEYOND_ASCII | CONTROL) or looks_like_word(self.bits, p, n):
            self.words(p, n, col)
            return True
        if n > 60:
            return False
        quotes = self.bits & SPECIAL or has_double_blank(p, n)
        self.need(2 * n + 2)
        cdef uint8_t* out = self.pen.p
        if quotes:
            out[0] = c'"'
            out += 1
        for i in range(n):
            if HEADER_CLASS[p[i]] & ESCAPED:
                out[0] = c'\\'
                out += 1
            out[0] = p[i]
            out += 1
        if quotes:
            out[0] = c'"'
            out += 1
        col[0] += out - self.pen.p
        self.pen.p = out
        return True

    cdef int urls(self, Field* field) except -1:
        cdef Py_ssize_t n, col = field.n
        cdef const uint8_t* p
        cdef bytes legal
        cdef int i
        for i in range(field.ranges):
            p = self.text_of(self.c._ranges[field.range + i], &n)
            if self.bits & NOT_URI:
                legal = (<object>field.fallback)(p[:n].decode())
                p, n = <const uint8_t*>PyBytes_AS_STRING(legal), PyBytes_GET_SIZE(legal)
            if not 0 < n <= MAX_URI:
                raise MessageError(f"{self.label}: a URI of {n} bytes, 1 to {MAX_URI} fit a header")
            self.need(n + 8)
            if i and col + n + 4 > HEADER_LINE:
                self.raw(b",\r\n <", 5)
                col = 1
            else:
                self.raw(b", <" if i else b"<", 3 if i else 1)
            self.raw(p, n)
            self.raw(b">", 1)
            col += n + 4
        return self.raw(b"\r\n", 2)

    cdef int words(self, const uint8_t* p, Py_ssize_t n, Py_ssize_t* col) except -1:
        self.need(words_bound(n))
        self.pen.p += put_words(self.pen.p, p, n, col)
        return 0

    cdef list texts(self, Field* field):
        cdef list out = []
        cdef Py_ssize_t n
        cdef const uint8_t* p
        for i in range(field.ranges):
            p = self.text_of(self.c._ranges[field.range + i], &n)
            out.append(p[:n].decode())
        return out

    cdef int fallback(self, Field* field, list texts) except -1:
        if self.email is None:
            self.email = self.address[:self.address_n].decode()
        cdef bytes line = (<object>field.fallback)(texts, self.email)
        return self.raw(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))

    cdef bytes sender(self):
        cdef Py_ssize_t n
        if self.c._sender is not None:
            return self.c._sender
        self.label = "envelope_from"
        cdef const uint8_t* p = self.text_of(self.c._sender_range, &n)
        if plain_address(p, n):
            return p[:n]
        return self.c._check_sender(p[:n].decode())

    # ---- plans

    cdef const uint8_t* text_of(self, Range r, Py_ssize_t* n) except NULL:
        """The text of a header's plan without the blanks around it, and its class in `bits`; valid until the next call."""
        self.text_n, self.bits = 0, 0
        self.run(r, HEADER)
        cdef const uint8_t* p = self.text
        cdef Py_ssize_t size = self.text_n
        while size and (p[size - 1] == c' ' or p[size - 1] == c'\t'):
            size -= 1
        while size and (p[0] == c' ' or p[0] == c'\t'):
            p += 1
            size -= 1
        if size > MAX_HEADER:
            raise MessageError(f"{self.label}: a value of {size} bytes, at most {MAX_HEADER} go in a header")
        n[0] = size
        return p

    cdef int run(self, Range r, Mode mode) except -1:
        cdef int i = r.start
        cdef Op* op
        while i < r.end:
            op = &self.c._ops[i]
            i += 1
            if op.code == OP_TEXT:
                self.put_const(op, mode)
            elif op.code == OP_SHARED:
                self.share(op.other)
            elif op.code == OP_DOTS:
                self.need(qp_bound(op.n))
                put_text(&self.pen, op.p, op.n, False)
            elif op.code == OP_VALUE:
                self.put_value(op, mode)
            elif op.code == OP_RENDER:
                self.put(<object>op.other, (<object>op.other)(self.jinja_row()), False, mode)
            elif op.code == OP_JUMP:
                i = op.target
            elif not self.test(op):
                i = op.target
        return 0

    cdef int put_const(self, Op* op, Mode mode) except -1:
        cdef Py_ssize_t last = op.last
        if mode != QUOTED:
            self.bits |= op.bits
            return self.append(op.p, op.n)
        self.need(op.n + 8)
        if op.first == 0 and last >= 0:
            bm_qp_guard_blank(&self.pen)
        elif self.pen.col + op.first > (BM_QP_LINE if last >= 0 else BM_QP_LINE - 1):
            bm_qp_soft_break(&self.pen)
        memcpy(self.pen.p, op.p, op.n)
        self.pen.p += op.n
        self.pen.col = last if last >= 0 else self.pen.col + op.n
        return 0

    cdef int put_value(self, Op* op, Mode mode) except -1:
        cdef PyObject* found = NULL
        cdef Value* given
        if self.values is NULL:
            found = PyDict_GetItemWithError(self.row, <object>op.name)
        else:
            given = &self.values[op.slot]
            if given.text is not NULL and not (op.flags & FALSY and is_empty(given)):
                return self.put_text(<object>op.name, <const uint8_t*>given.text, given.size, op.flags & ESCAPE, mode)
            if given.text is not NULL:
                return self.put(<object>op.name, <object>op.second, op.flags & ESCAPE, mode)
        if found is NULL:
            found = op.other
            if found is NULL:
                raise MessageError(f"{<object>op.where}: {<object>op.name!r} is undefined")
        value = <object>found
        if op.flags & FALSY and not value:
            value = <object>op.second
        return self.put(<object>op.name, value, op.flags & ESCAPE, mode)

    cdef int put(self, what, value, bint escape, Mode mode) except -1:
        cdef Py_ssize_t n
        if not isinstance(value, str):
            value = str(value)
        cdef const uint8_t* p = <const uint8_t*>PyUnicode_AsUTF8AndSize(value, &n)
        return self.put_text(what, p, n, escape, mode)

    cdef int put_text(self, what, const uint8_t* p, Py_ssize_t n, bint escape, Mode mode) except -1:
        cdef int bits
        if mode == QUOTED:
            self.need(qp_bound(n))
            put_text(&self.pen, p, n, escape)
            return 0
        if escape:
            value = str(html_escape(p[:n].decode()))
            p = <const uint8_t*>PyUnicode_AsUTF8AndSize(value, &n)
        if mode == LINES:
            if memchr(p, c'\n', <size_t>n) is not NULL or memchr(p, c'\r', <size_t>n) is not NULL:
                value = with_crlf(p[:n].decode())
                p = <const uint8_t*>PyUnicode_AsUTF8AndSize(value, &n)
            return self.append(p, n)
        bits = header_class(p, n)
        if bits & BREAK:
            raise put_in_header(self.label, repr(what) if isinstance(what, str) else "/".join(sorted(map(repr, what.names))))
        self.bits |= bits
        return self.append(p, n)

    cdef int append(self, const uint8_t* p, Py_ssize_t n) except -1:
        if self.text_n + n > self.text_cap:
            self.grow_text(n)
        memcpy(self.text + self.text_n, p, n)
        self.text_n += n
        return 0

    cdef int grow_text(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t cap = 2 * (self.text_n + n)
        cdef uint8_t* more = <uint8_t*>PyMem_Realloc(self.text, cap)
        if more is NULL:
            raise MemoryError
        self.text, self.text_cap = more, cap
        return 0

    cdef bint test(self, Op* op) except -1:
        cdef PyObject* found
        cdef bint outcome
        if op.code == OP_TEST_SLOT:
            outcome = bool((<object>op.other)(self.jinja_row()))
            return outcome != (op.flags & NEGATE != 0)
        if self.values is not NULL and self.values[op.slot].text is not NULL:
            return self.test_value(op, &self.values[op.slot]) != (op.flags & NEGATE != 0)
        found = NULL if self.values is not NULL else PyDict_GetItemWithError(self.row, <object>op.name)
        if found is NULL:
            found = op.second
        if op.code == OP_DEFINED:
            outcome = found is not NULL
        elif found is NULL:
            raise MessageError(f"{<object>op.where}: {<object>op.name!r} is undefined")
        elif op.code == OP_TRUE:
            outcome = bool(<object>found)
        else:
            outcome = bool(<object>found == <object>op.other)
        return outcome != (op.flags & NEGATE != 0)

    cdef bint test_value(self, Op* op, Value* given) except -1:
        cdef Py_ssize_t n
        cdef const char* text
        if op.code == OP_DEFINED:
            return True
        if op.code == OP_TRUE:
            return not is_empty(given)
        text = PyUnicode_AsUTF8AndSize(<object>op.other, &n)     # a string, or the message were not `plain`
        return not given.number and given.size == n and memcmp(given.text, text, <size_t>n) == 0

    cdef object jinja_row(self):
        cdef dict values
        if self.jinja is None:
            values = self.c._base.copy()
            values.update(self.row)
            self.jinja = self.c._row_class(values)
        return self.jinja


cdef inline bint is_empty(const Value* value) noexcept nogil:
    """Whether Python would call it false."""
    return value.size == 0 or (value.number and value.size == 1 and value.text[0] == c'0')


cdef int check_lines(const uint8_t* p, Py_ssize_t n, bint ascii_only, label) except -1:
    """Of text that is sent as it is: what every server takes."""
    cdef Py_ssize_t i = 0, size, line = 1
    cdef const uint8_t* end
    while i < n:
        end = <const uint8_t*>memchr(p + i, c'\n', <size_t>(n - i))
        size = (end - (p + i)) - 1 if end is not NULL else n - i
        if size > MAX_LINE:
            raise MessageError(f"{label}: line {line} has {size} bytes, at most {MAX_LINE} go without an encoding")
        i += size + 2
        line += 1
    for i in range(n):
        if ascii_only and p[i] > 127:
            raise MessageError(f"{label}: it has characters beyond ASCII, which 7bit cannot carry")
        if p[i] == 0:
            raise MessageError(f"{label}: there is a NUL, which no mail may hold")
    return 0
