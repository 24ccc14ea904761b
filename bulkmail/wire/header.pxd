cdef struct Head:
    Py_ssize_t end              # of the header section, the empty line behind it not counted
    bint begins                 # it begins with a field
    bint blind                  # there is a Bcc or Resent-Bcc

# What is to be known of a message whose line ends are CRLF.
cdef Head look(bytes content)
cdef object message_id_c(bytes content)
