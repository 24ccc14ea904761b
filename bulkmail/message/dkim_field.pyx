# DKIM-Signature fields: what is to be signed of a message, and the field that results (RFC 6376 sections 3.5 and 3.7).
#
# Why it is compiled. It runs once a message, on cores that are busy with signatures: their code and data have pushed ours
# out of the first caches, and Python's would be fetched again each time.
#
# Errors    MessageError for a message that cannot be signed.
from binascii import b2a_base64
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from hashlib import sha256
from libc.string cimport memcpy
from time import time

from bulkmail.errors import MessageError
from bulkmail.message.canon import header_size, relaxed_field

cdef enum:
    LINE = 78               # RFC 5322 section 2.1.1, without CRLF
    FIRST = LINE - 3        # of the signature, behind " b="
    OTHER = LINE - 1        # behind the fold's space
    MAX_HEADS = 256         # field names and times repeat; a list of differing messages does not fill the memory with them

cdef bytes FINAL_DOT = b".\r\n"


cdef class Unsigned:
    """A signature that lacks its last part.

    head  the field up to "b="
    data  what is signed: the SHA-256 digest for a key that takes it, else all that is covered
    """

    cdef readonly bytes head
    cdef readonly bytes data

    def __init__(self, bytes head not None, bytes data not None):
        self.head, self.data = head, data

    cpdef bytes field(self, bytes signature):
        """The whole field, CRLF included."""
        cdef bytes text = b2a_base64(signature, newline=False)
        cdef const char* p = PyBytes_AS_STRING(text)
        cdef Py_ssize_t left = PyBytes_GET_SIZE(text), head = PyBytes_GET_SIZE(self.head), n = min(left, FIRST)
        cdef Py_ssize_t folds = (left - n + OTHER - 1) // OTHER
        cdef bytes out = PyBytes_FromStringAndSize(NULL, head + left + 3 * folds + 2)
        cdef char* pen = PyBytes_AS_STRING(out)
        memcpy(pen, PyBytes_AS_STRING(self.head), <size_t>head)
        pen += head
        while True:
            memcpy(pen, p, <size_t>n)
            pen, p, left = pen + n, p + n, left - n
            if not left:
                break
            memcpy(pen, b"\r\n ", 3)
            pen, n = pen + 3, min(left, OTHER)
        memcpy(pen, b"\r\n", 2)
        return out


cdef class Line:
    """One spec, ready for use.

    tags      of the field, in order, without t=, x=, h=, bh= and b=; expires: seconds until x=, or None
    names     in the order of h=; picker: takes them out of a header
    relaxed   the header's canonicalization, relaxed_body: the body's; takes_digest: see Key
    """

    cdef readonly bint relaxed_body
    cdef public object picker
    cdef bint _relaxed, _takes_digest
    cdef list _tags, _names
    cdef object _expires
    cdef dict _heads

    def __init__(self, list tags not None, object expires, list names not None, picker, *,
                 bint relaxed, bint relaxed_body, bint takes_digest):
        self._tags, self._expires, self._names, self.picker = tags, expires, names, picker
        self._relaxed, self.relaxed_body, self._takes_digest = relaxed, relaxed_body, takes_digest
        self._heads = {}

    cdef Unsigned unsigned(self, bytes body_hash, tuple picked, object now):
        """picked: of the header; now: whole seconds since 1970."""
        cdef bytes head, canonical, data
        head, canonical = self._head(now, picked[0])
        head += body_hash + b";\r\n b="
        data = <bytes>picked[1] + (canonical + body_hash + b"; b=" if self._relaxed else head)
        return Unsigned(head, sha256(data).digest() if self._takes_digest else data)

    cdef tuple _head(self, object now, bytes counts):
        """The field up to "bh=", and the same canonicalized."""
        found = self._heads.get((now, counts))
        if found is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            head = self._folded(now, counts)
            found = self._heads[now, counts] = head, relaxed_field(head)
        return <tuple>found

    def _folded(self, now, bytes counts):
        tags = [*self._tags, f"t={now}"]
        if self._expires is not None:
            tags.append(f"x={now + int(self._expires)}")
        times = [counts[2 * n] | counts[2 * n + 1] << 8 for n in range(len(self._names))]
        listed = [name for name, count in zip(self._names, times, strict=True) for _ in range(count)]
        # What may stand on one line or two: tags apart by a space, names by nothing.
        words = [f" {tag};" for tag in tags]
        words += [
            f"{' h=' if not n else ''}{name}{':' if n + 1 < len(listed) else ';'}" for n, name in enumerate(listed)
        ]
        lines = ["DKIM-Signature:"]
        for word in words:
            if len(lines[len(lines) - 1]) + len(word) <= LINE:
                lines[len(lines) - 1] += word
            else:
                lines.append(" " + word.lstrip())
        return "\r\n".join([*lines, " bh="]).encode()


def unsigned(list lines not None, hasher, body, now, bint dotted):
    """All but the last step of each line's signature: a list of Unsigned.

    hasher  gives the BodyHash by (relaxed, dotted); now: seconds since 1970, or None: the clock's
    dotted  the message is in wire form
    """
    cdef bytes header
    cdef Py_ssize_t size, place
    cdef list pieces, out = [], fields = []
    cdef dict hashes = {}
    cdef Line line
    header, size, pieces = parts(body, dotted)
    now = int(time() if now is None else now)
    for place in range(len(lines)):
        line = lines[place]
        found = hashes.get(line.relaxed_body)
        if found is None:
            digest = hasher(line.relaxed_body, dotted).digest(pieces)
            found = hashes[line.relaxed_body] = b2a_base64(digest, newline=False)
        fields.append(picked(lines, fields, line.picker, header, size, dotted))
        out.append(line.unsigned(found, fields[place], now))
    return out


cdef picked(list lines, list fields, picker, bytes header, Py_ssize_t size, bint dotted):
    """What the picker takes of the header; the same for the lines before that have the same one."""
    cdef Py_ssize_t place
    for place in range(len(fields)):
        if (<Line>lines[place]).picker is picker:
            return fields[place]
    try:
        return picker.pick(header, size, dotted)
    except ValueError as error:
        raise MessageError(f"dkim: {error}") from None


cdef tuple parts(object body, bint dotted):
    """The bytes that begin with the header section, its size, and the pieces of the body."""
    cdef list pieces = [body] if type(body) is bytes else list(body)
    cdef list views
    cdef bytes header, last
    if not pieces or (len(pieces) > 1 and (
            b"\r\n\r\n" not in pieces[0] or (dotted and not pieces[len(pieces) - 1].endswith(FINAL_DOT)))):
        pieces = [b"".join(pieces)]
    header, last = pieces[0], pieces[len(pieces) - 1]
    size = header_size(header)
    views = [memoryview(header)[size + 2:], *pieces[1:]]
    if dotted:
        if not last.endswith(FINAL_DOT):
            raise MessageError("dkim: the message does not end with the final dot, so it is not in wire form")
        view = memoryview(views[len(views) - 1])
        views[len(views) - 1] = view[:max(0, len(view) - len(FINAL_DOT))]
        if size == len(header):     # no body, not even an empty line
            size, views = size - len(FINAL_DOT), []
    return header, size, views
