cdef enum:
    MAX_NAMES = 64

cdef struct Name:
    const char *text
    Py_ssize_t size

# The fields that are looked for; "email" is the first.
cdef struct Names:
    Name items[MAX_NAMES]
    int count

# The value of one of them as it stands in the row; quoted: a string, without its quotes; text NULL: there is none.
cdef struct Field:
    const char *text
    Py_ssize_t size
    bint quoted

cdef bint flat_fields(const char *p, Py_ssize_t n, const Names *names, Field *fields) noexcept nogil
cdef bint all_there(const Names *names, const Field *fields) noexcept nogil
cdef int name_fields(Names *names, list held) except -1
