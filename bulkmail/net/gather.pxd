cdef object gather(int fd, object out, Py_ssize_t* taken, int* error)
