/* Readiness of many sockets, and a timer that is finer than an event loop's: epoll(7) and timerfd_create(2) of Linux.
 * Used by bulkmail/net/hub.pyx. Elsewhere BM_EVENTS is 0, every call fails and nobody calls.
 *
 * Nothing here allocates or needs the GIL. Descriptors are closed on exec. What fails returns -1 and sets errno.
 */
#ifndef BULKMAIL_EVENTS_H
#define BULKMAIL_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __linux__
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BM_EVENTS 1
enum { BM_IN = EPOLLIN, BM_OUT = EPOLLOUT };
typedef struct epoll_event bm_event;

static inline int bm_events_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

/* Watches `fd` for `what`, BM_IN | BM_OUT; errors and hang-ups are told besides. before: what it was watched for until
 * now; 0: not at all, and then nothing of it is told, hang-ups included. `owner` comes back with each event. */
static inline int bm_events_watch(int set, int fd, unsigned before, unsigned what, void *owner) {
    struct epoll_event event = {.events = what, .data.ptr = owner};
    return epoll_ctl(set, !what ? EPOLL_CTL_DEL : before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

/* Whether `inner`, a set that is watched for BM_IN, tells nothing for now. It stays known to `set`, so that this cannot
 * fail for want of memory, and costs less than to take it out and in. */
static inline int bm_events_mute(int set, int inner, int muted) {
    struct epoll_event event = {.events = muted ? 0 : BM_IN, .data.ptr = NULL};
    return epoll_ctl(set, EPOLL_CTL_MOD, inner, &event);
}

/* What is ready now, at most `most`: how many. Never waits. */
static inline int bm_events_take(int set, bm_event *found, int most) { return epoll_wait(set, found, most, 0); }
static inline void *bm_event_owner(const bm_event *event) { return event->data.ptr; }
static inline unsigned bm_event_what(const bm_event *event) { return event->events; }

/* CLOCK_MONOTONIC, in nanoseconds. */
static inline int64_t bm_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Its descriptor can be read once the time that was set has come, until another is set. */
static inline int bm_timer_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }

/* at: by bm_now(), above 0; 0: never. */
static inline int bm_timer_set(int timer, int64_t at) {
    struct itimerspec when = {{0, 0}, {(time_t)(at / 1000000000), (long)(at % 1000000000)}};
    return timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static inline void bm_events_close(int fd) { close(fd); }

/* As recv(2), never waiting. */
static inline ptrdiff_t bm_receive(int fd, void *buffer, size_t size) { return recv(fd, buffer, size, MSG_DONTWAIT); }

/* Whether `set` has something ready within `most` nanoseconds, looked for without sleeping: who is to answer may be
 * waiting for this very processor, so it is offered each time. */
static inline int bm_events_linger(int set, int64_t most) {
    struct pollfd one = {.fd = set, .events = POLLIN};
    int64_t until = bm_now() + most;
    do {
        if (poll(&one, 1, 0) != 0) return 1;
        sched_yield();
    } while (bm_now() < until);
    return 0;
}

/* Acknowledges by now what came by TCP: the other side may hold back the rest until then (RFC 1122 section 4.2.3.4). */
static inline void bm_acknowledge(int fd) {
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
}

#else
#define BM_EVENTS 0
enum { BM_IN = 1, BM_OUT = 4 };
typedef struct bm_event { void *owner; } bm_event;

static inline int bm_events_open(void) { return -1; }
static inline int bm_events_watch(int set, int fd, unsigned before, unsigned what, void *owner) {
    return (void)set, (void)fd, (void)before, (void)what, (void)owner, -1;
}
static inline int bm_events_mute(int set, int inner, int muted) { return (void)set, (void)inner, (void)muted, -1; }
static inline int bm_events_take(int set, bm_event *found, int most) { return (void)set, (void)found, (void)most, -1; }
static inline void *bm_event_owner(const bm_event *event) { return event->owner; }
static inline unsigned bm_event_what(const bm_event *event) { return (void)event, 0; }
static inline int64_t bm_now(void) { return 0; }
static inline int bm_timer_open(void) { return -1; }
static inline int bm_timer_set(int timer, int64_t at) { return (void)timer, (void)at, -1; }
static inline void bm_events_close(int fd) { (void)fd; }
static inline ptrdiff_t bm_receive(int fd, void *buffer, size_t size) { return (void)fd, (void)buffer, (void)size, -1; }
static inline int bm_events_linger(int set, int64_t most) { return (void)set, (void)most, 0; }
static inline void bm_acknowledge(int fd) { (void)fd; }
#endif
#endif
