# Blocks of a file that rows are read from again and again: hundreds of routes, whose rows lie between each other,
# go through the same part of a list at about the same time.
#
# `RowWindow` is for rows that follow each other: those of a list of few routes.
#
# Owns      at most SLOTS blocks of BLOCK bytes: 8 MiB, and what is asked for spans some 4 MB with 200 routes.
#           A window is a buffer of WINDOW bytes.
# Promises  what pread() gave; whoever asks looks whether the file was changed. POSIX only: elsewhere nothing is found.

import sys

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    #ifdef _WIN32
    #define bm_posix_pread(fd, data, n, at) (-1)
    static int bm_posix_is(int fd, int64_t size, int64_t mtime_ns) { return 0; }
    #else
    #include <sys/stat.h>
    #include <unistd.h>
    #define bm_posix_pread pread
    #ifdef __APPLE__
    #define bm_mtime st_mtimespec
    #else
    #define bm_mtime st_mtim
    #endif
    static int bm_posix_is(int fd, int64_t size, int64_t mtime_ns) {
        struct stat now;
        return fstat(fd, &now) == 0 && now.st_size == size
            && (int64_t)now.bm_mtime.tv_sec * 1000000000 + now.bm_mtime.tv_nsec == mtime_ns;
    }
    #endif
    """
    Py_ssize_t bm_posix_pread(int fd, void *data, size_t n, int64_t at) nogil
    bint bm_posix_is(int fd, int64_t size, int64_t mtime_ns) nogil

from libc.string cimport memchr

HAVE_PREAD = sys.platform != "win32"

cdef enum:
    ENOUGH = 8  # rows of one block that were wanted: reading it whole costs as much as reading these


cdef Py_ssize_t bm_pread(int fd, void *data, size_t n, int64_t at) noexcept:
    return bm_posix_pread(fd, data, n, at)


cdef class Blocks:
    """Of one file, which does not change."""

    def __cinit__(self):
        cdef Py_ssize_t slot
        for slot in range(SLOTS):
            self._block[slot] = -1

    def __dealloc__(self):
        cdef Py_ssize_t slot
        for slot in range(SLOTS):
            free(self._data[slot])

    cdef const char *find(self, int fd, int64_t at, Py_ssize_t *size) noexcept:
        """The file from `at` to the end of its block, and how much that is; NULL where the block is seldom wanted."""
        cdef int64_t block = at // BLOCK, start = block * BLOCK
        cdef Py_ssize_t slot = block % SLOTS
        if self._block[slot] != block:
            self._block[slot], self._asked[slot], self._size[slot] = block, 0, 0
        if self._size[slot] == 0:
            self._asked[slot] += 1
            if self._asked[slot] < ENOUGH or not self._read(fd, slot, start):
                return NULL
        size[0] = start + self._size[slot] - at
        return self._data[slot] + (at - start) if size[0] > 0 else NULL

    cdef bint _read(self, int fd, Py_ssize_t slot, int64_t start) noexcept:
        self._asked[slot] = 0
        if self._data[slot] == NULL:
            self._data[slot] = <char *>malloc(BLOCK)
            if self._data[slot] == NULL:
                return False
        self._size[slot] = max(0, bm_pread(fd, self._data[slot], BLOCK, start))
        return self._size[slot] > 0


cdef class RowWindow:
    """Rows of one file, each a line, by where they begin.

    fd, size, mtime_ns   the file as it was when the rows' places were noted
    blocks               for rows that lie FAR apart
    """

    def __cinit__(self, int fd, int64_t size, int64_t mtime_ns, Blocks blocks not None):
        self._fd, self._size, self._mtime_ns, self._blocks = fd, size, mtime_ns, blocks
        self._data = <char *>malloc(WINDOW)
        if self._data is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._data)

    cdef bint unchanged(self) noexcept:
        """The file is what it was."""
        return bm_posix_is(self._fd, self._size, self._mtime_ns)

    cdef const char *row(self, int64_t at, int64_t wanted, bint far, Py_ssize_t *size) noexcept:
        """The row that begins at `at`, without its line end, until the next call; NULL: it is longer than a window,
        or not there.

        wanted  bytes from there on in which others are wanted too
        far     not many of them: this row is read by itself, or found in a block
        """
        cdef const char *found = self._held(at, size)
        cdef const char *block
        cdef Py_ssize_t n = 0
        if found is not NULL:
            return found
        if far:
            block = self._blocks.find(self._fd, at, &n)
            if block is not NULL and self._line(block, n, at, size):
                return block
        # Who goes on where the window ends goes on further.
        if self._held_size and 0 <= at - self._base < self._held_size + FAR_ROW:
            wanted = WINDOW
        wanted = FAR_ROW if far else min(max(wanted, FAR_ROW) + FAR_ROW, WINDOW)
        while True:
            self._base, self._held_size = at, max(0, bm_pread(self._fd, self._data, wanted, at))
            found = self._held(at, size)
            if found is not NULL or wanted == WINDOW:
                return found
            wanted = WINDOW

    cdef const char *_held(self, int64_t at, Py_ssize_t *size) noexcept:
        cdef int64_t skip = at - self._base
        if skip < 0 or skip >= self._held_size:
            return NULL
        return self._data + skip if self._line(self._data + skip, self._held_size - skip, at, size) else NULL

    cdef bint _line(self, const char *p, Py_ssize_t n, int64_t at, Py_ssize_t *size) noexcept:
        cdef const char *hit = <const char *>memchr(p, c"\n", n)
        size[0] = n if hit is NULL else hit - p
        return hit is not NULL or at + n >= self._size
