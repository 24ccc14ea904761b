from bulkmail.wire.kernels cimport bm_row

# The kernels in use, for the modules that link none of their own: one table for all, so that force_row rules them all.
cdef const bm_row* kernels() noexcept nogil

# A whole message as the DATA phase needs it, its final dot included. p[0..n) stays alive and unchanged during the call:
# the GIL may be released, and the output is sized before it is written. Raises MemoryError, nothing else.
cdef bytes encode_message_c(const unsigned char* p, Py_ssize_t n)

# What encode_message made, without its escapes and its final dot: the content as BDAT wants it. A view of `body` where
# no dot was escaped, else bytes.
# Of a tuple of pieces, each of which begins a line: a tuple of the same.
cdef object bare_content(object body)
cpdef object undotted(object text, int carry)
