# Recipients' rows: bytes of a file in, dicts out. No files, clocks or logs.
#
# A row is found by its line end in C (a CSV row by its quotes too), decoded by orjson or here, and its address checked
# in C when it is a plain one: what is in doubt goes to `address.check_address`, which is the rule.
#
# Owns      nothing of the input; a parser keeps counts (rows, lines) and whether it is inside a row that is too long.
# Promises  rows do not depend on how the file was cut into blocks; `parse_at` gives the dict that `take` gave.
# Errors    a bad row is a reason in the batch, never an exception; ValueError only from parse_at.

import json
from collections import namedtuple

import orjson

from bulkmail.address import check_address
from bulkmail.job.packing import pack_rows, unpack_rows

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport fabs
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr

from bulkmail.job.csv_records cimport csv_end, csv_fields
from bulkmail.job.cutting cimport Cutter
from bulkmail.job.flat_rows cimport Field, MAX_NAMES, Names, all_there, flat_fields, name_fields
from bulkmail.job.row_blocks cimport Blocks, FAR, FAR_ROW, bm_pread
from bulkmail.wire.plain_address cimport is_plain

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)
    str PyUnicode_DecodeASCII(const char *text, Py_ssize_t size, const char *errors)
    PyObject *PyDict_GetItem(object mapping, object key)

JSONL, CSV, TEXT = "jsonl", "csv", "text"

# A bad row: its number among the data rows and its line in the file, both from 1, and a reason.
RowProblem = namedtuple("RowProblem", "number line reason")

# A row holds one person's fields; a mebibyte is some thousand times the usual and still little to hold in memory.
MAX_ROW = 1 << 20
cdef Py_ssize_t ROW_BOUND = MAX_ROW

# From here on a double no longer tells an integer from its neighbour (orjson makes one of integers beyond 64 bits).
cdef double BIG = 9.2e18

cdef enum:
    NUL = 1         # what a row's text may hold besides plain values
    LINE_BREAK = 2
    NULL_VALUE = 4
    BIG_NUMBER = 8
    TOO_DEEP = 16

# Levels of lists and objects in a row: templates use two or three, and what walks a row may recurse.
MAX_DEPTH = 64
cdef int DEPTH_BOUND = MAX_DEPTH

cdef object _loads = orjson.loads
cdef object _EMAIL = "email"


# ---- one row ---------------------------------------------------------------------------------------------------------

cdef bint _plain_text(object text) noexcept:
    return PyUnicode_IS_ASCII(text) and is_plain(<const uint8_t *>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))


cdef int _escapes(const char *p, Py_ssize_t n) noexcept nogil:
    """NUL and LINE_BREAK where a JSON text has them as escapes. (Raw ones inside strings are not JSON.)"""
    cdef const char *end = p + n
    cdef int found = 0
    while True:
        p = <const char *>memchr(p, c"\\", end - p)
        if p == NULL or end - p < 2:
            return found
        if p[1] == c"n" or p[1] == c"r":
            found |= LINE_BREAK
        elif p[1] == c"u" and end - p >= 6 and p[2] == c"0" and p[3] == c"0" and p[4] == c"0":
            if p[5] == c"0":
                found |= NUL
            elif p[5] == c"a" or p[5] == c"A" or p[5] == c"d" or p[5] == c"D":
                found |= LINE_BREAK
        p += 2


cdef int _odd_values(object value, int depth) except -1:
    """NULL_VALUE (a field itself), BIG_NUMBER (anywhere) and TOO_DEEP in a decoded row."""
    cdef PyObject *held
    cdef Py_ssize_t pos = 0
    cdef int found = 0
    if depth >= DEPTH_BOUND:
        return TOO_DEEP
    if isinstance(value, dict):
        while PyDict_Next(value, &pos, NULL, &held):
            if <object>held is None:
                if depth == 0:
                    found |= NULL_VALUE
            elif PyFloat_CheckExact(<object>held):
                if fabs(PyFloat_AS_DOUBLE(<object>held)) >= BIG:
                    found |= BIG_NUMBER
            elif isinstance(<object>held, (dict, list)):
                found |= _odd_values(<object>held, depth + 1)
    else:
        for item in <list>value:
            if PyFloat_CheckExact(item):
                if fabs(PyFloat_AS_DOUBLE(item)) >= BIG:
                    found |= BIG_NUMBER
            elif isinstance(item, (dict, list)):
                found |= _odd_values(item, depth + 1)
    return found


def _has_break(value) -> bool:
    """Whether a CR or LF stands in a value, or in any string inside it: a template may print any part of it."""
    if isinstance(value, str):
        return "\n" in value or "\r" in value
    if isinstance(value, dict):
        return any(_has_break(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_break, value))


