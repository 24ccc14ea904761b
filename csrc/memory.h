/* Keeping the memory that messages were in for those that follow. Used by bulkmail/job/settle.pyx. */
#ifndef BULKMAIL_MEMORY_H
#define BULKMAIL_MEMORY_H

#include <stddef.h>
#ifndef _WIN32
#include <stdlib.h> /* defines __GLIBC__ where it is */
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Tells the allocator to give the top of the heap back to the system only when more than `bytes` of it are free. Large
 * messages are made and freed by the batch; giving their pages back each time costs more than making the messages.
 * For the whole process; does nothing where the C library is not glibc. */
static inline void bm_keep_freed_memory(size_t bytes)
{
#ifdef __GLIBC__
    mallopt(M_TRIM_THRESHOLD, bytes > 0x7fffffff ? 0x7fffffff : (int)bytes);
#else
    (void)bytes;
#endif
}
#endif
