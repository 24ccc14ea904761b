from libc.stdint cimport uint64_t

# A value of a recipient's as their row has it: UTF-8 of a string, or the digits of a whole number. text NULL: none.
cdef struct Value:
    const char* text
    Py_ssize_t size
    bint number

# Makes the message of one recipient after another: what Compiled.making() gives.
cdef class Making:
    cdef object of_row(self, dict row, uint64_t number)
    cdef object of_values(self, Value* values, uint64_t number)
    cdef bytes sender(self)