def _shown(value, limit=60) -> str:
    """A value for an error sentence: one printable line, bounded."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "something deeply nested"
    if not text.isprintable():
        text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def lacking(name) -> str:
    """Why a row without this field is bad."""
    return f"no {_shown(name)}, which the message uses; add it, or give it in `defaults`"


def _not_utf8(error) -> str:
    return f"not valid UTF-8 (byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the row)"


# ---- rows ------------------------------------------------------------------------------------------------------------

cdef class RowParser:
    """Rows of one source.

    format      "jsonl", "csv" or "text"
    columns     CSV: the header's names; "" for a column that is left out of the rows
    delimiter   CSV: one ASCII character
    required    fields that each row must have; a row without one is a bad row
    breakless   fields whose values must hold no CR or LF; a row with one is marked failed ("email" always is one)
    keep        False: take() gives no rows, only addresses; a usual JSON row is then checked without decoding it

    number, line, skipping   data rows and lines taken so far, and whether it is inside a row that is too long: with these
                             another parser goes on where this one is
    """

    cdef int kind
    cdef list columns
    cdef char delimiter
    cdef tuple required, breakless
    cdef bint keep
    cdef bint flat                  # JSON rows of the usual kind are only looked at
    cdef Names names                # `required`, as bytes that name_bytes holds
    cdef list name_bytes
    cdef readonly bint skipping     # inside a line of a row that was already called too long
    cdef readonly Py_ssize_t number, line
    cdef int flags                  # of the row in hand
    cdef str reason, failure        # why it is bad; why its recipient fails
    cdef bint unclosed              # CSV: record_end() stopped inside quotes

    def __init__(self, str format not None, *, columns=(), str delimiter=",", required=(), breakless=(),
                 Py_ssize_t number=0, Py_ssize_t line=0, bint skipping=False, bint keep=True):
        self.kind = (JSONL, CSV, TEXT).index(format)
        self.columns = list(columns)
        self.delimiter = ord(delimiter)
        self.required = tuple(sorted(required))
        self.breakless = ("email", *sorted(set(breakless) - {"email"}))
        self.number, self.line, self.skipping = number, line, skipping
        self.keep = keep
        self.flat = not keep and self.kind == 0 and len(self.required) < MAX_NAMES
        if self.flat:
            self.hold_names()

    cdef int hold_names(self) except -1:
        others = [name for name in self.required if name != "email"]
        self.name_bytes = [name.encode("utf-8", "surrogatepass") for name in ("email", *others)]
        return name_fields(&self.names, self.name_bytes)

    def take(self, bytes data not None, Py_ssize_t pos, int64_t base, bint final, batch, Py_ssize_t limit,
             Cutter cutter=None):
        """Parse rows from data[pos:] into the batch until it has `limit` rows (bad ones too) or data runs out.

        base     offset of data[0] in the file
        final    data ends where the file ends
        batch    has lists: numbers, offsets, addresses, rows, problems, failed; and cut
        cutter   takes rows that are good and whose recipient does not fail; they are in no list, and `cut` counts them
        returns  where to go on. Short of len(data) with room in the batch: a row is cut, give more.
        """
        cdef const char *p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data), size, length
        cdef const char *hit
        cdef Field fields[MAX_NAMES]
        cdef list addresses = batch.addresses, numbers = batch.numbers, offsets = batch.offsets, rows = batch.rows
        cdef list problems = batch.problems, failed = batch.failed
        cdef Py_ssize_t cut = batch.cut
        cdef dict row
        if cutter is not None and cutter.only is None:
            raise ValueError("rows of several routes cannot go straight to their cutter")
        while pos < n and len(numbers) + len(problems) + cut < limit:
            if self.skipping:
                hit = <const char *>memchr(p + pos, c"\n", n - pos)
                if hit == NULL:
                    pos = n
                    break
                pos = hit - p + 1
                self.skipping = False
                self.line += 1
                continue
            size = self.record_end(p + pos, n - pos)
            if size < 0 and not final and n - pos <= ROW_BOUND:
                break
            if size > ROW_BOUND or size < 0 and (self.unclosed or n - pos > ROW_BOUND):
                self.number += 1
                problems.append(RowProblem(self.number, self.line + 1, self.unreadable(n - pos)))
                pos = self.after_line(p, pos, n, final)
                continue
            if size < 0:
                size = n - pos
            if self.flat:
                length = size - 1 if size and p[pos + size - 1] == c"\r" else size
                if flat_fields(p + pos, length, &self.names, fields) and all_there(&self.names, fields):
                    self.number += 1
                    self.line += 1
                    if cutter is not None:
                        cutter.straight(self.number, base + pos)
                        cut += 1
                    else:
                        numbers.append(self.number)
                        offsets.append(base + pos)
                        addresses.append(PyUnicode_DecodeASCII(fields[0].text, fields[0].size, NULL))
                    pos += size + 1
                    continue
            row = self.row(p + pos, size)
            if row is not None:
                self.settle(row)
            if self.reason is not None:
                self.number += 1
                problems.append(RowProblem(self.number, self.line + 1, self.reason))
            elif row is not None:
                self.number += 1
                if self.failure is not None:
                    failed.append((len(numbers), self.failure))
                if cutter is not None and self.failure is None:
                    cutter.straight(self.number, base + pos)
                    cut += 1
                else:
                    numbers.append(self.number)
                    offsets.append(base + pos)
                    addresses.append(row["email"])
                    if self.keep:
                        rows.append(row)
            self.line += self.lines(p + pos, size)
            pos += size + 1
        batch.cut = cut
        return min(pos, n)

    def parse_at(self, bytes data not None, int64_t base, list offsets not None, Py_ssize_t i, bint final,
                 list rows not None):
        """Append the rows at offsets[i:] to `rows`, as many as lie whole in data, which begins at `base` in the file.

        returns  the first index not done
        raises   ValueError: there is no good row at an offset, so the file is not what it was
        """
        cdef const char *p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data), count = len(offsets), size
        cdef int64_t pos
        cdef dict row
        while i < count:
            pos = <int64_t>offsets[i] - base
            if pos < 0 or pos >= n:
                break
            size = self.record_end(p + pos, n - pos)
            if size < 0:
                if not final and n - pos <= ROW_BOUND:
                    break
                size = n - pos
            row = self.row(p + pos, size)
            if row is not None and self.reason is None:
                self.settle_address(row)
            if row is None or self.reason is not None:
                raise ValueError(f"byte {offsets[i]}: {self.reason or 'nothing there'}")
            rows.append(row)
            i += 1
        return i

    def parse_far(self, int fd, list offsets not None, Py_ssize_t i, list rows not None, Blocks blocks not None):
        """As parse_at for rows that lie FAR from each other: each is read by itself, or in a block. Stops where one is long.

        Nothing is done on systems that have no pread().
        """
        cdef char data[FAR_ROW]
        cdef const char *block
        cdef Py_ssize_t n = 0, count = len(offsets)
        cdef int64_t pos
        if i < count and <int64_t>offsets[count - 1] - <int64_t>offsets[i] < (count - i) * FAR:
            return i
        while i < count:
            pos = offsets[i]
            block = blocks.find(fd, pos, &n)
            if block != NULL and self.parse_far_row(block, n, pos, rows) >= 0:
                i += 1
                continue
            n = bm_pread(fd, data, FAR_ROW, pos)
            if n <= 0 or self.parse_far_row(data, n, pos, rows) < 0:
                break
            i += 1
        return i

    cdef Py_ssize_t parse_far_row(self, const char *p, Py_ssize_t n, int64_t at, list rows) except -2:
        cdef dict row
        cdef Py_ssize_t size = self.record_end(p, n)
        if size < 0:
            return -1
        row = self.row(p, size)
        if row is not None and self.reason is None:
            self.settle_address(row)
        if row is None or self.reason is not None:
            raise ValueError(f"byte {at}: {self.reason or 'nothing there'}")
        rows.append(row)
        return size

    # -- where a row ends

    cdef Py_ssize_t record_end(self, const char *p, Py_ssize_t n) noexcept:
        """Index of the LF that ends the row at p, or -1. A CSV field that opens with a quote may hold LFs."""
        cdef const char *hit = <const char *>memchr(p, c"\n", n)
        cdef Py_ssize_t size = n if hit == NULL else hit - p
        self.unclosed = False
        if self.kind == 1 and memchr(p, c'"', size) != NULL:
            return csv_end(p, n, self.delimiter, &self.unclosed)
        return -1 if hit == NULL else size

    cdef str unreadable(self, Py_ssize_t left):
        if self.unclosed and left <= ROW_BOUND:
            return 'a quoted field is never closed; a quote inside a quoted field is written twice ("")'
        if self.unclosed:
            return f"a quoted field is not closed within {MAX_ROW} bytes"
        return f"longer than {MAX_ROW} bytes; a row is one recipient on one line"

    cdef Py_ssize_t after_line(self, const char *p, Py_ssize_t pos, Py_ssize_t n, bint final) noexcept:
        """Behind the line at pos: reading goes on there, so that one stray quote costs one line and not the rest."""
        cdef const char *hit = <const char *>memchr(p + pos, c"\n", n - pos)
        if hit == NULL:
            self.skipping = not final
            return n
        self.line += 1
        return hit - p + 1

    cdef Py_ssize_t lines(self, const char *p, Py_ssize_t size) noexcept:
        cdef Py_ssize_t i, count = 1
        if self.kind == 1 and self.flags & LINE_BREAK:
            for i in range(size):
                count += p[i] == c"\n"
        return count

    # -- what a row holds

    cdef dict row(self, const char *p, Py_ssize_t size):
        """The fields as given; None for a blank line (reason is None) or a bad row (reason says why)."""
        self.reason = self.failure = None
        self.flags = 0
        if size and p[size - 1] == c"\r":
            size -= 1
        if size == 0:
            return None
        if self.kind == 0:
            return self.json_row(p, size)
        if memchr(p, 0, size) != NULL:
            self.reason = "a NUL byte"
            return None
        try:
            return self.csv_row(p, size) if self.kind == 1 else self.text_row(p, size)
        except UnicodeDecodeError as error:
            self.reason = _not_utf8(error)
        except ValueError as error:
            self.reason = f"not CSV: {error}"

    cdef dict json_row(self, const char *p, Py_ssize_t size):
        cdef bytes raw = PyBytes_FromStringAndSize(p, size)
        cdef int odd
        if raw[0] <= 32 and not raw.strip():
            return None
        try:
            row = _loads(raw)
        except ValueError as error:
            self.reason = self.not_json(raw, error)
            return None
        if not isinstance(row, dict):
            self.reason = f'not a JSON object such as {{"email": "ann@example.com"}} but {_shown(row)}'
            return None
        if memchr(p, c"\\", size) != NULL:
            self.flags = _escapes(p, size)
            if self.flags & NUL:
                self.reason = "a NUL (\\u0000)"
                return None
        odd = _odd_values(row, 0)
        if odd & TOO_DEEP:
            self.reason = f"nested more than {MAX_DEPTH} levels deep"
            return None
        if odd & BIG_NUMBER:
            row = json.loads(raw)
        if odd & NULL_VALUE:
            row = {name: value for name, value in row.items() if value is not None}
        return row

    cdef str not_json(self, bytes raw, error):
        if b"\0" in raw:
            return "a NUL byte"
        try:
            raw.decode()
        except UnicodeDecodeError as bad:
            return _not_utf8(bad)
        if b"\\u" in raw and "surrogate" in str(error):
            return "half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        return f"not JSON: {error}"

    cdef dict text_row(self, const char *p, Py_ssize_t size):
        text = PyUnicode_DecodeUTF8(p, size, NULL).strip()
        return {"email": text} if text else None

    cdef dict csv_row(self, const char *p, Py_ssize_t size):
        cdef list fields
        cdef dict row = {}
        cdef Py_ssize_t i
        if memchr(p, c"\n", size) != NULL or memchr(p, c"\r", size) != NULL:
            self.flags = LINE_BREAK
        fields = csv_fields(p, size, self.delimiter)
        if len(fields) != len(self.columns):
            self.reason = f"{len(fields)} fields where the header has {len(self.columns)}"
            return None
        for i in range(len(fields)):
            row[self.columns[i]] = fields[i]
        row.pop("", None)
        return row

    # -- what a row must be

    cdef int settle(self, dict row) except -1:
        """Sets reason, or failure and row["email"] as the envelope takes it."""
        self.settle_address(row)
        if self.reason is not None:
            return 0
        for name in self.required:
            if name not in row:
                self.reason = lacking(name)
                return 0
        if self.flags & LINE_BREAK and self.failure is None:
            for name in self.breakless:
                if _has_break(row.get(name)):
                    self.failure = f"the field {_shown(name)} has a line break and would reach a header: refused"
                    break
        return 0

    cdef int settle_address(self, dict row) except -1:
        cdef PyObject *held = PyDict_GetItem(row, _EMAIL)
        if held == NULL:
            self.reason = self.no_email(row)
            return 0
        address = <object>held
        if not isinstance(address, str):
            self.reason = f'"email" is not a string but {_shown(address)}'
            return 0
        if _plain_text(address):
            return 0
        if self.flags & LINE_BREAK and _has_break(address):
            self.failure = "the address has a line break and would reach the envelope: refused"
            return 0
        try:
            row["email"] = check_address(address)
        except ValueError as error:
            self.reason = str(error)
        return 0

    cdef str no_email(self, dict row):
        if not row:
            return 'no "email": the object is empty'
        names = ", ".join(_shown(name, 30) for name in list(row)[:5])
        return f'no "email"; it has {names}'
