/* One system call for several buffers, straight to a non-blocking socket. Used by bulkmail/net/gather.pyx. */
#ifndef BULKMAIL_GATHER_H
#define BULKMAIL_GATHER_H

#include <stddef.h>

/* Sends buffers[0..count) in order, count <= BM_GATHER_MAX. Returns how many bytes the kernel took (it may be fewer than
 * given), or -1 if none, and sets errno. Never blocks, never raises SIGPIPE, needs no GIL. On Windows always -1, as if
 * there was no room: the event loop's transport then writes. */
#define BM_GATHER_MAX 256

/* Whether the last -1 means that there is no room now, and that it can be tried again. */
static inline int bm_gather_full(void);

#ifdef _WIN32
static inline ptrdiff_t bm_gather(int fd, const char *const *buffers, const size_t *sizes, int count)
{
    (void)fd, (void)buffers, (void)sizes, (void)count;
    return -1;
}
static inline int bm_gather_full(void) { return 1; }
#else
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: Python ignores SIGPIPE for the whole process */
#endif

static inline ptrdiff_t bm_gather(int fd, const char *const *buffers, const size_t *sizes, int count)
{
    struct iovec parts[BM_GATHER_MAX];
    struct msghdr message = {0};
    for (int i = 0; i < count; i++) {
        parts[i].iov_base = (void *)buffers[i];
        parts[i].iov_len = sizes[i];
    }
    message.msg_iov = parts;
    message.msg_iovlen = count;
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}
static inline int bm_gather_full(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }
#endif
#endif
