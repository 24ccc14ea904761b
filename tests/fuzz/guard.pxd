# Not one byte behind a bytes object may be read by what AddressSanitizer watches.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from *:
    """
    #if defined(__has_feature)
    #if __has_feature(address_sanitizer)
    #include <sanitizer/asan_interface.h>
    #define bm_forbid(p, n) ASAN_POISON_MEMORY_REGION(p, n)
    #define bm_allow(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
    #endif
    #endif
    #ifndef bm_forbid
    #define bm_forbid(p, n) ((void)(p), (void)(n))
    #define bm_allow(p, n) ((void)(p), (void)(n))
    #endif

    /* How much lies behind `end` in its block: the NUL, and what fills up the 16 bytes in which Python's allocator
     * counts. Within it AddressSanitizer sees no blocks, but it heeds what it is told. */
    static size_t bm_rest(const char *end) { return 16 - ((size_t)end & 15); }
    """
    void bm_forbid(const void *p, size_t n)
    void bm_allow(const void *p, size_t n)
    size_t bm_rest(const char *end)


cdef inline void forbid_behind(bytes data):
    cdef const char* end = PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)
    if PyBytes_GET_SIZE(data) > 1:      # shorter ones are Python's own, everybody's
        bm_forbid(end, bm_rest(end))


cdef inline void allow_behind(bytes data):
    """Before its memory becomes another's, who would not know."""
    cdef const char* end = PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)
    if PyBytes_GET_SIZE(data) > 1:
        bm_allow(end, bm_rest(end))
