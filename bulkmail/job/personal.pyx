# From rows of a list to transactions, with no object for what lies between: a row of the usual kind is found in the file's
# bytes, its fields go from there into the message, and the address into the envelope. Of a message that is the same for
# all only the address is wanted.
#
# Owns      a window of the list, and what it knows of the message's fields.
# Promises  the transactions, or addresses, that reading the rows and Compiled.compose make: every row that is not of the
#           usual kind goes that way. tests/unit/job/test_personal.py holds the two against each other.
# Errors    as Source.read has them; a recipient whose message cannot be composed is handed back with the error.
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from bulkmail.job.flat_rows cimport MAX_NAMES, Field, Names, flat_fields, name_fields
from bulkmail.job.row_blocks cimport FAR, RowWindow
from bulkmail.job.settle cimport Work
from bulkmail.message.compiled cimport Making, Value
from bulkmail.wire.transaction cimport EIGHT_BIT, UTF8, personal

from bulkmail.job.rows import RowParser
from bulkmail.message.compiled import not_composed

MAX_SLOTS = MAX_NAMES

cdef enum:
    MAX_DIGITS = 18     # of a number that is as it was written, whoever reads it


cdef class FromRows:
    """source: rows, whose `window` this is; slots: the fields that are looked for, the first is "email"."""

    cdef object source, parser
    cdef RowWindow window
    cdef Names names
    cdef list name_bytes
    cdef const int64_t* offsets     # of the chunk in hand
    cdef int64_t end                # where the last of the rows begins that are wanted of it
    cdef bint far

    def __init__(self, source, RowWindow window not None, slots):
        self.source, self.window, self.parser = source, window, RowParser("jsonl")
        self.name_bytes = [name.encode() for name in slots]
        name_fields(&self.names, self.name_bytes)

    cdef int begin(self, Work work, list places) except -1:
        """Rows of these positions of a chunk, at least one, will be asked for."""
        cdef int64_t first
        if not self.window.unchanged():
            self.source.read([])            # which says so
        self.offsets = <const int64_t*>(<array.array>work.offsets).data.as_longlongs
        first, self.end = self.offsets[<Py_ssize_t>places[0]], self.offsets[<Py_ssize_t>places[len(places) - 1]]
        self.far = self.end - first > <int64_t>len(places) * FAR
        return 0

    cdef const char* row(self, Py_ssize_t place, Py_ssize_t* size) noexcept:
        """As RowWindow.row."""
        return self.window.row(self.offsets[place], self.end - self.offsets[place], self.far, size)

    cdef bint usual(self, const char* row, Py_ssize_t size, Field* fields) noexcept:
        """Whether the row is of the usual kind, and its fields."""
        if size and row[size - 1] == c"\r":
            size -= 1
        return flat_fields(row, size, &self.names, fields)

    cdef dict decoded(self, const char* row, Py_ssize_t size, int64_t offset):
        """A row that is not of the usual kind, or not in a window."""
        cdef list rows = []
        if row is not NULL:
            try:
                self.parser.parse_at(PyBytes_FromStringAndSize(row, size), offset, [offset], 0, True, rows)
            except ValueError:
                pass
        return rows[0] if rows else self.source.read([offset])[0]


cdef class Addresses(FromRows):
    """The recipients of a message that is the same for all."""

    def __init__(self, source, RowWindow window not None):
        FromRows.__init__(self, source, window, ("email",))

    def read(self, Work work not None, list places not None):
        """The addresses, for RCPT, at these positions of a chunk."""
        cdef list found = []
        cdef Field field
        cdef const char* row
        cdef Py_ssize_t place, size = 0
        if not places:
            return found
        self.begin(work, places)
        for place in places:
            row = self.row(place, &size)
            if row is not NULL and self.usual(row, size, &field):
                found.append(PyBytes_FromStringAndSize(field.text, field.size))
            else:
                found.append(self.decoded(row, size, self.offsets[place])["email"].encode())
        return found


cdef class Personal(FromRows):
    """compiled: a message of each recipient's own that is `plain`; source: its rows, whose `window` this is."""

    cdef object compiled
    cdef Making making
    cdef bytes date
    cdef int same
    cdef bytes sender           # whose `ascii` is known
    cdef bint ascii

    def __init__(self, compiled, source, RowWindow window not None):
        FromRows.__init__(self, source, window, compiled.slots)
        self.compiled, self.same = compiled, EIGHT_BIT if compiled.eight_bit else 0

    def make(self, Work work not None, list places not None, bytes date not None):
        """(transactions, [(position, address, exception)]) for these positions of a chunk. date: the value of Date."""
        cdef list made = [], failed = []
        cdef const int64_t* numbers = <const int64_t*>(<array.array>work.numbers).data.as_longlongs
        cdef Py_ssize_t place
        if not places:
            return made, failed
        if date != self.date:
            self.date, self.making = date, self.compiled.making(date)
        self.begin(work, places)
        for place in places:
            self.one(work, place, numbers[place], made, failed)
        return made, failed

    cdef int one(self, Work work, Py_ssize_t place, int64_t number, list made, list failed) except -1:
        cdef Value values[MAX_NAMES]
        cdef Py_ssize_t size = 0
        cdef const char* row = self.row(place, &size)
        cdef dict fields = None
        cdef bytes rcpt
        cdef bint plain = False
        if row is NULL or not self.values_of(row, size, values):
            fields = self.decoded(row, size, self.offsets[place])
        try:
            if fields is None:
                body = self.making.of_values(values, number)
                rcpt, plain = PyBytes_FromStringAndSize(values[0].text, values[0].size), True
            else:
                body = self.making.of_row(fields, number)
                rcpt = fields["email"].encode()
                plain = rcpt.isascii()
            sender = self.making.sender()
        except Exception as error:
            address = values[0].text[:values[0].size].decode() if fields is None else fields["email"]
            failed.append((place, address, not_composed(error)))
            return 0
        if sender is not self.sender:
            self.sender, self.ascii = sender, sender.isascii()
        made.append(personal(sender, rcpt, body, self.same if plain and self.ascii else UTF8 | EIGHT_BIT, work, place))
        return 0

    cdef bint values_of(self, const char* row, Py_ssize_t size, Value* values) noexcept:
        """Whether the row is of the usual kind, and what the message takes of it is strings and whole numbers."""
        cdef Field fields[MAX_NAMES]
        cdef int which
        if not self.usual(row, size, fields):
            return False
        for which in range(self.names.count):
            values[which].text, values[which].size = fields[which].text, fields[which].size
            values[which].number = False
            if fields[which].text is not NULL and not fields[which].quoted:
                if not is_whole(fields[which].text, fields[which].size):
                    return False
                values[which].number = True
        return True


cdef inline bint is_whole(const char* text, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    if size > MAX_DIGITS:
        return False
    for i in range(size):
        if not c"0" <= text[i] <= c"9":
            return False
    return True
